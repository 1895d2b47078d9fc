"""How many points go through the network at once.

On a CPU a layer's numbers should stay in the L2 cache between forward and backward pass: 100 to 250 kB of them per
layer. Measured (Burgers, 64 x 4, 10,000 points, one core): 36 ms per step in chunks of 250 against 42 to 70
in one go; up to 2.8x for third and fourth derivatives. The optimum is flat, a factor of 2 costs 1 to 5 %. An
accelerator takes the whole batch, unless an estimate says that its memory does not hold what a pass keeps.
"""

from __future__ import annotations

import math
from typing import Literal

from backends.errors import UserError

LAYER_BYTES = 2**18 * 3 // 4
"""Bytes of one layer of one chunk."""
WHOLE_BYTES = 10**6
"""Where one layer of the whole batch is below this, chunks gain nothing."""
PER_CALL = 4
"""A backend that pays for each call of a compiled function (torch) takes so many times the chunk."""
FAR = 3.0
"""A divisor farther from the rule than this factor is worse than the whole batch."""
KEPT = 40
"""Arrays as large as the widest layer that an accelerator holds at once in a training pass: ten layers with input,
result, what the activation's backward needs, and a cotangent; deliberately too many for small networks."""
PART = 0.5
"""Of an accelerator's memory that a pass may take; the rest is for parameters, optimizers, other sets and copies."""


def chunk_size(
    samples: int,
    asked: int | Literal["auto"] | None,
    width: int,
    itemsize: int,
    device: str,
    per_call: bool,
    room: float = math.inf,
) -> int:
    """Samples per pass: a divisor of `samples`, which is what one worker has of a batch.

    asked: what the file says ("auto" applies the rules above, None never chunks); width: numbers per sample in the
    widest layer (channels times units); itemsize: bytes per number; room: bytes of an accelerator's memory.
    Raises UserError where the asked chunk does not divide the samples.
    """
    if isinstance(asked, int):
        return _given(samples, asked)
    if asked is None:
        return samples
    if not device.startswith("cpu"):
        return max(d for d in divisors(samples) if d == 1 or d * width * itemsize * KEPT <= PART * room)
    if samples * width * itemsize < WHOLE_BYTES:
        return samples
    rule = LAYER_BYTES * (PER_CALL if per_call else 1) / (width * itemsize)
    best = min(divisors(samples), key=lambda d: abs(math.log(d / rule)))
    return best if rule / FAR <= best <= rule * FAR else samples


def divisors(n: int) -> list[int]:
    """All divisors of n, in ascending order."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def _given(samples: int, asked: int) -> int:
    if samples % asked == 0:
        return asked
    known = divisors(samples)
    below, above = max(d for d in known if d < asked), next((d for d in known if d > asked), None)
    raise UserError(
        f"chunk: {asked} does not divide the {samples} points of a worker; take {below}"
        + (f" or {above}" if above else "")
        + ", or `auto`"
    )
