"""Learning-rate schedules: what a file may say, and the rates as numbers, one per step, computed on the host.

The semantics are optax's (`warmup_cosine_decay_schedule`, `warmup_exponential_decay_schedule`, `sgdr_schedule`, …). A
rate is a function of the stage and of the step within it, so a resumed run and a dispatch of another length see the
same bits.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from backends.schedules.cycles import Cyclic, CyclicCosine, OneCycle
from backends.schedules.decays import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Step

__all__ = [
    "Constant",
    "Cosine",
    "Cyclic",
    "CyclicCosine",
    "Exponential",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Step",
    "rates",
]

Schedule = Annotated[
    Constant | Linear | Polynomial | Cosine | Exponential | Step | MultiStep | CyclicCosine | Cyclic | OneCycle,
    Field(discriminator="kind"),
]


def rates(stage: Any, start: int, n: int) -> NDArray[np.float64]:
    """[n] learning rates of the steps `start` … `start + n - 1`, counted within the stage.

    With a warmup of w steps, step s < w has the rate r * s / w (so the very first step has the rate 0), where r is the
    rate that the schedule begins with. After a schedule's length the rate stays.
    Raises TypeError for a stage without a learning rate (quasi-Newton stages search along a line instead).
    """
    lr = getattr(stage, "lr", None)
    if lr is None:
        raise TypeError(f"the stage {stage.name!r} ({stage.kind}) has no learning rate")
    schedule: Schedule = getattr(stage, "schedule", Constant())
    length = (getattr(schedule, "steps", None) or stage.steps) - schedule.warmup
    step = np.arange(start, start + n, dtype=np.float64)
    after = lr * schedule.share(np.clip(step - schedule.warmup, 0, length), length)
    if not schedule.warmup:
        return after
    first = lr * float(schedule.share(np.zeros(1), length)[0])
    return np.where(step < schedule.warmup, first * step / schedule.warmup, after)
