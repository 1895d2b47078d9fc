"""An oracle for derivatives: the same residual text with every derivative from nested differentiation of the framework.

`NestedField` uses values of the derivative engine only (a plan of one channel); each derivative is the framework's own,
nested as deep as its order. Slow, and right by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.derivatives.jets import Plan
from backends.names import Index
from backends.pde.field import Field, both_ends
from backends.pde.recorder import evaluate
from backends.pde.task import PdeTask
from backends.task import Context

Array = Any


class NestedField(Field):
    """What a term of `task` reads, differentiated by `ops.nested`."""

    def __init__(
        self, task: PdeTask, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array]
    ) -> None:
        region, problem = task.recordings[batch].region, task.problem
        super().__init__(ops, problem, region, columns)
        self._params, self._given = params, columns
        points = both_ends(ops, problem, region, columns) if region.periodic else columns
        self._at = ops.stack([points[c] for c in problem.coords])
        self._known: dict[Index, Array] = {}

        def fields(at: Array) -> Array:
            moved = dict(zip(problem.coords, ops.unstack(at, 0), strict=True))
            found = task.representation.fields(ops, params, moved, Plan(), problem)
            return ops.concat([found[name].value for name in problem.fields], 0)

        self._fields = fields

    def _value(self, field: str, index: Index) -> Array:
        if index not in self._known:
            names = list(self._problem.coords)
            (self._known[index],) = self.ops.nested(self._fields, self._at, [tuple(names.index(c) for c in index)])
        return self._known[index][self._problem.fields.index(field)]

    def _column(self, name: str) -> Array:
        return self._given[name]

    def _unknown(self, name: str) -> Array:
        return self._params["unknown/" + name]


def nested_terms(
    task: PdeTask, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array]
) -> dict[str, Any]:
    """What `task.per_sample` gives, by nested differentiation."""
    return evaluate(task.problem, task.recordings[batch], NestedField(task, ops, params, batch, columns))


def engine_terms(
    task: PdeTask, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array]
) -> dict[str, Any]:
    """What `task.per_sample` gives, by derivative channels."""
    return dict(task.per_sample(ops, params, batch, columns, Context(task.constants)))
