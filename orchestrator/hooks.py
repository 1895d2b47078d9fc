"""What callbacks see and what they may ask for: they ask, the loop acts.

A callback has up to three methods, each optional:

    start(moment) -> Ask | None            before the first step (also of a resumed run)
    step(moment) -> Ask | None             after every dispatch of n steps
    end(moment, outcome) -> None           after the last one, whatever the outcome

and, where it remembers something, `state() -> dict` (JSON-able, into the checkpoint) and `load(state)`.
Asks take effect at the dispatch boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Status = Literal["waiting", "running", "finished", "stopped", "killed", "preempted", "failed"]
"""finished: all steps done; stopped: early, by a callback or scheduler; killed: Ctrl-C or `stop`; preempted: SIGTERM."""


@dataclass(frozen=True)
class Moment:
    """The run between two dispatches."""

    step: int
    """Optimizer steps done since the start of the run."""
    stage: str
    """Name of the stage that was just stepped."""
    terms: tuple[str, ...]
    losses: NDArray[np.float64]
    """[n, terms]: unweighted loss terms of the n steps just done; [0, terms] at the start."""
    knobs: Mapping[str, float]
    """Every live value: `lr`, `weight/…`, `task/…`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The evaluation, where one was due at this step; else empty."""


@dataclass(frozen=True)
class Ask:
    """What a callback wants done before the next dispatch."""

    knobs: Mapping[str, float] = field(default_factory=dict)
    """New values of knobs that the callback owns."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics to record at this step."""
    save: bool = False
    """Save a checkpoint now."""
    stop: str | None = None
    """Stop the run, with this reason; its status becomes `stopped`."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Status
    step: int
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last recorded value of each metric."""
    checkpoint: str | None = None
    """Name of the newest checkpoint folder."""
    train_s: float = 0.0
    """Seconds spent in optimizer steps."""


@runtime_checkable
class Callback(Protocol):
    """The full set of methods; the loop calls those that exist."""

    def step(self, moment: Moment) -> Ask | None:
        """Called after every dispatch."""
        ...


def call(callback: Any, method: str, *args: Any) -> Any:
    """Call `method` where the callback has it."""
    found = getattr(callback, method, None)
    return None if found is None else found(*args)
