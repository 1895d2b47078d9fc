"""Points inside a shape and on its boundary, uniform by volume and by area.

Inside: points of the bounding box that the shape contains. On the boundary: points of every primitive's own boundary,
where the whole shape is inside on one side and outside on the other; the normal points to the outside. `beside` adds
further coordinates (time, parameters), drawn in the same sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.geometry.shape import Patch, Points, Shape
from backends.names import NORMAL
from backends.points.samplers import Sampler, dealt, sample_box

PROBES, PATCH_PROBES = 2**14, 2**12
"""Points by which the filled share of a bounding box, and what is left of a patch, are measured."""
THINNEST = 1e-5
"""The least share of its bounding box that a shape may fill."""
SKIN = 1e-7
"""How far from the boundary a point is asked for its side, relative to the shape's size."""
BOUNDARY = "boundary"
Interval = tuple[float, float]
Columns = dict[str, NDArray[np.float64]]


@lru_cache(maxsize=128)
def filled(shape: Shape) -> float:
    """The share of its bounding box that a shape fills. Raises UserError where it is empty, or next to."""
    low, high = map(np.array, shape.bounds())
    extent = float(np.prod(np.maximum(high - low, 0.0)))
    whole = shape.volume
    if whole is not None:
        return 1.0 if abs(whole - extent) < 1e-12 * extent else whole / extent
    share = 0.0
    for count in (PROBES, 16 * PROBES) if extent > 0 else ():
        rng = np.random.default_rng(0)
        share = float(np.mean(shape.signed_distance(low + (high - low) * _uniform(shape.dimension, count, rng)) < 0))
        if share > THINNEST:
            return share
    raise UserError(
        "the geometry is empty: no point lies inside it. Check what is subtracted, and whether what is intersected "
        "overlaps"
        if share == 0
        else f"the geometry fills only {share:.0e} of its bounding box, too little to draw points in"
    )


def volume(shape: Shape) -> float:
    """Length, area or volume: exact for a primitive, else to about a percent from 16,384 points."""
    low, high = shape.bounds()
    return shape.volume or filled(shape) * math.prod(b - a for a, b in zip(low, high, strict=True))


@dataclass(frozen=True)
class Remains:
    """A patch, and how much of it is on the boundary of the whole."""

    patch: Patch
    measure: float


@lru_cache(maxsize=128)
def boundary(shape: Shape) -> tuple[Remains, ...]:
    """The patches of which something is left."""
    found = []
    for patch in shape.patches():
        unit = _uniform(patch.free, PATCH_PROBES if patch.free else 1, np.random.default_rng(0))
        if shape == patch.leaf:
            share = 1.0
        else:
            share = float(np.mean(_outer(shape, patch, *patch.place(unit))[0]))
        if share:
            found.append(Remains(patch, share * patch.measure))
    return tuple(found)


def parts(shape: Shape) -> tuple[str, ...]:
    """What `on=` may name besides the whole boundary."""
    return tuple(dict.fromkeys(tag for r in boundary(shape) for tag in r.patch.tags))


def remains_of(shape: Shape, part: str) -> tuple[Remains, ...]:
    """The patches of a part, or of the whole boundary. Raises UserError where there is no such part."""
    left = boundary(shape)
    if not left:
        raise UserError("the geometry has no boundary: is it empty?")
    chosen = tuple(r for r in left if part in (BOUNDARY, *r.patch.tags))
    if chosen:
        return chosen
    covered = {tag for p in shape.patches() for tag in p.tags}
    if part in covered:
        raise UserError(f"nothing of {part!r} is on the boundary of the geometry: the other shapes cover it")
    raise UserError(f"the geometry has no part {part!r}{nearest(part, [BOUNDARY, *parts(shape)])}")


