"""Learning rates over a stage, as one column of the knob table: numpy on the host, never compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.spec import Cosine, Exponential, Stage


def rates(stage: Stage, start: int, n: int) -> NDArray[np.float64]:
    """Rates [n] of the steps `start` … `start + n - 1` of a first-order stage.

    The warmup is linear from 0 at its first step to the stage's rate at step `warmup`; what follows is optax's
    `cosine_decay_schedule` or `exponential_decay` from there on.
    """
    peak = float(getattr(stage, "lr", 1.0))
    schedule = getattr(stage, "schedule", None)
    if schedule is None:
        return np.full(n, peak)
    step = np.arange(start, start + n, dtype=np.float64)
    after = np.maximum(step - schedule.warmup, 0.0)
    if isinstance(schedule, Cosine):
        length = (schedule.steps or stage.steps) - schedule.warmup
        part = 0.5 * (1.0 + np.cos(np.pi * np.minimum(after, length) / length))
        factor = schedule.final + (1.0 - schedule.final) * part
    elif isinstance(schedule, Exponential):
        length = (schedule.steps or stage.steps) - schedule.warmup
        factor = schedule.decay ** (np.minimum(after, length) / schedule.every)
    else:
        factor = np.ones(n)
    if schedule.warmup:
        factor = np.where(step < schedule.warmup, step / schedule.warmup, factor)
    return peak * factor
