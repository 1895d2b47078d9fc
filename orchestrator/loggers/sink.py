"""What a logger is: something that takes a run's parameters, metrics and figures in order, and hears how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class About:
    """What a logger is told when it is opened."""

    folder: Path
    """The run folder."""
    project: str
    """What the run belongs to: its MLflow experiment, else the experiment's name."""
    id: str
    """The run's id, the same after a resume."""
    params: Mapping[str, Any]
    """The experiment file as flat parameters."""
    after: int
    """The last step that this logger has had; -1: none. What lies behind it in its own files was never confirmed."""

    @property
    def run(self) -> str:
        """The run as its folder is called."""
        return self.folder.name


class Sink(Protocol):
    """An open logger. Any exception closes it for good; the others go on."""

    def metrics(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """The metrics of one step; steps rise. What was not finite is NaN."""
        ...

    def figure(self, step: int, time_s: float, key: str, file: Path) -> None:
        """A picture (PNG). That of step 0 may come after metrics of later steps."""
        ...

    def flush(self) -> None:
        """From now on everything must survive the end of this process."""
        ...

    def close(self, status: str) -> None:
        """The run has ended, or its process has: finished, stopped, killed, preempted, failed."""
        ...
