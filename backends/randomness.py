"""Randomness as data: counter-based streams for the host, and bulk noise inside the compiled step.

Nothing here has a state: a number is a function of (seed, stream, step, row, column), so a resumed run
draws what the uninterrupted one would have drawn, and no generator goes into a checkpoint.

The host draws from `generator` (numpy's Philox 4x64). Noise inside a step comes from Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), written once over `ops` in int64
arithmetic: torch has no unsigned shifts on a CPU, JAX runs with x64, and no product exceeds 2^49, because
a compiler may assume that signed integers never overflow.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

Array = Any

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""Added to the key after each round: the golden ratio and sqrt(3) - 1, as fractions of 2^32."""


def digest(*stream: str | int, bits: int = 64) -> int:
    """A number of `bits` bits from the names of a stream: the same in every process and on every machine."""
    text = json.dumps([part if isinstance(part, str) else int(part) for part in stream])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=bits // 8).digest(), "little")


def generator(seed: int, *stream: str | int) -> np.random.Generator:
    """The host's generator of one stream, at its beginning. A step is a part of the stream like any other.

    >>> generator(0, "rows", 7).integers(100) == generator(0, "rows", 7).integers(100)
    True
    """
    # Through a SeedSequence, so that the generator can spawn others (scipy's samplers ask theirs to).
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(seed) & (2**64 - 1), digest(*stream)])))


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10: four 32-bit words for each counter of four words and key of two, all held in int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_ in range(ROUNDS):
        if round_:
            k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def _multiply(x: Array, m: int) -> tuple[Array, Array]:
    """High and low word of the 64-bit product of two 32-bit words, through 16-bit halves of x."""
    low, high = (x & 0xFFFF) * m, (x >> 16) * m
    return (high + (low >> 16)) >> 16, (low + (high & 0xFFFF) * 65536) & WORD


def bits(ops: Any, key: tuple[Array, Array], stream: str, rows: Array, width: int) -> Array:
    """[width, n] words of 32 random bits, as int64: column j of row `rows[i]` at [j, i].

    key: (seed, step), Python integers or traced 0-d ones; rows: [n] integers. Rows and steps count modulo 2^32,
    seeds are below 2^63. A word depends on nothing else: not on n, nor on the order of the rows, nor on `width`.
    """
    rows = ops.to_int64(rows)
    zero = ops.zeros((1,), like=rows)
    seed, step = zero + key[0], zero + key[1]
    blocks = -(-width // 4)
    plane = ops.zeros((blocks, rows.shape[0]), like=rows)
    counter = (
        plane + ops.reshape(integers(ops, blocks, zero), (blocks, 1)),
        plane + (rows & WORD),
        plane + (step & WORD),
        plane + digest(stream, bits=32),
    )
    words = philox(counter, (seed & WORD, (seed >> 32) & WORD))
    return ops.reshape(ops.stack(words, axis=1), (4 * blocks, rows.shape[0]))[:width]


def integers(ops: Any, count: int, zero: Array) -> Array:
    """0, 1, … count - 1 from an integer zero of shape [1], by doubling: `ops` makes no ranges."""
    numbers, have = zero, 1
    while have < count:
        numbers, have = ops.concat([numbers, numbers + have]), 2 * have
    return numbers[:count]


def uniform(ops: Any, key: tuple[Array, Array], stream: str, rows: Array, width: int, like: Array) -> Array:
    """[width, n] numbers from [0, 1) in the dtype of `like`: multiples of 2^-24, so that float32 holds the very
    same numbers as float64, and every backend the same bits."""
    if like.dtype.itemsize < 4:  # float16 can't hold 2^24
        return ops.astype(uniform(ops, key, stream, rows, width, ops.to_float32(rows)), like)
    return ops.astype(bits(ops, key, stream, rows, width) >> 8, like) * 2.0**-24


def normal(ops: Any, key: tuple[Array, Array], stream: str, rows: Array, width: int, like: Array) -> Array:
    """[width, n] standard normal numbers in the dtype of `like` (Box and Muller, 1958); at most 5.77 in size.

    Backends agree to the rounding of their log, cos and sin.
    """
    if like.dtype.itemsize < 4:  # half precision would round the uniform numbers to 1, whose logarithm is infinite
        return ops.astype(normal(ops, key, stream, rows, width, ops.to_float32(rows)), like)
    pairs, n = -(-width // 2), rows.shape[0]
    u = ops.reshape(uniform(ops, key, stream, rows, 2 * pairs, like), (pairs, 2, n))
    radius = ops.sqrt(-2.0 * ops.log(1.0 - u[:, 0]))
    angle = (2.0 * math.pi) * u[:, 1]
    z = ops.stack([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
    return ops.reshape(z, (2 * pairs, n))[:width]
