"""Callbacks that the experiment file names: configuration and behaviour of each beside one another."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError
from backends.periods import Length, Period
from backends.spec import Leaf
from orchestrator.hooks import METHODS, Ask, Moment, own_code


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
        if self.spec.metric not in moment.metrics:
            raise UserError(
                f"early_stopping watches {self.spec.metric!r}, which this run does not report; it reports "
                + ", ".join(sorted(moment.metrics)),
                path="callbacks",
            )
        value = moment.metrics[self.spec.metric] * (1 if self.spec.mode == "min" else -1)
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
        part = np.clip((np.arange(step, step + n) - self.begin) / self.steps, 0.0, 1.0)
        if self.scale == "log":
            return self.start ** (1 - part) * self.end**part
        return self.start * (1 - part) + self.end * part  # exactly `end` at the end


class CustomCallback(Leaf):
    """The user's own callback: a class with any of the methods of `orchestrator.hooks`."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["custom"] = "custom"
    target: str
    """`mine.py:Watch`, a file beside the experiment file, or `package.module:Watch`; other keys are its arguments."""

    def make(self, folder: Path) -> Any:
        """The user's object, built with the other keys as keyword arguments."""
        from backends.own_code import load

        factory: Any = load(self.target, folder)
        with own_code(getattr(factory, "__init__", factory), self.target):
            return factory(**(self.model_extra or {}))

    def check(self, folder: Path) -> None:
        """Load the target and see whether it takes these arguments. Raises UserError."""
        from backends.own_code import load

        factory: Any = load(self.target, folder)
        if not callable(factory):
            raise UserError(f"{self.target} is no class; a callback is a class with a method step(moment)")
        try:
            inspect.signature(factory).bind(**(self.model_extra or {}))
        except TypeError as error:
            raise UserError(f"{self.target} can't be made with the keys given here: {error}") from error
        except ValueError:
            return  # made in C: only the call itself can tell
        if isinstance(factory, type) and not any(hasattr(factory, m) for m in METHODS):
            raise UserError(f"{self.target} has none of the methods {', '.join(METHODS)}; it would never be called")


CallbackSpec = Annotated[EarlyStopping | Ramp | CustomCallback, Field(discriminator="kind")]


def named(specs: Sequence[CallbackSpec], folder: Path) -> dict[str, Any]:
    """The callbacks of a file (ramps are knobs, not callbacks), by names that do not depend on where the file lies."""
    made: dict[str, Any] = {}
    for spec in specs:
        if isinstance(spec, Ramp):
            continue
        name = Path(spec.target).name if isinstance(spec, CustomCallback) else spec.kind
        count = sum(1 for known in made if known.partition("#")[0] == name)
        made[f"{name}#{count + 1}" if count else name] = spec.make(folder)
    return made