def inside(
    shape: Shape,
    names: Sequence[str],
    count: int,
    sampler: Sampler,
    rng: np.random.Generator,
    beside: Mapping[str, Interval] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> Columns:
    """`count` points inside, a column per axis and one per name of `beside`. Raises UserError.

    `fixed`: axes along which the points lie at one value, a cut through the shape (with what it touches: a wall).
    """
    cut = dict(fixed or {})
    low, high = shape.bounds()
    space = {n: b for n, b in zip(names, zip(low, high, strict=True), strict=True) if n not in cut}
    share = share_of_cut(shape, names, cut)
    if share == 1.0:
        return sample_box(space | dict(beside or {}), count, sampler, rng)
    refuse_grid(sampler)
    if not share:
        raise UserError(f"{', '.join(f'{n} = {v:g}' for n, v in cut.items())} does not meet the geometry")
    box = space | dict(beside or {})
    return _rejected(box, count, share, sampler, rng, lambda columns: _within(shape, names, columns, cut))


def share_of_cut(shape: Shape, names: Sequence[str], fixed: Mapping[str, float]) -> float:
    """The share of the bounding box's cut that the shape fills; 0 where they don't meet."""
    if not fixed:
        return filled(shape)
    free = [n for n in names if n not in fixed]
    unit = _uniform(len(free), PROBES if free else 1, np.random.default_rng(0))
    box = dict(zip(names, zip(*shape.bounds(), strict=True), strict=True))
    columns = {n: box[n][0] + (box[n][1] - box[n][0]) * unit[:, i] for i, n in enumerate(free)}
    return float(np.mean(_within(shape, names, columns, fixed, len(unit))))


def _within(
    shape: Shape, names: Sequence[str], columns: Columns, fixed: Mapping[str, float], rows: int = 1
) -> NDArray[np.bool_]:
    rows = next((len(v) for v in columns.values()), rows)
    points = np.stack([np.full(rows, fixed[n]) if n in fixed else columns[n] for n in names], 1)
    distance = shape.signed_distance(points)
    return distance <= SKIN * shape.size * 1e-3 if fixed else distance < 0


def on_boundary(
    shape: Shape,
    part: str,
    names: Sequence[str],
    count: int,
    sampler: Sampler,
    rng: np.random.Generator,
    beside: Mapping[str, Interval] | None = None,
) -> Columns:
    """`count` points on a part of the boundary, with the outward normal as `normal_<name>`. Raises UserError."""
    refuse_grid(sampler)
    chosen = remains_of(shape, part)
    drawn = [
        _on_patch(shape, r, names, n, sampler, rng, dict(beside or {}))
        for r, n in zip(chosen, dealt(count, [r.measure for r in chosen]), strict=True)
        if n
    ]
    return {c: np.concatenate([d[c] for d in drawn]) for c in drawn[0]}


def refuse_grid(sampler: Sampler) -> None:
    """A grid has no count of points in a shape."""
    if sampler == "grid":
        raise UserError("a geometry is not filled by the sampler grid; take sobol, which is as even")


def _on_patch(
    shape: Shape,
    remains: Remains,
    names: Sequence[str],
    count: int,
    sampler: Sampler,
    rng: np.random.Generator,
    beside: dict[str, Interval],
) -> Columns:
    patch = remains.patch
    free = [f"{i}" for i in range(patch.free)]  # no coordinate is called so
    box = dict.fromkeys(free, (0.0, 1.0)) | beside

    def placed(columns: Columns) -> tuple[NDArray[np.bool_], Points, Points]:
        rows = len(next(iter(columns.values()))) if columns else count
        unit = np.stack([columns[n] for n in free], 1) if free else np.empty((rows, 0))
        points, normals = patch.place(np.minimum(unit, 1 - 1e-16))
        on, outward = _outer(shape, patch, points, normals)
        return on, points, outward

    share = remains.measure / patch.measure
    columns = _rejected(box, count, share, sampler, rng, lambda c: placed(c)[0])
    _, points, normals = placed(columns)
    found = {n: points[:, i] for i, n in enumerate(names)} | {b: columns[b] for b in beside}
    return found | {NORMAL + n: normals[:, i] for i, n in enumerate(names)}


def _rejected(
    box: Mapping[str, Interval], count: int, share: float, sampler: Sampler, rng: np.random.Generator, kept: Any
) -> Columns:
    """The first `count` points of a sequence that are kept; a sequence that is too short is drawn anew, longer."""
    if not box:
        return {}
    asked = count if share == 1.0 else math.ceil(1.1 * count / share + 8.0 * math.sqrt(count / share) + 8)
    for _ in range(12):
        columns = sample_box(box, asked, sampler, rng)
        rows = np.flatnonzero(kept(columns))[:count]
        if len(rows) == count:
            return {c: v[rows] for c, v in columns.items()}
        asked *= 2
    raise UserError("too little of the geometry is left here to draw points in")


def _outer(shape: Shape, patch: Patch, points: Points, normals: Points) -> tuple[NDArray[np.bool_], Points]:
    """Which points of a patch are on the boundary of the whole, and the normals that point out of it.

    Where two primitives share a piece of their boundaries, it belongs to the first of them.
    """
    step = SKIN * shape.size
    ahead = shape.signed_distance(points + step * normals) < 0
    behind = shape.signed_distance(points - step * normals) < 0
    on = ahead != behind
    for leaf in shape.leaves():
        if leaf is patch.leaf or leaf == patch.leaf:
            break
        on &= np.abs(leaf.signed_distance(points)) > 0.01 * step
    return on, np.where(ahead[:, None], -normals, normals)


def _uniform(dimension: int, count: int, rng: np.random.Generator) -> Points:
    """Evenly spread probes in the unit cube: a lattice with irrational steps (Roberts' R sequence), shifted."""
    if dimension == 0:
        return np.empty((count, 0))
    root = 2.0
    for _ in range(40):  # the only positive root of x^(d + 1) = x + 1
        root = (1.0 + root) ** (1.0 / (dimension + 1))
    steps = root ** -np.arange(1.0, dimension + 1)
    return (rng.random(dimension) + np.arange(1, count + 1)[:, None] * steps) % 1.0
