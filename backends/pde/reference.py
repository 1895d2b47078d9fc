"""A problem's reference solution, checked, and the grid on which `error/l2` is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blamed
from backends.errors import UserError
from backends.pde.domain import beyond, shape_of
from backends.pde.parameters import GRID, at, parameters, spread, swept
from backends.randomness import generator
from backends.task import Columns, Reference

if TYPE_CHECKING:
    from backends.pde.problem import Problem

DEFAULT_GRID = {1: 200, 2: 100, 3: 30}
"""Grid points per coordinate, by the number of coordinates; beyond, SCATTERED points stand for a grid."""
SCATTERED = 10_000


def reference(problem: Problem) -> Reference | None:
    """The problem's solution on its reference grid; None where it has none. Raises UserError where it is unusable."""
    if not problem.has_solution():
        return None
    size = DEFAULT_GRID.get(len(problem.coords) - len(parameters(problem)))
    if size is None and not problem.reference_grid:
        rng = generator(0, "reference points")
        points = {c: spread(problem, c, rng.uniform(0.0, 1.0, SCATTERED)) for c in problem.coords}
        return _known(problem, _within(problem, points))
    axes = axes_of(problem, size or 10)
    points = grid(axes)
    if shape_of(problem) is not None:
        return _known(problem, _within(problem, points))
    return Reference(points, solved(problem, points), tuple(map(len, axes.values())), tuple(axes))


def axes_of(problem: Problem, size: int) -> dict[str, NDArray[np.float64]]:
    """The axes of the reference grid: `size` values of a coordinate of which the problem does not say its own."""
    usual = {**dict.fromkeys(problem.coords, size), **dict.fromkeys(parameters(problem), GRID)}
    counts = {**usual, **problem.reference_grid}
    return {c: spread(problem, c, np.linspace(0.0, 1.0, counts[c])) for c in problem.coords}


def _within(problem: Problem, points: Columns) -> dict[str, NDArray[np.float64]]:
    """The points that lie in the geometry."""
    rows = ~beyond(problem, points)
    if not rows.any():
        raise UserError("no point of the reference grid lies in the geometry; give a finer `reference_grid`")
    return {c: v[rows] for c, v in points.items()}


def _known(problem: Problem, points: Columns) -> Reference:
    return Reference(points, solved(problem, points))


def solved(problem: Problem, points: Columns) -> dict[str, NDArray[np.float64]]:
    """The reference solution at points, checked: every field, one finite value per point.

    Of a family of problems one member after the other: a solution is written for numbers, not for arrays of them.
    """
    names = swept(problem)
    if not names:
        with blamed(problem, "solution"):
            return _checked(problem.solution(points), problem, points)
    members, which = np.unique(np.stack([points[n] for n in names]), axis=1, return_inverse=True)
    out = {f: np.empty(len(points[names[0]])) for f in problem.fields}
    for k, values in enumerate(members.T):
        rows = np.flatnonzero(which.ravel() == k)
        with blamed(problem, "solution"):
            some = {c: v[rows] for c, v in points.items()}
            member = at(problem, dict(zip(names, map(float, values), strict=True)))
            found = _checked(member.solution(some), problem, some)
        for f in problem.fields:
            out[f][rows] = found[f]
    return out


def _checked(given: Any, problem: Problem, points: Columns) -> dict[str, NDArray[np.float64]]:
    if not isinstance(given, Mapping):
        raise UserError(f"must return {{field: array}}, not {type(given).__name__}")
    shape = next(iter(points.values())).shape
    values = {}
    for name in problem.fields:
        if name not in given:
            raise UserError(f"returns no {name!r}; every field is needed")
        values[name] = np.asarray(given[name], np.float64)
        if values[name].shape != shape or not np.isfinite(values[name]).all():
            raise UserError(f"{name!r} must hold one finite value per point, {shape}")
    return values


def grid(axes: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """All points of a grid in C order, as columns."""
    meshed = np.meshgrid(*axes.values(), indexing="ij")
    return {c: m.ravel() for c, m in zip(axes, meshed, strict=True)}
