"""The yardstick: unweighted terms on fixed held-out points, and the error against the reference.

None of it depends on weights, network or seed, so runs can be compared by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Backend
from backends.task import Batches, Columns, Predict, Reference, Task


@dataclass(frozen=True)
class Yardstick:
    """What every run of a task is measured on."""

    task: Task
    held_out: Batches
    reference: Reference | None

    @classmethod
    def of(cls, task: Task, points: int) -> Yardstick:
        """The task's held-out samples, about `points` of the largest set, and its reference."""
        return cls(task, task.held_out(points), task.reference())

    def measure(self, backend: Backend[Any], state: Any) -> dict[str, float]:
        """`validation/<term>`, `validation/total`, and where there is a reference `error/l2`; unknown constants;
        `variance/<term>` of estimated terms."""
        terms = backend.evaluate(state, self.held_out)
        scales = {t.name: t.scale for t in self.task.terms if t.counted}
        metrics = {f"validation/{name}": value for name, value in terms.items()}
        metrics["validation/total"] = sum(terms[name] / scale for name, scale in scales.items() if name in terms)
        if self.reference is not None:
            values = predictor(self.task, backend, state)(tuple(self.reference.values), self.reference.points)
            metrics.update(relative_errors(values, self.reference.values))
        metrics.update(self.task.readings(backend.parameters(state)))
        metrics.update(self._variances(backend, state))
        return metrics

    def _variances(self, backend: Backend[Any], state: Any) -> dict[str, float]:
        """`variance/<term>` of terms whose Laplacian is estimated in training: the mean over the held-out samples."""
        found: dict[str, float] = {}
        estimated: Mapping[str, tuple[str, ...]] = getattr(self.task, "estimated", {})
        for batch, terms in estimated.items():
            names = tuple(f"variance/{t}" for t in terms)
            values = backend.predict(state, names, self.held_out[batch])
            found |= {name: float(np.mean(values[name])) for name in names}
        return found


def relative_errors(
    values: Mapping[str, NDArray[np.float64]], truth: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    """`error/l2` = |u - u*|_2 / |u*|_2 over all fields together; `error/l2/<field>` as well where there are several."""
    wrong = {k: float(np.sum((values[k].reshape(truth[k].shape) - truth[k]) ** 2)) for k in truth}
    size = {k: float(np.sum(truth[k] ** 2)) for k in truth}
    errors = {"error/l2": _ratio(sum(wrong.values()), sum(size.values()))}
    if len(truth) > 1:
        errors.update({f"error/l2/{k}": _ratio(wrong[k], size[k]) for k in truth})
    return errors


def _ratio(wrong: float, size: float) -> float:
    """sqrt(wrong / size); the absolute error where the truth is zero."""
    return float(np.sqrt(wrong / size if size > 0 else wrong))


def predictor(task: Task, backend: Backend[Any], state: Any) -> Predict:
    """`predict(names, columns)` bound to a state, with the laws fulfilled on which the task projects."""

    def predict(names: Sequence[str], columns: Columns) -> Mapping[str, NDArray[np.float64]]:
        return backend.predict(state, tuple(names), columns)

    projection = getattr(task, "projection", None)
    return predict if projection is None else partial(projection.predict, predict)
