"""A user's own model and loss, in the form in which a task can train them: what the backends' adapters give.

A loss is called in the way that its arguments ask for:

    loss(model, batch)            also with `rng`, `step`, `training` behind: (model, batch, rng, step)
    loss(params, batch, rng)      a first argument called params, parameters or variables gets the arrays alone
    loss(prediction, target)      a first argument called prediction, input, output, y_pred, …; also torch's loss
                                  modules and the names in PAIRS. The batch is then a pair (x, y)
    None                          the model is called with the batch and returns an object with `.loss`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.own.batches import described
from backends.task import Context

Array = Any
Style = Literal["model", "params", "pair", "outputs"]
TOTALS = ("loss", "total_loss")
"""Entries of a dict that mean: this is the loss, the others are only to be looked at."""
PAIRS = ("mse", "mae", "relative_l2", "cross_entropy", "bce")
"""Losses of (prediction, target) that have a name."""
_PARAMS = ("params", "parameters", "variables", "weights")
_PREDICTIONS = ("prediction", "predictions", "pred", "preds", "input", "output", "outputs", "y_pred", "y_hat", "logits")
_RNG, _STEP, _TRAINING = ("rng", "rngs", "key"), ("step", "global_step"), ("training", "train")


class OwnModel(Protocol):
    """A user's model as a backend calls it: its numbers handed over for each call, nothing kept in the module."""

    name: str

    def params(self) -> dict[str, NDArray[np.float64]]:
        """What is trained; names that contain `frozen/` are not."""
        ...

    def aux(self) -> dict[str, NDArray[Any]]:
        """Buffers: what changes without a gradient."""
        ...

    def call(
        self, loss: Loss, params: Mapping[str, Array], batch: Any, context: Context
    ) -> tuple[Any, dict[str, Array]]:
        """(what the loss returns, new buffers) for a batch of the framework's arrays."""
        ...

    def shapes(
        self, function: Callable[..., dict[str, Array]], columns: Mapping[str, NDArray[Any]]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of what `function(params, columns, aux)` returns, found without training."""
        ...

    def trained(self, params: Mapping[str, NDArray[Any]], aux: Mapping[str, NDArray[Any]]) -> Any:
        """The user's model with these numbers: a torch module itself, written into, else a new object."""
        ...


@dataclass(frozen=True)
class Loss:
    """A user's loss, and how it wants to be called."""

    function: Any
    style: Style
    extras: tuple[str, ...] = ()
    """What comes after (model, batch), in order: `rng`, `step`, `training`, by position or by `name=`."""

    @classmethod
    def of(cls, function: Any) -> Loss:
        """Read off the signature. Raises UserError where it can't be called with what a step has."""
        if function is None:
            return cls(None, "outputs")
        if isinstance(function, str):
            if function not in PAIRS:
                raise UserError(f"there is no loss {function!r}{nearest(function, PAIRS)}", path="loss")
            return cls(function, "pair")
        if not callable(function):
            raise UserError(f"the loss is {described(function)}; it must be a function of (model, batch)", path="loss")
        kind: Any = type(function)
        if any(c.__name__ == "Module" and c.__module__.startswith("torch.nn") for c in kind.__mro__):
            return cls(function, "pair")
        return cls._of_signature(function)

    @classmethod
    def _of_signature(cls, function: Any) -> Loss:
        name = getattr(function, "__name__", type(function).__name__)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return cls(function, "model")
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(places) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise UserError(f"the loss {name} takes {len(places)} arguments; it needs (model, batch)", path="loss")
        first = places[0].name if places else "model"
        style: Style = "params" if first in _PARAMS else "pair" if first in _PREDICTIONS else "model"
        extras: list[str] = []
        for k, p in enumerate(parameters[2:], 2):
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            word = _word(p.name) or ({2: "rng", 3: "step"}.get(k) if p.default is p.empty else None)
            if word is None and p.default is p.empty:
                raise UserError(
                    f"the loss {name} asks for {p.name!r}, which a step does not have; after (model, batch) it may ask "
                    "for rng, step and training",
                    path="loss",
                )
            if word is not None:
                keyword = p.kind is p.KEYWORD_ONLY or p.default is not p.empty
                extras.append(f"{p.name}={word}" if keyword else word)
        return cls(function, style, tuple(extras))

    @property
    def name(self) -> str:
        """For messages."""
        if isinstance(self.function, str):
            return self.function
        return getattr(self.function, "__name__", type(self.function).__name__) if self.function else "the model"

    def run(self, subject: Any, batch: Any, rng: Any, step: Any, training: bool) -> Any:
        """Call a function of (model or params, batch)."""
        known = {"rng": rng, "step": step, "training": training}
        placed = [known[e] for e in self.extras if "=" not in e]
        named = {e.partition("=")[0]: known[e.partition("=")[2]] for e in self.extras if "=" in e}
        return self.function(subject, batch, *placed, **named)


def _word(name: str) -> str | None:
    for word, names in (("rng", _RNG), ("step", _STEP), ("training", _TRAINING)):
        if name in names:
            return word
    return None


def pair_of(batch: Any, loss: Loss) -> tuple[Any, Any]:
    """(x, y) of a batch. Raises UserError where it is none."""
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(values, tuple | list) and len(values) == 2:
        return values[0], values[1]
    raise UserError(
        f"the loss {loss.name} compares predictions with targets, so a batch is a pair (x, y); it is "
        f"{described(batch)}. Write a loss of (model, batch) for anything else",
        path="loss",
    )


def outputs_of(model: Any, batch: Any) -> Any:
    """What the model returns for the batch: its entries by name, or one after the other."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def compared(name: str, prediction: Any, target: Any, xp: Any) -> Any:
    """One of PAIRS, per sample; `xp` has the framework's abs, sum, log_softmax and softplus.

    `relative_l2` is |p - y| / |y| of each sample (Li et al., arXiv 2010.08895, the loss of operator learning).
    Raises UserError where the shapes don't fit.
    """
    if not hasattr(prediction, "shape"):
        raise UserError(
            f"the model returned {described(prediction)}; the loss {name!r} needs one array. Write a loss of (model, "
            "batch) that picks it"
        )
    if name == "cross_entropy":
        if prediction.ndim != target.ndim + 1 or tuple(prediction.shape[:1]) != tuple(target.shape[:1]):
            raise UserError(_unlike(name, prediction, target, "logits [samples, classes] and labels [samples]"))
        return xp.cross_entropy(prediction, target)
    if tuple(prediction.shape) != tuple(target.shape):
        raise UserError(_unlike(name, prediction, target, "two arrays of one shape"))
    rows = int(prediction.shape[0])
    p, y = prediction.reshape(rows, -1), target.reshape(rows, -1)
    if name == "bce":
        return xp.mean(xp.softplus(p) - p * y)
    if name == "relative_l2":
        return (xp.sum((p - y) ** 2) / xp.sum(y**2)) ** 0.5
    return xp.mean(xp.abs(p - y) if name == "mae" else (p - y) ** 2)


def _unlike(name: str, prediction: Any, target: Any, needed: str) -> str:
    return (
        f"the loss {name!r} needs {needed}; the model returned {described(prediction)} and the target is "
        f"{described(target)}"
    )


def named_values(result: Any, loss: Loss) -> tuple[dict[str, Array], dict[str, Array]]:
    """(terms, what is only looked at) from whatever a loss returns. Raises UserError where there is no loss in it."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        terms, seen = named_values(result[0], loss)
        return terms, {**seen, **_scalars(result[1], terms)}
    if isinstance(result, Mapping) and not hasattr(result, "shape"):
        total = next((result[k] for k in TOTALS if k in result and result[k] is not None), None)
        if total is None:
            return _checked(dict(result), loss, result), {}
        rest = {k: v for k, v in result.items() if k not in TOTALS}
        return _checked({"loss": total}, loss, result), _scalars(rest, {"loss": total})
    inner = getattr(result, "loss", None)
    if inner is not None and not hasattr(result, "shape"):
        return _checked({"loss": inner}, loss, result), {}
    return _checked({"loss": result}, loss, result), {}


def _checked(terms: dict[str, Any], loss: Loss, result: Any) -> dict[str, Any]:
    if not terms or any(not hasattr(v, "shape") or not hasattr(v, "dtype") for v in terms.values()):
        hint = ""
        if loss.style == "outputs":
            hint = "; give Trainer a `loss=`, such as a function of (model, batch) or 'mse'"
        elif any(isinstance(v, float | int) for v in terms.values()):
            hint = "; a plain number has lost its gradient (leave out `.item()` and `float(…)`)"
        raise UserError(
            f"{loss.name} returned {described(result)}; a loss is one number, one value per sample, a dict of named "
            f"terms, or an object with `.loss`{hint}",
            path="loss",
        )
    return terms


def _scalars(values: Mapping[str, Any], terms: Mapping[str, Any]) -> dict[str, Any]:
    """Single numbers besides the loss; anything larger is left alone."""
    return {k: v for k, v in values.items() if k not in terms and hasattr(v, "dtype") and tuple(v.shape) == ()}
