"""Functions that vanish on the boundary of a shape, or on a part of it, and are positive inside: for hard constraints.

`distance(shape, "boundary", ops, coordinates)` times a network fulfils Dirichlet's condition. It is a product of
walls (`backends.geometry.walls`) where shapes are intersected or subtracted, hence smooth up to the corners, and
Rvachev's R-disjunction, a + b + sqrt(a² + b²), where they are united: not smooth where two boundaries cross in a
re-entrant corner, where the solution is not either. `normalised=True` has unit slope on the whole boundary (R-functions
throughout; Sukumar and Srivastava, arXiv 2104.08426), at the price of second derivatives that grow towards corners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from backends.derivatives.jets import JetOps, Plan, seed
from backends.errors import UserError
from backends.geometry.csg import Combined
from backends.geometry.sampling import BOUNDARY, inside, remains_of
from backends.geometry.shape import Shape
from backends.geometry.walls import BAND, Jets, Wall, joined, trimmed, walls
from backends.ops import NumpyOps

PROBES = 2000
"""Points by which the largest value of a smooth distance is found."""


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a wall."""

    wall: Wall
    outside: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """All of (`and`) or any of (`or`) several regions."""

    kind: Literal["and", "or"]
    members: tuple[Side | Group, ...]


Region = Side | Group


def distance(shape: Shape, part: str, ops: Any, coordinates: Jets, normalised: bool = False) -> Any:
    """A Jet [1, points] that is zero on the part of the boundary and positive in the rest of the shape.

    `ops`: a `JetOps`; coordinates: Jets [1, points], one per axis. With `normalised` a length, equal to the distance
    to first order at the boundary; else between 0 and about 1. Raises UserError where there is no such part.
    """
    remains_of(shape, part)
    value = _value(shape, part, ops, coordinates, normalised)
    return value if normalised else value * (1.0 / _peak(shape, part))


def _value(shape: Shape, part: str, ops: Any, x: Jets, normalised: bool) -> Any:
    region, small = _region(shape, False), (1e-12 * shape.size) ** 2
    found = [
        _trimmed(member, trims, ops, x, shape.size, smooth=not normalised) for member, trims in _parts(region, part, ())
    ]
    if not found:
        raise UserError(f"there is no smooth distance to {part!r} alone; take the whole boundary")
    out = found[0]
    for other in found[1:]:
        out = joined(ops, ops.features([out, other]), 2, small) if normalised else out * other
    return out


@lru_cache(maxsize=64)
def _peak(shape: Shape, part: str) -> float:
    names = [f"{i}" for i in range(shape.dimension)]
    columns = inside(shape, names, PROBES, "uniform", np.random.default_rng(0))
    plan, ops = Plan(), NumpyOps()
    at = seed(plan, ops, columns)
    with np.errstate(all="ignore"):
        value = _value(shape, part, JetOps(ops, plan), [at[n] for n in names], False).value
    return float(np.max(value)) or 1.0


def _region(shape: Shape, outside: bool) -> Region:
    """The shape, or everything but it, as a tree over sides of walls (de Morgan)."""
    if isinstance(shape, Combined):
        right = outside if shape.kind != "difference" else not outside
        kind = "or" if (shape.kind == "union") != outside else "and"
        return Group(kind, (_region(shape.left, outside), _region(shape.right, right)))
    sides = tuple(Side(w, outside) for w in walls(shape))
    return sides[0] if len(sides) == 1 else Group("or" if outside else "and", sides)


def _complement(region: Region) -> Region:
    if isinstance(region, Side):
        return Side(region.wall, not region.outside)
    return Group("or" if region.kind == "and" else "and", tuple(map(_complement, region.members)))


def _parts(region: Region, part: str, trims: tuple[Region, ...]) -> Iterator[tuple[Region, tuple[Region, ...]]]:
    """The largest regions whose boundary is the part, each with the regions that bound it on its own surface.

    Beyond an intersection's edge a wall runs on outside the shape, where nobody asks. Where regions are united it
    runs on inside the others: that piece is cut off.
    """
    if part == BOUNDARY or all(part in side.wall.tags for side in _sides(region)):
        yield region, trims
    elif isinstance(region, Side):
        if part in region.wall.parts:
            yield Side(Wall((part,), region.wall.parts[part][region.outside])), trims
    else:
        for i, member in enumerate(region.members):
            others = [m for j, m in enumerate(region.members) if j != i] if region.kind == "or" else []
            yield from _parts(member, part, (*trims, *map(_complement, others)))


def _sides(region: Region) -> Iterator[Side]:
    if isinstance(region, Side):
        yield region
    else:
        for member in region.members:
            yield from _sides(member)


def _trimmed(region: Region, trims: Sequence[Region], ops: Any, x: Jets, size: float, smooth: bool) -> Any:
    small = (1e-12 * size) ** 2
    value = _signed(region, ops, x, small, product=smooth and not trims)
    if not trims:
        return value
    edge = _signed(Group("and", tuple(trims)), ops, x, small)
    return trimmed(ops, value, edge, small, BAND * size)


def _signed(region: Region, ops: Any, x: Jets, small: float, product: bool = False) -> Any:
    """Positive inside the region. `product`: of an intersection whose members are positive where it is asked."""
    if isinstance(region, Side):
        value = region.wall.value(ops, x)
        return -value if region.outside else value
    values = [_signed(m, ops, x, small, product and region.kind == "and") for m in region.members]
    out = values[0]
    for other in values[1:]:
        if product and region.kind == "and":
            out = out * other
        else:
            root = ops.sqrt(out * out + other * other + small)
            out = out + other - root if region.kind == "and" else out + other + root
    return out
