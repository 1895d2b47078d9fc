"""Stopping where a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from backends.errors import UserError
from backends.spec import Leaf
from orchestrator.hooks import Ask, Moment


class EarlyStopping(Leaf):
    """Stop when a metric has not improved for some evaluations."""

    kind: Literal["early_stopping"] = "early_stopping"
    metric: str = "validation/total"
    """Metric of the evaluations that is watched."""
    patience: PositiveInt = 10
    """Evaluations in a row without improvement after which the run stops."""
    min_delta: NonNegativeFloat = 0.0
    """A smaller change is no improvement."""
    mode: Literal["min", "max"] = "min"
    """Whether small or large values are good."""

    def make(self, folder: Path) -> StopsEarly:
        """The callback itself."""
        return StopsEarly(self)


class StopsEarly:
    """The behaviour of `early_stopping`."""

    def __init__(self, spec: EarlyStopping) -> None:
        self.spec, self.best, self.waited = spec, math.inf, 0

    def step(self, moment: Moment) -> Ask | None:
        """Look at an evaluation, where there is one."""
        if not moment.metrics:
            return None
        value = watched(self.spec.kind, self.spec.metric, moment) * (1 if self.spec.mode == "min" else -1)
        if value < self.best - self.spec.min_delta:
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited < self.spec.patience:
            return None
        plural = "s" if self.waited > 1 else ""
        return Ask(stop=f"{self.spec.metric} has not improved for {self.waited} evaluation{plural}")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": None if math.isinf(self.best) else self.best, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.waited = int(state["waited"])


def watched(kind: str, metric: str, moment: Moment) -> float:
    """The value of the metric that a callback watches. Raises UserError where the evaluation does not have it."""
    if metric not in moment.metrics:
        raise UserError(
            f"{kind} watches {metric!r}, which this run does not report; it reports "
            + ", ".join(sorted(moment.metrics)),
            path="callbacks",
        )
    return moment.metrics[metric]
