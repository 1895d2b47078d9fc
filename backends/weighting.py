"""Weights of the loss terms: fixed, balanced by gradient norms, or by the progress of the losses.

Each rule is a pair of pure numpy functions over an explicit state. Every rule is bounded: a weight stays within
[`low`, `high`] times the mean of all, so none runs away, and what is not finite changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError, nearest
from backends.randomness import generator
from backends.spec import Leaf

Weights = dict[str, float]


class _Rule(Leaf):
    needs: ClassVar[frozenset[str]] = frozenset()
    """What `update` must be shown: any of losses, grad_norms."""

    values: dict[str, NonNegativeFloat] = {}
    """Weight of each term by name (where the rule adapts them: at the start). Default: 1."""

    def start(self, terms: Sequence[str]) -> Weights:
        """The weights before the first step."""
        return {term: float(self.values.get(term, 1.0)) for term in terms}


class FixedWeights(_Rule):
    """Weights that stay as they are."""

    kind: Literal["fixed"] = "fixed"

    @model_validator(mode="after")
    def _something_to_train_on(self) -> FixedWeights:
        if self.values and not any(self.values.values()):
            raise PydanticCustomError("own_weights", "every weight is 0: there would be nothing to train on")
        return self


class _Adaptive(_Rule):
    every: PositiveInt = 100
    """Optimizer steps between updates."""
    low: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Smallest weight, as a fraction of the mean weight."""
    high: Annotated[float, Field(ge=1)] = 1e3
    """Largest weight, as a multiple of the mean weight."""


class GradientNorms(_Adaptive):
    """Balances the norms of the terms' gradients: w_k = sum_j |g_j| / |g_k| (Wang et al., arXiv 2308.08468).

    Moving average with factor `alpha`; the mean weight is kept at that of `values`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_norms"})
    kind: Literal["gradient_norms"] = "gradient_norms"
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of the old weights is kept at each update."""


class ReLoBRaLo(_Adaptive):
    """Relative loss balancing with random lookback (Bischof and Kraus, arXiv 2110.09813, section 3.3).

    Weights are a softmax of each loss's progress, over the last update or (with probability 1 - `rho`) since the
    start, times the number of terms; terms that progress slowly gain.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    kind: Literal["relobralo"] = "relobralo"
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """How much of the old weights is kept at each update."""
    rho: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Expected share of updates that look back at the last one only, not at the start."""
    temperature: PositiveFloat = 0.1
    """Of the softmax: small values favour the slowest term, large ones weigh all alike."""


WeightsSpec = Annotated[FixedWeights | GradientNorms | ReLoBRaLo, Field(discriminator="kind")]


def check(spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str]) -> None:
    """Raises UserError where a weight is given for a term that the loss does not have."""
    for name in spec.values:
        if name not in terms:
            raise UserError(f"the loss has no term {name!r}{nearest(name, terms)}", path=f"weights.values.{name}")


def init(spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str]) -> dict[str, Any]:
    """The state before the first update: JSON-able."""
    return {"weights": spec.start(terms), "first": None, "last": None}


def update(
    spec: FixedWeights | GradientNorms | ReLoBRaLo,
    state: Mapping[str, Any],
    *,
    seed: int,
    step: int,
    seen: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """The next state. `seen` holds what `spec.needs` names, one number per term; unchanged where it is not finite."""
    names = list(state["weights"])
    old = np.array([state["weights"][k] for k in names])
    if isinstance(spec, GradientNorms):
        norms = np.asarray(seen["grad_norms"], np.float64)
        if not np.isfinite(norms).all() or not norms.any():
            return dict(state)
        target = norms.sum() / np.maximum(norms, norms.max() * 1e-12)
        target *= _mean(spec, names) / _bounded(spec, target).mean()
        weights = spec.alpha * old + (1 - spec.alpha) * _bounded(spec, target)
        return {**state, "weights": dict(zip(names, _bounded(spec, weights).tolist()))}
    if isinstance(spec, ReLoBRaLo):
        return _relative_progress(spec, state, names, old, np.asarray(seen["losses"], np.float64), seed, step)
    return dict(state)


def _relative_progress(
    spec: ReLoBRaLo,
    state: Mapping[str, Any],
    names: list[str],
    old: NDArray[np.float64],
    losses: NDArray[np.float64],
    seed: int,
    step: int,
) -> dict[str, Any]:
    """Equations 11 to 13 of the paper, with the number of terms as the sum of the weights."""
    if not np.isfinite(losses).all():
        return dict(state)
    if state["first"] is None:
        return {**state, "first": losses.tolist(), "last": losses.tolist()}
    start = np.array([float(spec.values.get(k, 1.0)) for k in names])
    since_last = start * _softmax(losses, np.array(state["last"]), spec.temperature)
    since_first = start * _softmax(losses, np.array(state["first"]), spec.temperature)
    look_back = generator(seed, "relobralo", step).random() >= spec.rho
    history = since_first if look_back else old
    weights = spec.alpha * history + (1 - spec.alpha) * since_last
    return {**state, "weights": dict(zip(names, _bounded(spec, weights).tolist())), "last": losses.tolist()}


def _softmax(now: NDArray[np.float64], then: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    ratio = now / np.maximum(temperature * then, np.finfo(np.float64).tiny)
    ratio = np.minimum(ratio, 1e300)
    e = np.exp(ratio - ratio.max())
    return len(now) * e / e.sum()


def _mean(spec: _Rule, names: Sequence[str]) -> float:
    return float(np.mean([spec.values.get(k, 1.0) for k in names])) or 1.0


def _bounded(spec: _Adaptive, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = weights.mean()
    return np.clip(weights, spec.low * mean, spec.high * mean)


@dataclass
class Weighting:
    """A rule with its state, as the loop holds it."""

    spec: FixedWeights | GradientNorms | ReLoBRaLo
    seed: int
    kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str], seed: int) -> Weighting:
        """The rule before the first step. Raises UserError for unknown terms."""
        check(spec, terms)
        return cls(spec, seed, init(spec, terms))

    @property
    def weights(self) -> Weights:
        """Present weights by term."""
        return dict(self.kept["weights"])

    @property
    def every(self) -> int | None:
        """Steps between updates; None where nothing is ever updated."""
        return getattr(self.spec, "every", None)

    @property
    def needs(self) -> frozenset[str]:
        """What `update` must be shown."""
        return self.spec.needs

    def update(self, step: int, seen: Mapping[str, NDArray[np.float64]]) -> Weights:
        """Update and return the weights."""
        self.kept = update(self.spec, self.kept, seed=self.seed, step=step, seen=seen)
        return self.weights

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(self.kept)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.kept = dict(state)
