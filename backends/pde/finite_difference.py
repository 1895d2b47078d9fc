"""A Field of a numpy function, differentiated by central differences: proves an equation against its reference.

    residuals(Burgers(), "pde")            # of Burgers' own reference solution: zero to the differences' error

No network and no framework take part, so a wrong sign in an equation, or in its reference, can't hide. Stencils of
any order come from Fornberg, Math. Comp. 51 (1988) 699-706.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.names import EXACT, Index
from backends.ops import NumpyOps
from backends.pde.domain import positions, shape_of, spatial
from backends.pde.field import Field, both_ends
from backends.pde.parameters import swept
from backends.pde.recorder import evaluate, record
from backends.pde.reference import solved
from backends.pde.regions import Region, draw
from backends.randomness import generator
from backends.task import Columns

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Solution = Callable[[Columns], Mapping[str, NDArray[np.float64]] | None]
ORDER = 8
"""Power of the step in the error of a stencil."""


class DifferenceField(Field):
    """Values of `solution` at the columns' points, and its derivatives by differences of width `step`."""

    def __init__(
        self,
        problem: Problem,
        columns: Columns,
        solution: Solution,
        *,
        region: Region = Region(),  # noqa: B008 (frozen)
        unknowns: Mapping[str, float] | None = None,
        step: float = 2e-3,
    ) -> None:
        """`step`: relative to the extent of each coordinate; `unknowns`: default the problem's true values."""
        super().__init__(NumpyOps(), problem, region, columns)
        self._given, self._solution, self._step = columns, solution, step
        self._unknowns = problem.true_values() if unknowns is None else unknowns
        self._points = both_ends(self.ops, problem, region, columns) if region.periodic else columns

    def _value(self, field: str, index: Index) -> NDArray[np.float64]:
        coords = sorted(set(index))
        extents = {c: high - low for c, (low, high) in self._problem.box().items()}
        stencils = [stencil(index.count(c)) for c in coords]
        total: Any = 0.0
        for offsets in itertools.product(*(range(len(s)) for s in stencils)):
            weight = math.prod(s[i] for s, i in zip(stencils, offsets, strict=True))
            if weight:
                moved = dict(self._points)
                for c, s, i in zip(coords, stencils, offsets, strict=True):
                    moved[c] = moved[c] + (i - len(s) // 2) * self._step * extents[c]
                total = total + weight * self._at(field, moved)
        return total / math.prod((self._step * extents[c]) ** index.count(c) for c in coords)

    def _at(self, field: str, points: Columns) -> NDArray[np.float64]:
        values = self._solution({c: points[c] for c in self._problem.coords})
        if values is None or field not in values:
            raise UserError(f"{type(self._problem).__name__}: the solution says nothing of {field!r}")
        return values[field]

    def _column(self, name: str) -> NDArray[Any]:
        return self._given[name]

    def _unknown(self, name: str) -> float:
        if name not in self._unknowns:
            raise UserError(f"{type(self._problem).__name__}: the true value of {name!r} is not known (truth)")
        return self._unknowns[name]


@lru_cache(maxsize=64)
def stencil(derivative: int, order: int = ORDER) -> tuple[float, ...]:
    """Weights of the central stencil of unit step for the n-th derivative, exact to the power `order` of the step.

    The weights solve sum_i w_i i^p = n! if p = n else 0, for p = 0 … 2m.
    """
    if derivative == 0:
        return (1.0,)
    m = (derivative + order - 1) // 2
    nodes = np.arange(-m, m + 1)
    powers = nodes[None, :].astype(np.float64) ** np.arange(2 * m + 1)[:, None]
    wanted = np.zeros(2 * m + 1)
    wanted[derivative] = math.factorial(derivative)
    weights = np.linalg.solve(powers, wanted)
    weights = 0.5 * (weights + (-1) ** derivative * weights[::-1])  # the symmetry that rounding lost
    return tuple(float(w) for w in weights)


def residuals(
    problem: Problem,
    method: str,
    *,
    count: int = 100,
    solution: Solution | None = None,
    unknowns: Mapping[str, float] | None = None,
    step: float = 2e-3,
    margin: float = 0.02,
) -> dict[str, NDArray[np.float64]]:
    """The terms of one marked method for a given function, at random points of its region.

    `solution` defaults to the problem's own; `margin`: points inside keep this distance from the boundary (relative to
    the domain's extent; in a geometry nearer ones are left out), because differences reach beyond a point. A vector
    residual becomes its 2-norm.
    """
    region = problem.region(method)
    columns = draw(problem, region, (), count, "uniform", generator(0, "differences", method))
    if region.interior:
        shape, space = shape_of(problem), spatial(problem)
        held = () if shape is None else space
        columns = {c: v if c in held else _inset(v, problem.box()[c], margin) for c, v in columns.items()}
        if shape is not None:
            deep = shape.signed_distance(positions(problem, columns)) < -margin * shape.size
            columns = {c: v[deep] for c, v in columns.items()}
    recording = record(problem, region, (method,), columns)
    if recording.exact:
        known = solved(problem, {c: columns[c] for c in problem.coords})
        columns = {**columns, **{EXACT + f: known[f] for f in recording.exact}}
    known = solution or (partial(solved, problem) if swept(problem) else problem.solution)
    f = DifferenceField(problem, columns, known, region=region, unknowns=unknowns, step=step)
    values = evaluate(problem, recording, f)
    return {n: np.sqrt(sum(np.square(p) for p in v)) if isinstance(v, tuple) else v for n, v in values.items()}


def _inset(values: NDArray[np.float64], bounds: tuple[float, float], margin: float) -> NDArray[np.float64]:
    low, high = bounds
    return low + (high - low) * margin + (values - low) * (1.0 - 2.0 * margin)
