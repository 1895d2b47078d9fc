"""A knob that moves by a plan."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Length, Period
from backends.spec import Leaf
from backends.weighting.schedule import between


class Ramp(Leaf):
    """Move a knob linearly (or geometrically) from one value to another: curriculum on a constant or a weight."""

    kind: Literal["ramp"] = "ramp"
    knob: Annotated[str, Field(pattern=r"^(weight|task)/.+$")]
    """`weight/<term>` or `task/<constant>`; the ramp owns it."""
    start: float
    """Value until step `begin`."""
    end: float
    """Value from step `begin + steps` on."""
    begin: Length = 0
    """Step (or epoch: `2 epochs`) at which it starts to move."""
    steps: Period
    """Steps (or epochs) that the change takes."""
    scale: Literal["linear", "log"] = "linear"
    """log: equal factors per step; both values must be positive."""

    @model_validator(mode="after")
    def _possible(self) -> Ramp:
        for name, value in (("start", self.start), ("end", self.end)):
            if self.scale == "log" and value <= 0:
                raise PydanticCustomError(
                    "ramp", "a logarithmic ramp needs positive values ({name}: {value})", {"name": name, "value": value}
                )
            if self.knob.startswith("weight/") and value < 0:
                raise PydanticCustomError(
                    "ramp", "a weight is not negative ({name}: {value})", {"name": name, "value": value}
                )
        return self

    def values(self, step: int, n: int) -> NDArray[np.float64]:
        """The knob's values at the steps `step` … `step + n - 1`."""
        at = np.arange(step, step + n, dtype=np.float64)
        return between(at, self.start, self.end, self.begin, self.steps, geometric=self.scale == "log")
