"""The domain of a problem: its geometry in space, times the intervals of time and of parameters.

A problem without a geometry fills the box of its coordinates. Otherwise the geometry lies in that box, which still
scales the network's inputs. Points that a file lists for a part of the boundary stand for that part (`clouds`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blamed
from backends.errors import UserError
from backends.geometry.primitives import Box
from backends.geometry.sampling import filled
from backends.geometry.shape import Shape
from backends.pde.parameters import parameters
from backends.task import Columns

if TYPE_CHECKING:
    from backends.pde.problem import Problem

FROM_FILE = "file"
"""`geometry = "file"`: the experiment names a mesh (`geometry: {path: …}`), or points of each part."""
SLACK = 1e-9
"""How far outside a point may lie, relative to the domain's size."""


def spatial(problem: Problem | type[Problem]) -> tuple[str, ...]:
    """The coordinates in space: all but time and parameters."""
    aside = {problem.time, *parameters(problem)}
    return tuple(c for c in problem.coords if c not in aside)


def odd(problem: Problem, field: str) -> tuple[str, ...]:
    """The coordinates in whose middle a field changes its sign (`symmetry`)."""
    kinds = {c: k.get(field, "even") if isinstance(k, Mapping) else k for c, k in problem.symmetry.items()}
    return tuple(c for c, kind in kinds.items() if kind == "odd")


def shape_of(problem: Problem) -> Shape | None:
    """The geometry; None where the domain is the box of the coordinates."""
    return problem._shape  # pyright: ignore[reportPrivateUsage]


def shape_or_box(problem: Problem) -> Shape:
    """The geometry, or the box of the coordinates in space."""
    names, box = spatial(problem), problem.box()
    return shape_of(problem) or Box(tuple(box[c][0] for c in names), tuple(box[c][1] for c in names))


def clouds_of(problem: Problem) -> Mapping[str, Columns]:
    """Part of the boundary -> its points, where a file lists them."""
    return problem._clouds  # pyright: ignore[reportPrivateUsage]


def put(problem: Problem, shape: Shape | None, clouds: Mapping[str, Columns]) -> Problem:
    """The problem in another geometry (None: its own), with the points of files."""
    same = problem.model_copy()
    kept: dict[str, Any] = vars(same)
    kept["_clouds"] = dict(clouds)
    if shape is not None:
        _fits(same, shape)
        kept["_shape"] = shape
    return same


def declared(problem: Problem) -> Shape | None:
    """What the class says. Raises UserError where it is no shape, is empty, or reaches out of the coordinates' box."""
    given: Any = problem.geometry
    if given is None or given == FROM_FILE:
        return None
    if not callable(given):
        _fits(problem, given)
        return given
    with blamed(problem, "geometry"):
        shape: Any = given()
        _fits(problem, shape)
        return shape


def read_by(problem: Problem) -> frozenset[str]:
    """The float fields that decide the geometry: they can't change while it trains."""
    method = type(problem).geometry
    if not inspect.isfunction(method):
        return frozenset()
    reader = _Reader(problem)
    method(reader)
    return frozenset(reader.seen)


class _Reader:
    """Stands in for the problem: notes the float fields that are read."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.seen = problem, set[str]()

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(type(self.problem), name, None)
        if isinstance(found, property) and found.fget:
            return found.fget(self)
        if inspect.isfunction(found):
            return found.__get__(self)
        if name in type(self.problem).float_fields():
            self.seen.add(name)
        return getattr(self.problem, name)


def _fits(problem: Problem, shape: Any) -> None:
    names = spatial(problem)
    if not isinstance(shape, Shape):
        raise UserError(f"geometry must be a shape (Rectangle(…) - Disk(…)), not {type(shape).__name__}")
    if shape.dimension != len(names):
        raise UserError(
            f"the geometry has {shape.dimension} axes, and there are {len(names)} coordinates in space: "
            f"{', '.join(names) or 'none'}"
        )
    box = problem.box()
    for name, low, high in zip(names, *shape.bounds(), strict=True):
        slack = SLACK * (box[name][1] - box[name][0])
        if low < box[name][0] - slack or high > box[name][1] + slack:
            raise UserError(
                f"the geometry reaches from {name} = {low:g} to {high:g}, beyond the coordinate's bounds, "
                f"{box[name][0]:g} … {box[name][1]:g}; widen `coords`"
            )
    filled(shape)


def positions(problem: Problem, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """[n, axes]: the coordinates in space."""
    return np.stack([np.asarray(columns[c], np.float64) for c in spatial(problem)], 1)


def beyond(problem: Problem, columns: Mapping[str, NDArray[Any]], slack: float = SLACK) -> NDArray[np.bool_]:
    """Which points lie outside the geometry (not: outside the box), by more than `slack` of its size."""
    shape = shape_of(problem)
    if shape is None:
        return np.zeros(len(next(iter(columns.values()))), bool)
    return ~shape.contains(positions(problem, columns), slack * shape.size)
