"""Dynamic loss scaling of float16 stages (Micikevicius et al., arXiv 1710.03740, section 3.2).

The loss is multiplied by a scale before the backward pass, so that small gradients are not rounded to zero, and the
gradient divided by it afterwards. A step whose gradient overflows is skipped and halves the scale; many good ones in a
row double it. A loss that is not finite has nothing to do with the scale: it stays an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
START, FLOOR, CEILING, GROWTH = 2.0**15, 1.0, 2.0**24, 2000
"""The first scale, its bounds, and the good steps in a row after which it doubles."""
SCALE, GOOD, SKIPPED = "loss_scale", "good_steps", "skipped_steps"
"""Parts of the optimizer's state: the scale, good steps since it last changed, steps skipped in this stage."""
PARTS = (SCALE, GOOD, SKIPPED)


def initial() -> dict[str, NDArray[Any]]:
    """The state before the first step."""
    return {SCALE: np.asarray(START, np.float32), GOOD: np.zeros((), np.int64), SKIPPED: np.zeros((), np.int64)}


def judged(
    ops: Any, state: Mapping[str, Array], losses_ok: Array, gradient_ok: Array
) -> tuple[Array, dict[str, Array]]:
    """(whether the step counts as sound, the state after it): sound is a finite step, and one that is only skipped.

    At the floor an overflow is no longer the scale's fault.
    """
    scale, good, skipped = (state[part] for part in PARTS)
    fine = losses_ok & gradient_ok
    skip = losses_ok & ~gradient_ok & (scale > FLOOR)
    grows = good + 1 >= GROWTH
    grown = ops.where(grows, ops.minimum(scale * 2.0, CEILING + 0.0 * scale), scale)
    shrunk = ops.maximum(scale * 0.5, FLOOR + 0.0 * scale)
    new = {
        SCALE: ops.where(fine, grown, ops.where(skip, shrunk, scale)),
        GOOD: ops.where(fine & ~grows, good + 1, ops.where(fine | skip, 0 * good, good)),
        SKIPPED: skipped + ops.where(skip, 1 + 0 * skipped, 0 * skipped),
    }
    return fine | skip, new
