"""Where the samples of a term come from: the inside of the box, parts of its boundary, or the user's own method.

A region yields named columns: coordinates and whatever else a term asks for (measured values, outward normals,
the reference solution). All but the user's own regions are made of *faces*: pieces of the box on which some
coordinates are fixed. Each face is sampled for itself, so that low-discrepancy samplers stay what they are.
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
from backends.names import EXACT, NORMAL
from backends.reference import solved
from backends.samplers import Sampler, sample_box
from backends.task import Columns

if TYPE_CHECKING:
    from backends.problem import Problem

Box = Mapping[str, tuple[float, float]]
PLACES = ("low", "high", "ends", "periodic")
"""What a coordinate may be set to in a decorator, besides a number and the name of a field of the problem."""


@dataclass(frozen=True)
class Region:
    """One set of samples, shared by all terms that are marked alike."""

    where: tuple[tuple[str, float | str], ...] = ()
    """(coordinate, number | place | name of a field of the problem)"""
    on: str = ""
    """"boundary": the whole boundary of the box, but for the time coordinate."""
    at: str = ""
    """The method of the problem that returns the columns."""

    @property
    def name(self) -> str:
        """`interior`, `t=0`, `x=ends`, `boundary`, `sensors`: the name of the batch."""
        places = (f"{c}={v}" if isinstance(v, str) else f"{c}={v:g}" for c, v in self.where)
        return self.at or self.on or ",".join(places) or "interior"

    @property
    def interior(self) -> bool:
        return not (self.at or self.on or self.where)

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


def faces(region: Region, box: Box, time: str) -> list[Face]:
    """The pieces of a region that is not the user's own. Numbers must have been resolved (`Problem.region`)."""
    if region.on:
        sides = [(c, k) for c in box if c != time for k in (0, 1)]
        zero = {c: 0.0 for c in box if c != time}
        return [Face({c: box[c][k]}, {**zero, c: 2.0 * k - 1.0}) for c, k in sides]
    choices = []
    for c, value in region.where:
        low, high = box[c]
        values = {"low": (low,), "high": (high,), "ends": (low, high), "periodic": (low,)}
        choices.append([(c, v) for v in (values[value] if isinstance(value, str) else (float(value),))])
    return [Face(dict(chosen)) for chosen in itertools.product(*choices)]


def single_points(region: Region, box: Box, time: str) -> int:
    """How many points a region has on which nothing is free (the start of an ODE: 1); 0 where something is."""
    pieces = faces(region, box, time)
    return 0 if any(len(p.fixed) < len(box) for p in pieces) else len(pieces)


def draw(
    problem: Problem, region: Region, exact: Sequence[str], count: int, sampler: Sampler, rng: np.random.Generator
) -> Columns:
    """`count` samples of a region as columns [count]; the user's own regions bring their own number.

    `exact`: the fields whose reference solution is wanted as columns `exact_<field>`.
    """
    columns = _own(problem, region, rng) if region.at else _on_faces(problem, region, count, sampler, rng)
    return with_exact(problem, columns, exact)


def with_exact(problem: Problem, columns: Columns, exact: Sequence[str]) -> Columns:
    """The columns with those of the reference solution."""
    if not exact:
        return columns
    known = solved(problem, {c: columns[c] for c in problem.coords})
    return {**columns, **{EXACT + f: known[f] for f in exact}}


def shared_evenly(columns: Columns, workers: int) -> Columns:
    """A fixed set, repeated as often as it takes to deal it to all workers; its means stay what they are."""
    rows = len(next(iter(columns.values())))
    times = math.lcm(rows, workers) // rows
    return columns if times == 1 else {c: np.concatenate([v] * times) for c, v in columns.items()}


def _on_faces(problem: Problem, region: Region, count: int, sampler: Sampler, rng: np.random.Generator) -> Columns:
    box = problem.box()
    pieces = faces(region, box, problem.time)
    areas = [math.prod(hi - lo for c, (lo, hi) in box.items() if c not in p.fixed) for p in pieces]
    parts: list[dict[str, NDArray[np.float64]]] = []
    for piece, n in zip(pieces, _dealt(count, areas), strict=True):
        if n:
            free = {c: b for c, b in box.items() if c not in piece.fixed}
            columns = dict(sample_box(free, n, sampler, rng)) if free else {}
            columns |= {c: np.full(n, v) for c, v in piece.fixed.items()}
            columns |= {NORMAL + c: np.full(n, v) for c, v in piece.normal.items()}
            parts.append(columns)
    names = [*box, *(NORMAL + c for c in pieces[0].normal)]
    return {c: np.concatenate([p[c] for p in parts]) for c in names}


def _dealt(count: int, shares: Sequence[float]) -> list[int]:
    """`count` split in proportion to `shares`: rounded down, the rest to the largest remainders."""
    exact = [count * s / sum(shares) for s in shares]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def _own(problem: Problem, region: Region, rng: np.random.Generator) -> Columns:
    """The columns that the user's method returns, checked."""
    with blamed(problem, region.at):
        return _checked(getattr(problem, region.at)(rng), problem.box())


def _checked(given: Any, box: Box) -> Columns:
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
    return {c: v if np.issubdtype(v.dtype, np.integer) else v.astype(np.float64) for c, v in columns.items()}
