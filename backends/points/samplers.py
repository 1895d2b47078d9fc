"""How points are drawn in a box: uniformly, by a low-discrepancy sequence, or on a grid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError

Sampler = Literal["uniform", "sobol", "halton", "latin_hypercube", "grid"]
LONGEST = 4
"""A grid may be so many times finer along one coordinate than along another."""


def sample_box(
    box: Mapping[str, tuple[float, float]], count: int, sampler: Sampler, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """`count` points of a box {coordinate: (low, high)}, one column per coordinate.

    `sobol` and `halton` are scrambled by `rng`. `grid` takes the centres of a near-cubic grid of exactly `count`
    cells, with the finer axes last, and does not use `rng`; a count that has no such grid is a UserError.
    """
    unit = _UNIT[sampler](len(box), count, rng) if box else np.empty((count, 0))
    return {
        name: np.clip(low + (high - low) * unit[:, i], low, high)  # rounding must not leave the domain
        for i, (name, (low, high)) in enumerate(box.items())
    }


def dealt(count: int, shares: Sequence[float]) -> list[int]:
    """`count` split in proportion to `shares`: rounded down, the rest to the largest remainders."""
    exact = [count * s / sum(shares) for s in shares]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def _uniform(d: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.random((count, d))


def _sobol(d: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    # scipy warns of other counts than powers of two, which only lose the last digit of balance.
    return _engine("Sobol", d, rng).random_base2((count - 1).bit_length())[:count]


def _halton(d: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return _engine("Halton", d, rng).random(count)


def _latin_hypercube(d: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return _engine("LatinHypercube", d, rng).random(count)


def _engine(name: str, d: int, rng: np.random.Generator) -> Any:
    """A sampler of scipy's, seeded."""
    from scipy.stats import qmc  # half a second, which most runs have no use for

    engine = getattr(qmc, name)
    seed = "rng" if "rng" in inspect.signature(engine).parameters else "seed"  # as it was called before scipy 1.15
    return engine(d, **{seed: rng})


def _grid(d: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    shape = grid_shape(count, d)
    if shape[-1] > LONGEST * shape[0]:
        nearby = (near for k in range(1, count) for near in (count - k, count + k))
        good = islice((near for near in nearby if _near_cubic(near, d)), 2)
        told = " or ".join(f"{n} ({' x '.join(map(str, grid_shape(n, d)))})" for n in sorted(good))
        raise UserError(
            f"sampler: grid: {count} points in {d} coordinates would be a grid of {' x '.join(map(str, shape))}; "
            f"take {told}, or the sampler sobol"
        )
    axes = [(np.arange(n) + 0.5) / n for n in shape]
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def _near_cubic(count: int, d: int) -> bool:
    shape = grid_shape(count, d)
    return shape[-1] <= LONGEST * shape[0]


def grid_shape(count: int, d: int) -> tuple[int, ...]:
    """The d factors of `count`, in ascending order, that are nearest to each other."""
    return min(_factors(count, d, 1), key=lambda shape: shape[-1] / shape[0])


def _factors(count: int, d: int, least: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `count` as a product of d ascending factors, none below `least`."""
    if d == 1:
        yield (count,)
        return
    for first in range(least, round(count ** (1 / d)) + 1):
        if count % first == 0 and first**d <= count:
            yield from ((first, *rest) for rest in _factors(count // first, d - 1, first))


_UNIT: dict[str, Callable[[int, int, np.random.Generator], NDArray[np.float64]]] = {
    "uniform": _uniform,
    "sobol": _sobol,
    "halton": _halton,
    "latin_hypercube": _latin_hypercube,
    "grid": _grid,
}
