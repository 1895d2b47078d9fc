"""Where the samples of a term come from: the inside of the domain, parts of its boundary, or the user's own method.

A region yields named columns: coordinates and whatever else a term asks for (measured values, outward normals,
the reference solution). All but the user's own regions are made of *faces*: pieces of the box on which some
coordinates are fixed. Each face is sampled for itself, so that low-discrepancy samplers stay what they are. Where
the problem has a geometry, faces are cut by it, and its boundary is made of the shapes' own (`backends.geometry`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blamed
from backends.errors import UserError
from backends.geometry.sampling import inside, on_boundary, share_of_cut
from backends.geometry.shape import Shape
from backends.laws.nodes import Nodes
from backends.names import EXACT, NORMAL
from backends.pde.domain import beyond, clouds_of, shape_of, spatial
from backends.pde.parameters import parameters, spread
from backends.pde.reference import solved
from backends.points.samplers import Sampler, dealt, sample_box
from backends.task import Columns

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Box = Mapping[str, tuple[float, float]]
PLACES = ("low", "high", "ends", "periodic")
"""What a coordinate may be set to in a decorator, besides a number and the name of a field of the problem."""
ROUNDED = 1e-6
"""How far outside the geometry, relative to its size, points of the user's own may lie: files hold rounded numbers."""


@dataclass(frozen=True)
class Region:
    """One set of samples, shared by all terms that are marked alike."""

    where: tuple[tuple[str, float | str], ...] = ()
    """(coordinate, number | place | name of a field of the problem)"""
    on: str = ""
    """"boundary": the whole boundary of the geometry or the box in space; or the name of a part of the geometry's."""
    at: str = ""
    """The method of the problem that returns the columns."""
    nodes: Nodes | None = None
    """What one sample stands for, where that is more than a point."""

    @property
    def name(self) -> str:
        """`interior`, `t=0`, `x=ends`, `boundary`, `sensors`, `integral(x=64)`: the name of the batch."""
        if self.nodes:
            return self.nodes.name
        places = (f"{c}={v}" if isinstance(v, str) else f"{c}={v:g}" for c, v in self.where)
        return self.at or self.on or ",".join(places) or "interior"

    @property
    def interior(self) -> bool:
        return not (self.at or self.on or self.where or self.nodes)

    @property
    def points(self) -> int:
        """Points that a sample stands for."""
        return self.nodes.size if self.nodes else 2 if self.periodic else 1

    @property
    def periodic(self) -> str:
        """The coordinate whose two ends are compared, or empty."""
        return next((c for c, v in self.where if v == "periodic"), "")


