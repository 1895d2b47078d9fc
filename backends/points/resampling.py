"""Which points follow on the present ones: drawn by the residual, added to a buffer of fixed length, or all new.

Pure functions of residuals and a generator; `backends.points.feed.PointFeed` holds the sets that they change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.spec import Rard

Array = NDArray[Any]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
NEW = -1
"""In `kept`: a point that was not there before."""


def rad(residual: Floats, count: int, k: float, c: float, rng: np.random.Generator) -> Rows:
    """Indices of `count` candidates, drawn without replacement with p ~ |r|^k / mean(|r|^k) + c.

    Wu et al., arXiv 2207.10289, equation 2. Where every residual is zero, all candidates are alike. With c = 0
    candidates of no residual come last. Raises UserError where a residual is not finite or there are too few.
    """
    size = np.abs(np.asarray(residual, np.float64))
    if not np.isfinite(size).all():
        raise UserError(f"rad: {np.count_nonzero(~np.isfinite(size))} of {size.size} residuals are not finite")
    if count > size.size:
        raise UserError(f"rad: {count} points can't be drawn from {size.size} candidates without replacement")
    largest = size.max(initial=0.0)
    power = (size / largest) ** k if largest > 0 else np.ones_like(size)  # divided first: |r|^k must not overflow
    weight = power / power.mean() + c
    # The smallest of independent exponential times of rate p are a draw without replacement (Efraimidis and Spirakis,
    # doi 10.1016/j.ipl.2005.11.003, with the logarithm of their keys).
    times = rng.exponential(size=size.size)
    with np.errstate(all="ignore"):
        ranked = np.lexsort((times, times / weight))
    return np.sort(ranked[:count])


def sized(terms: Mapping[str, Floats], by: Literal["sum"] | Collection[str], scales: Mapping[str, float]) -> Floats:
    """One size per point from the residuals of the terms `by`, which `scales` makes comparable: {term: scale of its
    square, default 1}."""
    chosen = {name: value for name, value in terms.items() if by == "sum" or name in by}
    parts = [np.abs(value) / np.sqrt(scales.get(name, 1.0)) for name, value in chosen.items()]
    return parts[0] if len(parts) == 1 else np.hypot.reduce(parts)


@dataclass(frozen=True)
class Refined:
    """A buffer after points were added."""

    active: int
    """Points that count; what follows them are copies of them that do not."""
    chosen: Rows
    """The candidates that came in."""
    kept: Rows
    """[active]: where each point was before, or NEW; the new ones in the order of `chosen`."""


def refined(rule: Rard, active: int, fresh: Floats, present: Floats, rng: np.random.Generator) -> Refined:
    """`rule.add` more points in a buffer as long as `present`, of which the first `active` count.

    fresh, present: |residual| of candidates and buffer. Algorithm 3 of Wu et al., arXiv 2207.10289; where the buffer
    is full, the points of the smallest residual give way.
    """
    add = min(rule.add, len(present))
    chosen = rad(fresh, add, rule.k, rule.c, rng)
    joining = min(add, len(present) - active)
    kept = np.concatenate([np.arange(active), np.full(joining, NEW)])
    kept[np.argsort(np.abs(present[:active]), kind="stable")[: add - joining]] = NEW
    return Refined(active + joining, chosen, kept)


def filled(columns: Mapping[str, Array], active: int, size: int) -> dict[str, Array]:
    """A buffer of `size` rows: the first `active` ones, over and over."""
    rows = np.arange(size) % active
    return {name: np.asarray(values)[rows] for name, values in columns.items()}


def merged(columns: Mapping[str, Array], kept: Rows, joining: Mapping[str, Array]) -> dict[str, Array]:
    """The points that count after a refinement: those of `columns` that stay, and `joining` in the places of the new
    ones."""
    out = {}
    for name, values in columns.items():
        rows = values[np.maximum(kept, 0)]
        rows[kept == NEW] = joining[name]
        out[name] = rows
    return out


def spread(
    values: Array, low: float, high: float, width: float, noise: Literal["normal", "uniform"], rng: np.random.Generator
) -> Array:
    """Values moved by a random distance of about `width` times the length of [low, high], reflected at its ends."""
    moves = rng.normal(size=values.shape) if noise == "normal" else rng.uniform(-1.0, 1.0, values.shape)
    return reflected(values + width * (high - low) * moves, low, high)


def reflected(values: Array, low: float, high: float) -> Array:
    """Values outside [low, high] thrown back at its ends, as often as it takes: clipping would pile them up there."""
    length = high - low
    folded = np.mod(values - low, 2 * length)
    return np.clip(low + np.where(folded > length, 2 * length - folded, folded), low, high)
