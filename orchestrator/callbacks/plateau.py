"""A lower learning rate where a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from backends.spec import Fraction, Leaf
from orchestrator.callbacks.early_stopping import watched
from orchestrator.hooks import Ask, Moment


class ReduceOnPlateau(Leaf):
    """Multiply the learning rate by `factor` when a metric has not improved for some evaluations.

    It owns the knob `lr_scale`, by which every stage's schedule (and every group's rate) is multiplied; what counts
    as an improvement is what torch's ReduceLROnPlateau counts (relative threshold).
    """

    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    metric: str = "validation/total"
    """Metric of the evaluations that is watched."""
    mode: Literal["min", "max"] = "min"
    """Whether small or large values are good."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The rate is multiplied by this."""
    patience: PositiveInt = 10
    """So many evaluations in a row without improvement are let pass; the next one lowers the rate."""
    threshold: Fraction = 1e-4
    """An improvement is a change by more than this share of the best value."""
    cooldown: NonNegativeInt = 0
    """Evaluations after a reduction that do not count."""
    lowest: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The scale never falls below this."""

    def make(self, folder: Path) -> ReducesRate:
        """The callback itself."""
        return ReducesRate(self)


class ReducesRate:
    """The behaviour of `reduce_on_plateau`."""

    def __init__(self, spec: ReduceOnPlateau) -> None:
        self.spec, self.best, self.waited, self.cooling, self.scale = spec, math.inf, 0, 0, 1.0

    def step(self, moment: Moment) -> Ask | None:
        """Look at an evaluation, where there is one."""
        if not moment.metrics:
            return None
        value = watched(self.spec.kind, self.spec.metric, moment)
        value = value if self.spec.mode == "min" else -value
        slack = 0.0 if math.isinf(self.best) else self.spec.threshold * abs(self.best)
        if value < self.best - slack:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.cooling:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited <= self.spec.patience:
            return None
        self.waited, self.cooling = 0, self.spec.cooldown
        self.scale = max(self.scale * self.spec.factor, self.spec.lowest)
        return Ask(knobs={"lr_scale": self.scale})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "waited": self.waited, "cooling": self.cooling, "scale": self.scale}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.waited, self.cooling = int(state["waited"]), int(state["cooling"])
        self.scale = float(state["scale"])
