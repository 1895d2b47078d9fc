"""A Laplacian in many dimensions from a few random directions, unbiased: `derivatives: {laplacian: {kind: sparse, …}}`.

With directions v_1 … v_m of the right mean, E[sum_k v_k v_k'] = 1, the sum of the second derivatives along them is
the Laplacian in the mean. They travel as one forward-Laplacian channel over m directions instead of d coordinates, so
a pass costs m + 2 channels instead of d + 2 (STDE: Shi et al., arXiv 2412.00088; Hutchinson: Hu et al., 2312.14499).
Every sample of a set has directions of its own, a function of (seed, step, set, sample) and of nothing else.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.randomness import bits, integers, normal
from backends.spec import Leaf

Array = Any
SAMPLE = "sample"
"""The column that numbers the samples of a set, so that passes and workers draw what one pass would have drawn."""
DIRECTION = "~"
"""What the pseudo-coordinates along the directions are called, `~0`, `~1`, …: no name of a user's can be that."""


class ExactLaplacian(Leaf):
    """All second derivatives, in one channel: d + 2 channels in d dimensions."""

    kind: Literal["exact"] = "exact"


class EstimatedLaplacian(Leaf):
    """From random directions, unbiased; evaluations and predictions stay exact."""

    kind: Literal["sparse", "rademacher", "gaussian"]
    """sparse: some of the coordinates, drawn without replacement (no error where all second derivatives are equal);
    rademacher: random signs (no error where the mixed derivatives vanish); gaussian: normal numbers."""
    samples: Annotated[int, Field(ge=1, le=4096)] = 16
    """Directions per sample and step; the variance falls with their number, the cost grows with it."""
    unbiased: bool = False
    """Square the residual as the product of two independent estimates, at twice the cost: the mean loss is then the
    exact one. Otherwise the variance of the estimate is added to it."""


LaplacianSpec = Annotated[ExactLaplacian | EstimatedLaplacian, Field(discriminator="kind")]


class Derivatives(Leaf):
    """How derivatives are computed where there is a choice."""

    laplacian: LaplacianSpec = ExactLaplacian()
    """`f.laplacian` in training: exact, or estimated in many dimensions."""


def names(count: int) -> tuple[str, ...]:
    """The pseudo-coordinates along `count` directions."""
    return tuple(f"{DIRECTION}{k}" for k in range(count))


def directions(
    spec: EstimatedLaplacian, ops: Any, key: tuple[Array, Array], stream: str, rows: Array, dimension: int, like: Array
) -> Array:
    """[samples of `spec`, dimension, n] for the rows [n] of a set, scaled so that the Laplacian is a plain sum.

    sparse: sqrt(d/m) e_i for m different coordinates i. A step draws one uniformly random set of them, which every
    row turns cyclically by a shift of its own: for each row it is uniformly random again, without sorting per row.
    """
    count = spec.samples
    if spec.kind == "sparse":
        return _axes(ops, key, stream, rows, count, dimension, like)
    numbers = count * dimension
    if spec.kind == "gaussian":
        flat = normal(ops, key, stream, rows, numbers, like)
    else:
        flat = 2.0 * ops.astype(_coins(ops, bits(ops, key, stream, rows, -(-numbers // 32)))[:numbers], like) - 1.0
    return ops.reshape(flat, (count, dimension, rows.shape[0])) * (1.0 / math.sqrt(count))


def _axes(
    ops: Any, key: tuple[Array, Array], stream: str, rows: Array, count: int, dimension: int, like: Array
) -> Array:
    rows = ops.to_int64(rows)
    words = bits(ops, key, f"{stream}/axes", rows[:1] * 0, dimension)[:, 0]
    zero = words[:1] * 0
    number = integers(ops, dimension, zero)
    earlier = (words[None] < words[:, None]) | ((words[None] == words[:, None]) & (number[None] < number[:, None]))
    ranks = ops.sum(ops.to_int64(earlier), 1)  # a random permutation of 0 … d - 1
    shift = (bits(ops, key, f"{stream}/shift", rows, 1)[0] * dimension) >> 32
    turned = number[:, None] - shift[None]  # [dimension, n]
    turned = turned + dimension * ops.to_int64(turned < 0)
    chosen = ops.reshape(ranks, (1, dimension)) == integers(ops, count, zero)[:, None]  # [count, dimension], one-hot
    axis = ops.sum(ops.to_int64(chosen) * number[None], 1)  # the coordinate of rank 0, 1, …
    hit = ops.reshape(axis, (count, 1, 1)) == turned[None]
    return ops.astype(hit, like) * math.sqrt(dimension / count)


def _coins(ops: Any, words: Array) -> Array:
    """[w, n] words of 32 bits -> [32 w, n] zeros and ones."""
    at = ops.reshape(integers(ops, 32, words[:1, 0] * 0), (1, 32, 1))
    return ops.reshape((words[:, None] >> at) & 1, (32 * words.shape[0], words.shape[1]))
