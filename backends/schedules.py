"""Learning-rate schedules: what a file may say, and the rates as numbers, one per step, computed on the host.

The semantics are optax's (`warmup_cosine_decay_schedule`, `warmup_exponential_decay_schedule`,
`warmup_constant_schedule`). A rate is a function of the stage and of the step within it, so a resumed run and a
dispatch of another length see the same bits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from backends.spec import Leaf


class Constant(Leaf):
    """The rate stays as it is, after an optional linear warmup."""

    kind: Literal["constant"] = "constant"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""


class Cosine(Leaf):
    """After the warmup, half a cosine from the rate down to `final` times the rate."""

    kind: Literal["cosine"] = "cosine"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""
    steps: PositiveInt | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The last rate, as a fraction of the stage's."""


class Exponential(Leaf):
    """After the warmup, the rate is multiplied by `decay` every `every` steps, smoothly."""

    kind: Literal["exponential"] = "exponential"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor per `every` steps."""
    every: PositiveInt = 1000
    """Steps per factor of `decay`."""
    steps: PositiveInt | None = None
    """Length with the warmup, after which the rate stays; default: the stage's steps."""


Schedule = Annotated[Constant | Cosine | Exponential, Field(discriminator="kind")]


def rates(stage: Any, start: int, n: int) -> NDArray[np.float64]:
    """[n] learning rates of the steps `start` … `start + n - 1`, counted within the stage.

    With a warmup of w steps, step s < w has the rate lr * s / w (so the very first step has the rate 0).
    Raises TypeError for a stage without a learning rate (quasi-Newton stages search along a line instead).
    """
    lr = getattr(stage, "lr", None)
    if lr is None:
        raise TypeError(f"the stage {stage.name!r} ({stage.kind}) has no learning rate")
    schedule: Schedule = getattr(stage, "schedule", Constant())
    step = np.arange(start, start + n, dtype=np.float64)
    after = lr * _factor(schedule, step - schedule.warmup, _length(schedule, stage.steps))
    if not schedule.warmup:
        return after
    return np.where(step < schedule.warmup, lr * step / schedule.warmup, after)


def _length(schedule: Schedule, steps: int) -> int:
    """Steps over which the rate changes, after the warmup."""
    return (getattr(schedule, "steps", None) or steps) - schedule.warmup


def _factor(schedule: Schedule, since: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The rate as a share of the stage's, `since` steps after the warmup; constant before 0 and after `length`."""
    since = np.clip(since, 0, length)
    if isinstance(schedule, Cosine):
        # Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts.
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + np.cos(np.pi * since / length))
    if isinstance(schedule, Exponential):
        return schedule.decay ** (since / schedule.every)
    return np.ones_like(since)
