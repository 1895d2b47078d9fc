"""What callbacks see and what they may ask for: they ask, the loop acts.

A callback has up to three methods, each optional:

    start(moment) -> Ask | None            before the first step (also of a resumed run)
    step(moment) -> Ask | None             after every dispatch of n steps
    end(moment, outcome) -> Ask | None     after the last one, whatever the outcome

and, where it remembers something, `state() -> dict` (JSON-able, into the checkpoint) and `load(state)`.
Asks take effect at the dispatch boundary. Attributes that it may have:

    every: int                            a dispatch ends at each multiple of it
    marks: tuple[int, ...]                a dispatch ends at each of these steps
    needs: frozenset[str]                 what `Backend.probe` shows in `moment.probe` at the multiples of `every`

and a method `attach(surroundings)`, called once before `start`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.errors import OrchestratorError, OwnCodeFailed

Status = Literal["waiting", "running", "finished", "stopped", "killed", "preempted", "failed"]
"""finished: all steps done; stopped: early, by a callback or scheduler; killed: Ctrl-C or `stop`; preempted: SIGTERM"""
METHODS = ("start", "step", "end")
"""What a callback may have."""


@dataclass(frozen=True)
class Work:
    """What steps took."""

    seconds: float = 0.0
    """Wall time, waiting for samples included."""
    waited_s: float = 0.0
    """Wall time of it that was spent waiting for samples."""
    samples: int = 0
    """Samples that the steps read, of all workers."""

    def __add__(self, other: Work) -> Work:
        return Work(self.seconds + other.seconds, self.waited_s + other.waited_s, self.samples + other.samples)


@dataclass(frozen=True)
class Surroundings:
    """Where a callback works."""

    folder: Path
    """The run folder."""
    device: str
    """"cpu", "cuda:0", …"""
    rank: int
    """0 writes; the others only compute."""
    module: Any
    """The backend's folder (`backends.protocol`)."""
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of the trained parameters, in the order of flat vectors."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """The group of each parameter that the file puts into one."""


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
    probe: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """What callbacks `need` at this step (`losses`, `grad_norms`, `gradient`, …: see `Backend.probe`)."""
    work: Work = Work()
    """What the steps just done took."""


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
    artifacts: Sequence[str] = ()
    """Files and folders of the run folder (relative paths) that MLflow gets as well. Also as the answer of `end`."""


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


def call(callback: Any, method: str, *args: Any) -> Any:
    """Call `method` where the callback has it. What it raises becomes OwnCodeFailed, with file and line."""
    found = getattr(callback, method, None)
    if found is None:
        return None
    with own_code(found, f"{type(callback).__name__}.{method}"):
        return found(*args)


def ask(callback: Any, method: str, moment: Moment) -> Ask | None:
    """Call `start` or `step` of a callback. Raises OwnCodeFailed where it answers with anything but an Ask."""
    answer = call(callback, method, moment)
    if answer is None or isinstance(answer, Ask):
        return answer
    given = type(answer).__name__
    raise OwnCodeFailed(
        f"{type(callback).__name__}.{method} returned {given}; it must return an orchestrator.Ask or None"
    )


@contextmanager
def own_code(function: Any, name: str) -> Iterator[None]:
    """Turns what the user's `function` raises into OwnCodeFailed that begins with `mine.py:12: Watch.step: `."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise OwnCodeFailed(f"{_place(function, error)}{name}: raised {type(error).__name__}: {error}") from error


def _place(function: Any, error: Exception) -> str:
    """The innermost line of the file that defines `function`, else the line that raised."""
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    own = [f for f in frames if code is not None and f.filename == code.co_filename] or frames
    if own:
        return f"{Path(own[-1].filename).name}:{own[-1].lineno}: "
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}: " if code is not None else ""
