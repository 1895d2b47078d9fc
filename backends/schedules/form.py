"""What all learning-rate schedules have in common: a warmup, and a share of the stage's rate as a function of time."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from backends.periods import Length, known
from backends.spec import Leaf

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Steps = NDArray[np.float64]


class Form(Leaf):
    """A schedule. Lengths are steps, or epochs until the experiment is resolved."""

    warmup: Length = 0
    """Steps (or `2 epochs`) over which the rate grows linearly from 0 to the one that the schedule begins with."""

    def share(self, since: Steps, length: int) -> Steps:
        """The rate as a share of the stage's, `since` >= 0 steps after the warmup, of `length` steps after it."""
        raise AssertionError(f"{type(self).__name__} has no shape")

    def needs(self) -> tuple[int, str]:
        """The stage must have so many steps or more; and what of the file says so."""
        return 0, ""

    def misfit(self, steps: int) -> str:
        """What is wrong with this schedule in a stage of so many steps; empty where it fits."""
        length = getattr(self, "steps", None)
        if length is not None and length > steps:
            return (
                f"the schedule is {length} steps long, longer than its stage ({steps}); shorten it or give the stage "
                "more"
            )
        within = length or steps
        if self.warmup and self.warmup >= within:
            return f"a warmup of {self.warmup} steps leaves nothing of {within} steps; shorten it"
        needed, what = self.needs()
        if known(needed) and needed > within:
            return f"{what} needs a stage of at least {needed} steps, this one has {within}; shorten it"
        return ""
