"""When things happen: a pure function of the experiment file and the step, never of the clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backends.stages import Stage


@dataclass(frozen=True)
class Position:
    """Where a run is: `step` counts over all stages, `within` inside stage number `stage`."""

    step: int = 0
    stage: int = 0
    within: int = 0


@dataclass(frozen=True)
class Timeline:
    """Stages and the periods at which the loop must come up for air."""

    stages: Sequence[Stage]
    periods: tuple[int, ...]
    """A dispatch ends at each multiple of each of these."""
    capacity: int = 1000
    """Most steps of one dispatch."""
    marks: tuple[int, ...] = ()
    """A dispatch ends at each of these steps, too."""

    def dispatch(self, at: Position) -> int:
        """How many steps to do in one go from `at`: up to the next event or the end of the stage."""
        left = self.stages[at.stage].steps - at.within
        ahead = [m - at.step for m in self.marks if m > at.step]
        return min([self.capacity, left, *(p - at.step % p for p in self.periods), *ahead])

    def after(self, at: Position, done: int, *, ended: bool = False) -> Position:
        """The position after `done` steps; the next stage where this one is over or can't go on."""
        within = at.within + done
        if (ended or within >= self.stages[at.stage].steps) and at.stage + 1 < len(self.stages):
            return Position(at.step + done, at.stage + 1, 0)
        return Position(at.step + done, at.stage, within if not ended else self.stages[at.stage].steps)

    def over(self, at: Position) -> bool:
        """Whether the last stage is done."""
        return at.stage == len(self.stages) - 1 and at.within >= self.stages[at.stage].steps

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(s.steps for s in self.stages)


def due(step: int, period: int | None) -> bool:
    """Whether something that happens every `period` steps happens at `step`."""
    return bool(period) and step % (period or 1) == 0


def periods(values: Iterable[int | None]) -> tuple[int, ...]:
    """The periods that are set, each once."""
    return tuple(sorted({v for v in values if v}))
