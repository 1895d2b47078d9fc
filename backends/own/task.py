"""A task made of a user's model, loss and batches (`backends.task.Task`): what Trainer trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.own.batches import BATCH, Form, samples
from backends.own.model import Loss, OwnModel, named_values
from backends.task import Array, Batches, Columns, Context, Feed, Picture, Predict, Reference, Term


@dataclass(frozen=True)
class OwnTask:
    """Named terms of one batch. What a loss gives besides its terms (`metrics`) is computed in every step and
    evaluation, without a gradient, as terms whose weight is 0."""

    model: OwnModel
    loss: Loss
    form: Form
    terms: tuple[Term, ...]
    metrics: frozenset[str] = frozenset()
    constants: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    whole: bool = True
    """Whether some term reduces itself: then the batch is neither cut nor padded."""

    @classmethod
    def of(cls, model: OwnModel, loss: Loss, form: Form, columns: Columns, *, trained_metrics: bool = True) -> OwnTask:
        """The task of a first batch, which the loss is called with once. Raises UserError where it gives no loss.

        trained_metrics: whether metrics are computed while training, too, or in evaluations alone.
        """
        task = cls(model, loss, form, ())
        seen: list[frozenset[str]] = []

        def once(params: Mapping[str, Array], arrays: Mapping[str, Array], aux: Mapping[str, Array]) -> dict[str, Any]:
            context = Context({}, aux, (0, 0))
            values, metrics = task.values(params, arrays, context)
            seen.append(frozenset(metrics))
            return {**values, **metrics}

        shapes = model.shapes(once, columns)
        rows, metrics = samples(columns), seen[0]
        for name, shape in shapes.items():
            if shape not in ((), (rows,)):
                raise UserError(_wrong(loss, name, shape, rows), path="loss")
        terms = tuple(Term(n, "loss", BATCH, trained=n not in metrics or trained_metrics) for n in shapes)
        return cls(model, loss, form, terms, metrics, whole=() in shapes.values())

    @property
    def losses(self) -> tuple[str, ...]:
        """The terms that are minimised."""
        return tuple(t.name for t in self.terms if t.name not in self.metrics)

    def values(
        self, params: Mapping[str, Array], columns: Mapping[str, Array], context: Context
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """(terms, metrics) of a batch. In training it writes the new buffers into `context.updates`."""
        result, aux = self.model.call(self.loss, params, self.form.batch(columns), context)
        if context.training:
            context.updates.update(aux)
        terms, metrics = named_values(result, self.loss)
        return terms, metrics

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """The model's own numbers: the user has drawn them."""
        return self.model.params()

    def aux(self) -> dict[str, NDArray[Any]]:
        return self.model.aux()

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Mapping[str, Array]:
        """Every term and metric; one number, where the loss reduces it itself."""
        terms, metrics = self.values(params, columns, context)
        found = {**terms, **{name: ops.stop_gradient(value) for name, value in metrics.items()}}
        if set(found) != {t.name for t in self.terms}:
            raise UserError(
                f"{self.loss.name} returned the terms {sorted(found)} now and {sorted(t.name for t in self.terms)} "
                "before; they must be the same in every call",
                path="loss",
            )
        rows = samples(columns)
        for name, value in found.items():
            if tuple(value.shape) not in ((), (rows,)):
                raise UserError(_wrong(self.loss, name, tuple(value.shape), rows), path="loss")
        return found

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> Mapping[str, Array]:
        """A user's model predicts by itself."""
        raise UserError("a Trainer has no named outputs; call its model")

    def width(self, batch: str) -> int:
        """The largest side of any weight matrix."""
        sizes = [n for p in self.model.params().values() if p.ndim > 1 for n in p.shape[-2:]]
        return max(sizes, default=64)

    def reduced(self, batch: str) -> bool:
        return self.whole

    def chunk(self, batch: str) -> None:
        return None

    def feed(self, seed: int) -> Feed:
        """Trainer hands the feed to the loop itself."""
        raise TypeError("the data of a Trainer does not belong to its task")

    def held_out(self, count: int) -> Batches:
        return {}

    def reference(self) -> Reference | None:
        return None

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        return {}

    def pictures(self, predict: Predict, samples: Batches | None = None) -> list[Picture]:
        return []


def _wrong(loss: Loss, name: str, shape: tuple[int, ...], rows: int) -> str:
    return (
        f"{loss.name}: {name!r} has the shape {list(shape)} for a batch of {rows} samples; a term is one number, or "
        f"one value per sample: [{rows}]"
    )
