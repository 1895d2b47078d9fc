"""What rank 0 writes into the run folder while it trains: metrics, events, figures, the log.

Everything goes to local files first (append-only JSON lines that survive kill -9); the uploader sends it on.
Non-finite values are written as null.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backends.protocol import World
from backends.task import Picture, Predict, Task
from orchestrator import resolved
from orchestrator.config import Experiment
from orchestrator.folder import Lines, RunFolder, read_jsonl
from orchestrator.provenance import config_hash
from orchestrator.system_metrics import SystemMetrics
from orchestrator.tracking import TAG

log = logging.getLogger("orchestrator")


class Silent:
    """What the other ranks write: nothing."""

    facts: Mapping[str, Any] = {}
    best_steps: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def about(self, device: str, versions: Mapping[str, str], world: World) -> None: ...
    def phase(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...
    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...
    def draw(self, task: Task, predict: Predict, feed: Any, step: int) -> None: ...
    def domain(self, task: Task, feed: Any) -> None: ...
    def saved(self, path: Path, step: int, best: bool) -> None: ...
    def keep(self, step: int, paths: Sequence[str]) -> None: ...
    def note_end(self, step: int, stage: str, why: str) -> None: ...
    def compilations(self, counts: Mapping[str, int]) -> None: ...


class Recorder(Silent):
    """The run folder's only writer while the run trains."""

    def __init__(self, folder: RunFolder, experiment: Experiment, *, resumed: bool) -> None:
        self.folder, self.experiment = folder, experiment
        self.facts = {
            "seed": experiment.seed,
            "backend": experiment.backend,
            "config_hash": config_hash(experiment.tree()),
        }
        self._metrics, self._events = Lines(folder.metrics), Lines(folder.events)
        # A resumed run repeats the steps after its checkpoint, with the same values: they are recorded already.
        records = read_jsonl(folder.metrics)[0] if resumed else []
        self._recorded = max((int(r["step"]) for r in records), default=-1)
        events = read_jsonl(folder.events)[0] if resumed else []
        bests = [int(e["step"]) for e in events if e.get("event") == "checkpoint" and e.get("best")]
        self.best_steps = frozenset(bests[-1:])
        self._log: logging.Handler = logging.NullHandler()
        self._level = logging.NOTSET
        tracking = experiment.tracking
        self._machine = SystemMetrics(folder.system, tracking.system_metrics_every_s) if tracking.enabled else None
        self._warned: set[str] = set()
        self._first: Callable[[], None] | None = None
        """Draws the pictures of step 0, once the first steps are done."""

    def __enter__(self) -> Self:
        self._log = _LogFile(self.folder.log, encoding="utf-8", delay=True)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._log)
        if self._machine is not None:
            self._machine.__enter__()
        self._level = log.level
        if log.level == logging.NOTSET:
            log.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._draw_first()
        if error is not None and kind is not None:
            self._note(f"failed at step {max(self._recorded, 0)}: {error}", (kind, error, trace))
        if self._machine is not None:
            self._machine.__exit__(kind, error, trace)
        log.removeHandler(self._log)
        log.setLevel(self._level)
        self._log.close()

    def event(self, event: str, step: int = 0, **more: Any) -> None:
        """Append one event."""
        self._events.append({"time": time.time(), "step": step, "event": event, **more})

    def about(self, device: str, versions: Mapping[str, str], world: World) -> None:
        """What the run turned out to run on: obeyed on resume, kept in every checkpoint."""
        self.facts = {**self.facts, "device": device, "versions": dict(versions), "world": world.size}
        if self.experiment.device == "auto":
            resolved.pin(self.folder, device=device)
        found = {"device": device, "workers": str(world.size), "backend": self.experiment.backend}
        self.event("tags", tags={f"{TAG}{name}": value for name, value in found.items()})
        log.info("device %s, %d worker(s), %s", device, world.size, ", ".join(f"{k} {v}" for k, v in versions.items()))

    def phase(self, message: str) -> None:
        """What the run is doing before its first step."""
        self.event("status", status="running", message=message)
        log.info("%s", message)

    def warn(self, message: str) -> None:
        """Something was changed or is slower than it could be; each message once."""
        if message in self._warned:
            return
        self._warned.add(message)
        self.event("warning", message=message)
        log.warning("%s", message)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of `metrics.jsonl`."""
        if step <= self._recorded:
            return
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        self._metrics.append({"step": step, "time": time.time(), "metrics": clean})
        if self._metrics.dropped:
            self.warn(f"metrics can't be written to {self.folder.metrics} (is the disk full?): some are lost")
        self._recorded = step
        if step > 0:
            self._draw_first()

    def domain(self, task: Task, feed: Any) -> None:
        """The geometry with its points and normals, where there is one: to be looked at before training."""
        from orchestrator.domain_figure import drawn

        try:
            made = drawn(task, feed, self.folder.figures / f"geometry-{0:09d}", self.experiment.figures.formats)
            if made is not None:
                self.event("figure", 0, path=str(made.relative_to(self.folder.path)), key="figures/geometry")
        except Exception as error:
            self._not_drawn(0, error)

    def draw(self, task: Task, predict: Predict, feed: Any, step: int) -> None:
        """The task's pictures and the histories. A picture that fails is a warning, never the end of a run.

        Drawing those of step 0 takes a second that the first step need not wait for: it is done behind it.
        """
        try:
            pictures = task.pictures(predict, feed.take(step, 1).fixed())
        except Exception as error:
            self._not_drawn(step, error)
            return
        if step:
            self._draw_first()
            self._draw(pictures, step)
        else:
            self._first = lambda: self._draw(pictures, 0)

    def _draw(self, pictures: Sequence[Picture], step: int) -> None:
        from orchestrator.figures import draw_all

        try:
            for path, key in draw_all(pictures, self.folder, self.experiment, step):
                self.event("figure", step, path=str(path.relative_to(self.folder.path)), key=key)
        except Exception as error:
            self._not_drawn(step, error)

    def _draw_first(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first()

    def _not_drawn(self, step: int, error: Exception) -> None:
        if isinstance(error, OSError):
            self.warn(f"figures of step {step} could not be written: {error}")
        else:
            self.warn(f"figures of step {step} could not be drawn: {str(error) or type(error).__name__}")
            self._note("the picture that failed", (type(error), error, error.__traceback__))

    def saved(self, path: Path, step: int, best: bool) -> None:
        """A checkpoint is on the disk."""
        if best:
            self.best_steps = frozenset({step})
        self.event("checkpoint", step, path=str(path.relative_to(self.folder.path)), best=best)

    def keep(self, step: int, paths: Sequence[str]) -> None:
        """Files and folders of the run folder that the tracker gets as well."""
        for path in paths:
            self.event("artifact", step, path=path)

    def note_end(self, step: int, stage: str, why: str) -> None:
        """A stage ended before its last step: which, and why."""
        self.event("stage", step, stage=stage, message=f"stage {stage!r} ended at step {step}: {why}")
        log.info("stage %r ended at step %d: %s", stage, step, why)

    def _note(self, message: str, error: Any = None) -> None:
        """A line of `log.txt` alone: whoever launched the run says it to the user."""
        self._log.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), error))

    def compilations(self, counts: Mapping[str, int]) -> None:
        """How often each function was compiled."""
        self.event("compilations", counts=dict(counts))
        log.info("compilations: %s", dict(counts))


class _LogFile(logging.FileHandler):
    """A log that a full disk makes incomplete, not loud."""

    def handleError(self, record: logging.LogRecord) -> None:
        return None
