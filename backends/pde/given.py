"""What the user's files say about a PDE problem: what was measured, and the solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blaming
from backends.data import Observations, Solution
from backends.errors import UserError, nearest
from backends.pde.domain import beyond, clouds_of, put, shape_of
from backends.pde.given_points import inside_box, inside_of
from backends.pde.marks import residual
from backends.pde.reference import grid
from backends.points.feed import fingerprint
from backends.tables import read_arrays, read_table
from backends.task import Columns, Reference

if TYPE_CHECKING:
    from backends.pde.problem import Problem

TERM, REGION, OBSERVED = "data", "observations", "observed_"
"""The term of `data: {kind: observations}`, its set of points, and the prefix of its columns."""


# --- observations ---


@dataclass(frozen=True)
class _Measured:
    """Columns that were measured; equal where names and numbers are."""

    names: tuple[str, ...]
    digest: int
    columns: Columns = field(compare=False)


def observing(problem: Problem, data: Observations, folder: Path) -> Problem:
    """The problem with a term `data`: the fields minus what a file says they are at its points.

    Raises UserError where the file is unusable or the problem has that name already.
    """
    cls = type(problem)
    for taken in (TERM, REGION):
        if hasattr(problem, taken) or taken in cls.fields or taken in cls.unknowns:
            raise UserError(
                f"{cls.__name__} has {taken!r} already, the name that `kind: observations` needs; rename it there",
                path="data.kind",
            )
    names = _some_of(cls.fields, data.fields, "data.fields")
    with blaming("data.path"):
        path = folder / data.path
        columns = read_table(path, [*problem.coords, *names])
        inside_of(path, columns, problem)
    measured = {OBSERVED + n if n in names else n: v for n, v in columns.items()}
    made = _with_term(cls, _Measured(names, fingerprint({REGION: measured}), measured))
    same: Any = made.model_construct(problem.model_fields_set, **dict(problem))
    object.__setattr__(same, "__pydantic_private__", problem.__pydantic_private__)
    return put(same, shape_of(problem), clouds_of(problem))


@lru_cache(maxsize=32)
def _with_term(cls: type[Problem], measured: _Measured) -> type[Problem]:
    """A class with one more term; the same for the same numbers, so that programs are shared."""

    def observations(self: Problem, rng: np.random.Generator) -> Columns:
        return measured.columns

    @residual(at=REGION)
    def data(self: Problem, f: Any) -> Any:
        misfits = [f(name) - f(OBSERVED + name) for name in measured.names]
        return tuple(misfits) if len(misfits) > 1 else misfits[0]

    body = {REGION: observations, TERM: data, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    metaclass: Any = type(cls)
    return metaclass(cls.__name__, (cls,), {**body, "__doc__": cls.__doc__})


def _some_of(known: Sequence[str], asked: Sequence[str], path: str) -> tuple[str, ...]:
    for name in asked:
        if name not in known:
            raise UserError(f"{name!r} is no field{nearest(name, known)}", path=path)
    return tuple(asked) or tuple(known)


# --- the solution ---


def solution_in(problem: Problem, given: Solution, folder: Path) -> Reference:
    """The solution that a file holds: on a grid, where its points are one, else scattered. Raises UserError."""
    names = _some_of(problem.fields, given.fields, "reference.fields")
    path = folder / given.path
    with blaming("reference.path"):
        axes, values = _read(path, tuple(problem.coords), names)
        inside_box(path, axes, problem.box())
        if next(iter(values.values())).ndim == 1:
            inside_of(path, axes, problem)
    if next(iter(values.values())).ndim == 1:
        return (_gridded(axes, values) if shape_of(problem) is None else None) or Reference(axes, values)
    for i, (c, axis) in enumerate(axes.items()):  # figures want them to rise
        order = np.argsort(axis)
        axes[c], values = axis[order], {n: v.take(order, i) for n, v in values.items()}
    flat = {n: v.ravel() for n, v in values.items()}
    points = grid(axes)
    if shape_of(problem) is not None:  # what a grid says of the outside is no solution
        rows = ~beyond(problem, points)
        return Reference({c: v[rows] for c, v in points.items()}, {n: v[rows] for n, v in flat.items()})
    return Reference(points, flat, tuple(map(len, axes.values())), tuple(axes))


def _read(
    path: Path, coords: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Coordinates and fields: an axis each and arrays of all axes, or columns of one length."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        columns = read_table(path, [*coords, *names])
        return {c: columns[c] for c in coords}, {n: columns[n] for n in names}
    arrays = read_arrays(path, [*coords, *names])
    if len({a.shape for a in arrays.values()}) == 1:  # columns, or what numpy.meshgrid makes
        arrays = {n: a.ravel() for n, a in arrays.items()}
    else:
        _check_axes(path, {c: arrays[c] for c in coords}, {n: arrays[n] for n in names})
    for name, array in arrays.items():
        if not array.size:
            raise UserError(f"{path}: {name!r} is empty")
        if not np.isfinite(array).all():
            place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
            raise UserError(f"{path}: {name!r} is not finite at [{place}]")
    return {c: arrays[c] for c in coords}, {n: arrays[n] for n in names}


def _check_axes(path: Path, axes: Mapping[str, NDArray[Any]], values: Mapping[str, NDArray[Any]]) -> None:
    shape = tuple(a.size for a in axes.values())
    for c, axis in axes.items():
        if axis.ndim != 1 or len(np.unique(axis)) < axis.size:
            raise UserError(f"{path}: {c!r}, of shape {axis.shape}, is no axis of a grid: a 1-d array, no value twice")
    for name, value in values.items():
        if value.shape != shape:
            turned = " (transposed?)" if value.shape == shape[::-1] else ""
            raise UserError(
                f"{path}: {name!r} has shape {value.shape}{turned}; on the axes {', '.join(axes)} it must be {shape}, "
                "or all arrays columns of one length"
            )


def _gridded(points: Columns, values: Mapping[str, NDArray[np.float64]]) -> Reference | None:
    """Columns that are a full grid in any order, as a grid; None where they are not."""
    axes = {c: np.unique(v) for c, v in points.items()}
    rows = len(next(iter(points.values())))
    if np.prod([float(len(a)) for a in axes.values()]) != rows:
        return None
    order = np.lexsort([points[c] for c in reversed(list(axes))])
    full = grid(axes)
    if any((points[c][order] != full[c]).any() for c in axes):
        return None
    return Reference(full, {n: v[order] for n, v in values.items()}, tuple(map(len, axes.values())), tuple(axes))
