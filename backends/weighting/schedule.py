"""Weights that follow a plan: linear, exponential or in steps, each term on its own; a function of the step alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Length, Period, known
from backends.spec import Leaf
from backends.weighting.strategy import Seen, State, Strategy, Vector, kept


def between(
    step: Vector, start: float, end: float, begin: int, steps: int, *, geometric: bool = False
) -> NDArray[np.float64]:
    """`start` until step `begin`, exactly `end` from `begin + steps` on, and on the way by equal differences per step,
    or by equal factors where `geometric` (both values positive)."""
    part = np.clip((step - begin) / steps, 0.0, 1.0)
    return start ** (1 - part) * end**part if geometric else start * (1 - part) + end * part


class LinearWeight(Leaf):
    """w(t) = start + (end - start) t, with t from 0 to 1 over `steps` steps."""

    kind: Literal["linear"] = "linear"
    start: NonNegativeFloat
    """Weight until step `begin`."""
    end: NonNegativeFloat
    """Weight from step `begin + steps` on."""
    begin: Length = 0
    """Step (or epoch: `2 epochs`) at which it starts to move."""
    steps: Period
    """Steps (or epochs) that the change takes."""

    def at(self, step: Vector) -> Vector:
        """The weights at these steps."""
        return between(step, self.start, self.end, self.begin, self.steps)


class ExponentialWeight(Leaf):
    """w(t) = start (end / start)^t, with t from 0 to 1 over `steps` steps: equal factors per step."""

    kind: Literal["exponential"] = "exponential"
    start: PositiveFloat
    """Weight until step `begin`."""
    end: PositiveFloat
    """Weight from step `begin + steps` on."""
    begin: Length = 0
    """Step (or epoch: `2 epochs`) at which it starts to move."""
    steps: Period
    """Steps (or epochs) that the change takes."""

    def at(self, step: Vector) -> Vector:
        """The weights at these steps."""
        return between(step, self.start, self.end, self.begin, self.steps, geometric=True)


class StepWeight(Leaf):
    """w = start + (end - start) m / M where m of the M milestones are reached: equal jumps."""

    kind: Literal["step"] = "step"
    start: NonNegativeFloat
    """Weight before the first milestone."""
    end: NonNegativeFloat
    """Weight from the last milestone on."""
    milestones: Annotated[tuple[Period, ...], Field(min_length=1)]
    """Steps (or epochs) at which the weight jumps, in rising order."""

    @field_validator("milestones")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if known(*value) and any(b <= a for a, b in itertools.pairwise(value)):
            raise PydanticCustomError("milestones", "must rise from one to the next")
        return value

    def at(self, step: Vector) -> Vector:
        """The weights at these steps."""
        part = np.searchsorted(self.milestones, step, side="right") / len(self.milestones)
        return self.start * (1 - part) + self.end * part


TermSchedule = Annotated[LinearWeight | ExponentialWeight | StepWeight, Field(discriminator="kind")]


class Plan(Protocol):
    """A live value that is a function of the step."""

    @property
    def knob(self) -> str:
        """Its name in the table."""
        ...

    def values(self, step: int, n: int) -> Vector:
        """Its values at the steps `step` … `step + n - 1`."""
        ...


@dataclass(frozen=True)
class Planned:
    """The scheduled weight of one term."""

    knob: str
    schedule: LinearWeight | ExponentialWeight | StepWeight

    def values(self, step: int, n: int) -> Vector:
        """Its values at the steps `step` … `step + n - 1`."""
        return self.schedule.at(np.arange(step, step + n, dtype=np.float64))


class ScheduledWeights(Strategy):
    """Each term's weight by a schedule of its own; terms without one keep the weight of `values`.

    The value at step k is the one that step k (counted from 0 over all stages) is weighed with. These are the weight
    schedules that Opifex' PhysicsLossConfig promises (`weight_schedule`, `step_milestones`), per term and by steps.
    """

    kind: Literal["schedule"] = "schedule"
    terms: Annotated[dict[str, TermSchedule], Field(min_length=1)]
    """Schedule of each term: `pde: {kind: linear, start: 0.1, end: 1, steps: 1000}`."""

    @model_validator(mode="after")
    def _one_owner(self) -> ScheduledWeights:
        for name in self.values:
            if name in self.terms:
                raise PydanticCustomError(
                    "owners",
                    "'{name}' has a schedule in `terms` already; keep one of them",
                    {"name": name, "path": f"weights.values.{name}"},
                )
        return self

    def init(self, terms: Sequence[str]) -> State:
        """The weights of the first step."""
        state = super().init(terms)
        first = {plan.knob.removeprefix("weight/"): float(plan.values(0, 1)[0]) for plan in self.plans()}
        return {"weights": {term: first.get(term, weight) for term, weight in state["weights"].items()}}

    def named(self) -> dict[str, str]:
        """The terms of `values` and of `terms`."""
        return super().named() | {f"weights.terms.{term}": term for term in self.terms}

    def plans(self) -> tuple[Planned, ...]:
        """What the table of live values takes its columns from."""
        return tuple(Planned(f"weight/{term}", schedule) for term, schedule in self.terms.items())

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """Nothing that was seen changes a schedule."""
        return kept(state)
