"""A framework's own profiler on a window of steps: torch.profiler or jax.profiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from backends.periods import Length
from backends.spec import Leaf
from orchestrator.hooks import Ask, Moment, Outcome, Surroundings


class Profiler(Leaf):
    """Profile the steps `start` … `start + steps - 1` of rank 0.

    The trace lies in the run folder under `profile/step-<start>/` and goes to MLflow: `trace.json` of torch opens in
    Perfetto or chrome://tracing, the folder of JAX in TensorBoard or XProf, its `*.trace.json.gz` in Perfetto.
    """

    kind: Literal["profiler"] = "profiler"
    start: Length = 100
    """First step of the window; compilation happens at step 0 and at the beginning of each stage."""
    steps: PositiveInt = 20
    """Steps of the window. Traces are large: some hundred kB per step."""

    def make(self, folder: Path) -> Profiles:
        """The callback itself."""
        return Profiles(self)


class Profiles:
    """The behaviour of `profiler`."""

    def __init__(self, spec: Profiler) -> None:
        self.spec = spec
        self.marks = (spec.start, spec.start + spec.steps)
        """Steps at which a dispatch must end."""
        self.around: Surroundings | None = None
        self.stop: Callable[[], None] | None = None

    def attach(self, around: Surroundings) -> None:
        """Learn where traces go, and who makes them."""
        self.around = around

    def start(self, moment: Moment) -> Ask | None:
        """A window that begins with the run, or one in whose middle the run was interrupted."""
        return self.step(moment)

    def step(self, moment: Moment) -> Ask | None:
        """Begin or end the window."""
        begin, end = self.marks
        if self.stop is not None and moment.step >= end:
            return self._ended()
        if self.stop is None and begin <= moment.step < end and self.around is not None and self.around.rank == 0:
            target = self._target(self.around)
            target.mkdir(parents=True, exist_ok=True)
            self.stop = self.around.module.profile(target)
        return None

    def end(self, moment: Moment, outcome: Outcome) -> Ask | None:
        """A run that ends inside the window keeps what there is."""
        return self._ended() if self.stop is not None else None

    def _ended(self) -> Ask:
        assert self.stop is not None and self.around is not None
        stop, self.stop = self.stop, None
        stop()
        return Ask(artifacts=(self._target(self.around).relative_to(self.around.folder).as_posix(),))

    def _target(self, around: Surroundings) -> Path:
        return around.folder / "profile" / f"step-{self.spec.start:09d}"
