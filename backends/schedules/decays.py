"""Schedules that hold the rate or lower it. The semantics are optax's."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Period, known
from backends.schedules.form import Factor, Form, Share, Steps


class Constant(Form):
    """The rate stays as it is, after an optional linear warmup."""

    kind: Literal["constant"] = "constant"

    def share(self, since: Steps, length: int) -> Steps:
        return np.ones_like(since)


class Linear(Form):
    """After the warmup, a straight line from the rate down to `final` times the rate, as `optax.linear_schedule`."""

    kind: Literal["linear"] = "linear"
    steps: Period | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""
    final: Share = 0.0
    """The last rate, as a fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        return (1 - self.final) * (1 - since / length) + self.final


class Polynomial(Form):
    """As `linear`, with the time that is left raised to `power`, as `optax.polynomial_schedule`."""

    kind: Literal["polynomial"] = "polynomial"
    power: PositiveFloat = 2.0
    """1 is a straight line; above 1 the rate falls fast first, below 1 at the end."""
    steps: Period | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""
    final: Share = 0.0
    """The last rate, as a fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        return (1 - self.final) * (1 - since / length) ** self.power + self.final


class Cosine(Form):
    """After the warmup, half a cosine from the rate down to `final` times the rate."""

    kind: Literal["cosine"] = "cosine"
    steps: Period | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""
    final: Share = 0.0
    """The last rate, as a fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        # Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts.
        return self.final + (1 - self.final) * 0.5 * (1 + np.cos(np.pi * since / length))


class Exponential(Form):
    """After the warmup, the rate is multiplied by `decay` every `every` steps, smoothly."""

    kind: Literal["exponential"] = "exponential"
    decay: Factor = 0.9
    """Factor per `every` steps."""
    every: Period = 1000
    """Steps per factor of `decay`."""
    steps: Period | None = None
    """Length with the warmup, after which the rate stays; default: the stage's steps."""
    final: Share = 0.0
    """The rate never falls below this fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        return np.maximum(self.decay ** (since / self.every), self.final)


class Step(Form):
    """After the warmup, the rate is multiplied by `gamma` every `every` steps, at once (torch's `StepLR`)."""

    kind: Literal["step"] = "step"
    every: Period = 1000
    """Steps (or `5 epochs`) between drops."""
    gamma: Factor = 0.1
    """Factor of each drop."""
    final: Share = 0.0
    """The rate never falls below this fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        return np.maximum(self.gamma ** np.floor(since / self.every), self.final)

    def needs(self) -> tuple[int, str]:
        return (self.warmup + self.every + 1 if known(self.warmup, self.every) else 0), "its first drop"


class MultiStep(Form):
    """The rate is multiplied by `gamma` at each milestone, as `optax.piecewise_constant_schedule` (`MultiStepLR`)."""

    kind: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Period, ...], Field(min_length=1)]
    """Steps of the stage (the warmup counts) or epochs, rising: the first steps with the lower rates."""
    gamma: Factor = 0.1
    """Factor of each drop."""
    final: Share = 0.0
    """The rate never falls below this fraction of the stage's."""

    @model_validator(mode="after")
    def _rising(self) -> MultiStep:
        if known(self.warmup, *self.milestones):
            if any(b <= a for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
                raise PydanticCustomError("milestones", "milestones must rise: each is a step of the stage")
            if self.milestones[0] <= self.warmup > 0:
                raise PydanticCustomError("milestones", "the first milestone lies within the warmup; move it behind")
        return self

    def share(self, since: Steps, length: int) -> Steps:
        passed = np.searchsorted(np.array(self.milestones), since + self.warmup, side="right")
        return np.maximum(self.gamma ** passed.astype(np.float64), self.final)

    def needs(self) -> tuple[int, str]:
        last = self.milestones[-1]
        return (last + 1 if known(last) else 0), "its last milestone"
