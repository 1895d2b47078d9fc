"""A problem's reference solution, checked, and the grid on which `error/l2` is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blamed
from backends.errors import UserError
from backends.randomness import generator
from backends.task import Columns, Reference

if TYPE_CHECKING:
    from backends.problem import Problem

DEFAULT_GRID = {1: 200, 2: 100, 3: 30}
"""Grid points per coordinate, by the number of coordinates; beyond, SCATTERED points stand for a grid."""
SCATTERED = 10_000


def reference(problem: Problem) -> Reference | None:
    """The problem's solution on its reference grid; None where it has none. Raises UserError where it is unusable."""
    if not problem.has_solution():
        return None
    size = DEFAULT_GRID.get(len(problem.coords))
    if size is None and not problem.reference_grid:
        rng = generator(0, "reference points")
        points = {c: rng.uniform(low, high, SCATTERED) for c, (low, high) in problem.box().items()}
        return Reference(points, solved(problem, points))
    axes = {c: np.linspace(*bounds, problem.reference_grid.get(c, size or 10)) for c, bounds in problem.box().items()}
    points = grid(axes)
    return Reference(points, solved(problem, points), tuple(map(len, axes.values())), tuple(axes))


def solved(problem: Problem, points: Columns) -> dict[str, NDArray[np.float64]]:
    """The reference solution at points, checked: every field, one finite value per point."""
    with blamed(problem, "solution"):
        return _checked(problem.solution(points), problem, points)


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