@dataclass(frozen=True)
class Face:
    """A piece of the box: some coordinates fixed, the others free."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    normal: Mapping[str, float] = field(default_factory=dict)
    """Outward normal, by coordinate; empty where there is none."""


def faces(problem: Problem, region: Region) -> list[Face]:
    """The pieces of a region that is not the user's own. Numbers must have been resolved (`Problem.region`).

    The boundary of a geometry is one piece without anything fixed.
    """
    box, space = problem.box(), spatial(problem)
    if region.on and (shape_of(problem) is not None or region.on in clouds_of(problem)):
        return [Face()]
    if region.on:
        zero = dict.fromkeys(space, 0.0)
        return [Face({c: box[c][k]}, {**zero, c: 2.0 * k - 1.0}) for c in space for k in (0, 1)]
    choices = []
    for c, value in region.where:
        low, high = box[c]
        values = {"low": (low,), "high": (high,), "ends": (low, high), "periodic": (low,)}
        choices.append([(c, v) for v in (values[value] if isinstance(value, str) else (float(value),))])
    return [Face(dict(chosen)) for chosen in itertools.product(*choices)]


def single_points(problem: Problem, region: Region) -> int:
    """How many points a region has on which nothing is free (the start of an ODE: 1); 0 where something is."""
    if region.nodes:
        return 0 if region.nodes.free(problem) else 1
    pieces = faces(problem, region)
    return 0 if any(len(p.fixed) < len(problem.coords) for p in pieces) else len(pieces)


def draw(
    problem: Problem, region: Region, exact: Sequence[str], count: int, sampler: Sampler, rng: np.random.Generator
) -> Columns:
    """`count` samples of a region as columns [count]; the user's own regions bring their own number.

    `exact`: the fields whose reference solution is wanted as columns `exact_<field>`.
    """
    if region.nodes:
        return with_exact(problem, region.nodes.draw(problem, count, sampler, rng), exact)
    columns = _own(problem, region, rng) if region.at else _drawn(problem, region, count, sampler, rng)
    return with_exact(problem, columns, exact)


def with_exact(problem: Problem, columns: Columns, exact: Sequence[str]) -> Columns:
    """The columns with those of the reference solution."""
    if not exact:
        return columns
    points = {c: columns[c] for c in problem.coords}
    if shape := next((v.shape for v in points.values() if v.ndim > 1), None):
        wide = {c: np.broadcast_to(v if v.ndim > 1 else v[:, None], shape) for c, v in points.items()}
        known = solved(problem, {c: v.reshape(-1) for c, v in wide.items()})
        return {**columns, **{EXACT + f: known[f].reshape(shape) for f in exact}}
    known = solved(problem, points)
    return {**columns, **{EXACT + f: known[f] for f in exact}}


def shared_evenly(columns: Columns, workers: int) -> Columns:
    """A fixed set, repeated as often as it takes to deal it to all workers; its means stay what they are."""
    rows = len(next(iter(columns.values())))
    times = math.lcm(rows, workers) // rows
    return columns if times == 1 else {c: np.concatenate([v] * times) for c, v in columns.items()}


def _drawn(problem: Problem, region: Region, count: int, sampler: Sampler, rng: np.random.Generator) -> Columns:
    shape = shape_of(problem)
    if region.on in clouds_of(problem):
        return clouds_of(problem)[region.on]
    if shape is None:
        return _on_faces(problem, region, count, sampler, rng)
    if not region.on:
        return _inside(problem, shape, region, count, sampler, rng)
    space = spatial(problem)
    beside = {c: b for c, b in _even(problem).items() if c not in space}
    return _spread(problem, on_boundary(shape, region.on, space, count, sampler, rng, beside))


def _on_faces(problem: Problem, region: Region, count: int, sampler: Sampler, rng: np.random.Generator) -> Columns:
    box = problem.box()
    pieces = faces(problem, region)
    areas = [math.prod(hi - lo for c, (lo, hi) in box.items() if c not in p.fixed) for p in pieces]
    parts: list[dict[str, NDArray[np.float64]]] = []
    for piece, n in zip(pieces, dealt(count, areas), strict=True):
        if n:
            free = {c: b for c, b in _even(problem).items() if c not in piece.fixed}
            columns = _spread(problem, sample_box(free, n, sampler, rng)) if free else {}
            columns |= {c: np.full(n, v) for c, v in piece.fixed.items()}
            columns |= {NORMAL + c: np.full(n, v) for c, v in piece.normal.items()}
            parts.append(columns)
    names = [*box, *(NORMAL + c for c in pieces[0].normal)]
    return {c: np.concatenate([p[c] for p in parts]) for c in names}


def _inside(
    problem: Problem, shape: Shape, region: Region, count: int, sampler: Sampler, rng: np.random.Generator
) -> Columns:
    """Points of the geometry, on the planes that the region fixes; planes get as many as there is of them."""
    space, box = spatial(problem), _even(problem)
    pieces = faces(problem, region)
    cuts = [{c: v for c, v in p.fixed.items() if c in space} for p in pieces]
    shares = [share_of_cut(shape, space, cut) for cut in cuts]
    if not sum(shares):
        raise UserError(f"{region.name} does not meet the geometry: there are no points to draw")
    parts = []
    for piece, cut, n in zip(pieces, cuts, dealt(count, shares), strict=True):
        if n:
            beside = {c: b for c, b in box.items() if c not in space and c not in piece.fixed}
            columns = _spread(problem, inside(shape, space, n, sampler, rng, beside, cut))
            parts.append(columns | {c: np.full(n, v) for c, v in piece.fixed.items()})
    return {c: np.concatenate([p[c] for p in parts]) for c in box}


def _even(problem: Problem) -> dict[str, tuple[float, float]]:
    """The box in which points are drawn evenly: parameters on their own scale, from 0 to 1."""
    return {**problem.box(), **dict.fromkeys(parameters(problem), (0.0, 1.0))}


def _spread(problem: Problem, columns: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The opposite of `_even`."""
    drawn = [p for p in parameters(problem) if p in columns]
    return {**columns, **{p: spread(problem, p, columns[p]) for p in drawn}}


def _own(problem: Problem, region: Region, rng: np.random.Generator) -> Columns:
    """The columns that the user's method returns, checked."""
    with blamed(problem, region.at):
        return _checked(problem, getattr(problem, region.at)(rng))


def _checked(problem: Problem, given: Any) -> Columns:
    box = problem.box()
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"must return columns {{name: array}}, not {type(given).__name__}")
    columns = {str(c): np.asarray(v) for c, v in given.items()}
    missing = [c for c in box if c not in columns]
    if missing:
        raise UserError(f"returns no column {missing[0]!r}: every coordinate is needed")
    rows = {c: v.shape[0] if v.ndim else None for c, v in columns.items()}
    if len(set(rows.values())) > 1 or None in rows.values() or 0 in rows.values():
        raise UserError(f"the columns must have one row per sample, at least one; given: {rows}")
    for c, v in columns.items():
        if not np.issubdtype(v.dtype, np.number) or not np.isfinite(v).all():
            raise UserError(f"the column {c!r} must hold finite numbers")
    for c, (low, high) in box.items():
        slack = 1e-9 * (high - low)
        outside = (columns[c] < low - slack) | (columns[c] > high + slack)
        if outside.any():
            raise UserError(
                f"{c} = {columns[c][outside][0]:g} lies outside the domain, {low:g} … {high:g}"
                f" ({int(outside.sum())} of {len(outside)} samples)"
            )
    outside = beyond(problem, columns, ROUNDED)
    if outside.any():
        row = int(np.argmax(outside))
        place = ", ".join(f"{c} = {columns[c][row]:g}" for c in spatial(problem))
        raise UserError(f"{place} lies outside the geometry ({int(outside.sum())} of {len(outside)} samples)")
    return {c: v if np.issubdtype(v.dtype, np.integer) else v.astype(np.float64) for c, v in columns.items()}
