"""Schedules that lower the rate and raise it again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Period, known
from backends.schedules.form import Factor, Form, Share, Steps


class CyclicCosine(Form):
    """Half a cosine from the rate down to `final` times the rate, again and again (Loshchilov and Hutter, SGDR, arXiv
    1608.03983, equation 5), as `optax.sgdr_schedule` and torch's `CosineAnnealingWarmRestarts`."""

    kind: Literal["cyclic_cosine"] = "cyclic_cosine"
    cycle: Period
    """Steps (or `10 epochs`) of the first cycle."""
    growth: Annotated[float, Field(ge=1)] = 1.0
    """Each cycle is so many times longer than the one before it (rounded to whole steps)."""
    shrink: Factor = 1.0
    """Each cycle begins with so many times the rate of the one before it."""
    final: Share = 0.0
    """The rate at the end of a cycle, as a fraction of the stage's."""

    def share(self, since: Steps, length: int) -> Steps:
        begins, lengths = self._cycles(int(since.max(initial=0)))
        cycle = np.searchsorted(begins, since, side="right") - 1
        part = (since - begins[cycle]) / lengths[cycle]
        top = np.maximum(self.shrink ** cycle.astype(np.float64), self.final)
        return self.final + (top - self.final) * 0.5 * (1 + np.cos(np.pi * part))

    def needs(self) -> tuple[int, str]:
        return (self.warmup + self.cycle if known(self.warmup, self.cycle) else 0), "its first cycle"

    def _cycles(self, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first step, length) of the cycles up to the one that holds step `last`."""
        begins, lengths = [0], [self.cycle]
        while begins[-1] + lengths[-1] <= last:
            begins.append(begins[-1] + lengths[-1])
            lengths.append(round(self.cycle * self.growth ** len(lengths)))
        return np.array(begins), np.array(lengths)


class Cyclic(Form):
    """From `low` times the rate up to the rate and down again, in straight lines (Smith, arXiv 1506.01186, section 3),
    as torch's `CyclicLR`."""

    kind: Literal["cyclic"] = "cyclic"
    cycle: Period
    """Steps (or `10 epochs`) from one low to the next."""
    low: Share = 0.1
    """The lowest rate, as a fraction of the stage's."""
    shrink: Factor = 1.0
    """Each cycle rises so many times as high as the one before it (0.5: Smith's `triangular2`)."""

    def share(self, since: Steps, length: int) -> Steps:
        cycle = np.floor(since / self.cycle)
        height = 1 - np.abs(2 * (since / self.cycle - cycle) - 1)
        return self.low + (1 - self.low) * height * self.shrink**cycle

    def needs(self) -> tuple[int, str]:
        return (self.warmup + self.cycle if known(self.warmup, self.cycle) else 0), "its first cycle"


class OneCycle(Form):
    """From `start` times the rate up to the rate and down to `final` times it, once (Smith and Topin, arXiv
    1708.07120), as `optax.cosine_onecycle_schedule` and `optax.linear_onecycle_schedule`."""

    kind: Literal["one_cycle"] = "one_cycle"
    shape: Literal["cosine", "linear"] = "cosine"
    """Of the ways up and down. `linear` comes back to `start` at `fall`, and goes on to `final` from there."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The part of the length after which the rate is at its highest."""
    fall: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """The part of the length at which a `linear` cycle is back at `start`."""
    start: Factor = 0.04
    """The first rate, as a fraction of the stage's (optax: 1 / div_factor)."""
    final: Share = 4e-6
    """The last rate, as a fraction of the stage's (optax: 1 / (div_factor * final_div_factor))."""
    steps: Period | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""

    @model_validator(mode="after")
    def _rises_before_it_falls(self) -> OneCycle:
        if self.shape == "linear" and self.fall <= self.rise:
            context: dict[str, Any] = {"fall": self.fall, "rise": self.rise}
            raise PydanticCustomError("one_cycle", "`fall` ({fall}) must be above `rise` ({rise})", context)
        return self

    def share(self, since: Steps, length: int) -> Steps:
        marks = [0, int(self.rise * length), length]
        values = [self.start, 1.0, self.final]
        if self.shape == "linear":
            marks.insert(2, int(self.fall * length))
            values.insert(2, self.start)
        part = np.clip(np.searchsorted(marks, since, side="right") - 1, 0, len(marks) - 2)
        at, begin, end = since, np.array(marks)[part], np.array(marks)[part + 1]
        low, high = np.array(values)[part], np.array(values)[part + 1]
        moved = np.where(end > begin, (at - begin) / np.maximum(end - begin, 1), 1.0)
        if self.shape == "cosine":
            moved = 0.5 * (1 - np.cos(np.pi * moved))
        return low + (high - low) * moved
