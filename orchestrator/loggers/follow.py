"""The process that follows a run folder and hands what is written there to the run's loggers.

    python -m orchestrator.loggers.follow RUN_FOLDER

Its own state is `loggers.json`: how far each logger is, so that a resumed run appends and a logger that was added on
resume gets the whole history. It leaves when the run says goodbye on stdin, or when that ends (the run's process died).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from orchestrator.folder import Lines, RunFolder, read_json, read_jsonl, write_json
from orchestrator.loggers import AnyLogger, LoggerSpec, named
from orchestrator.loggers.sink import About, Sink

STATE = "loggers.json"
POLL_S = 1.0
NAN = float("nan")


@dataclass
class Place:
    """How far a logger has read."""

    metrics: int = 0
    """Bytes of `metrics.jsonl`."""
    events: int = 0
    """Bytes of `events.jsonl`."""
    step: int = -1
    """The last step whose metrics it has."""
    figures: dict[str, int] = field(default_factory=dict)
    """The last step of each figure."""


class Follower:
    """One logger on its way through the run folder."""

    def __init__(self, name: str, spec: AnyLogger, folder: RunFolder, about: About, place: Place) -> None:
        self.name, self.folder, self.place = name, folder, place
        self.sink: Sink | None = None
        self._open = lambda: spec.open(about)

    def advance(self) -> bool:
        """Hand on what is new; whether there was anything. Raises whatever the logger raises."""
        # Events first: no metric that was written before one of them is missed.
        events, events_end = read_jsonl(self.folder.events, self.place.events)
        metrics, metrics_end = read_jsonl(self.folder.metrics, self.place.metrics)
        if self.sink is None:
            self.sink = self._open()
        figures = [e for e in events if e.get("event") == "figure"]
        for record in sorted([*metrics, *figures], key=lambda r: float(r.get("time") or 0.0)):
            self._hand_on(self.sink, record)
        moved = bool(metrics or figures)
        if moved:
            self.sink.flush()
        self.place.events, self.place.metrics = events_end, metrics_end
        return moved

    def _hand_on(self, sink: Sink, record: Mapping[str, Any]) -> None:
        step, time_s = int(record["step"]), float(record["time"])
        if "metrics" in record:
            if step > self.place.step:  # a resumed run may repeat itself
                sink.metrics(step, time_s, {k: NAN if v is None else float(v) for k, v in record["metrics"].items()})
                self.place.step = step
            return
        key, file = str(record["key"]), self.folder.path / str(record["path"])
        if file.suffix == ".png" and file.is_file() and step > self.place.figures.get(key, -1):
            sink.figure(step, time_s, key, file)
            self.place.figures[key] = step


class Loop:
    """All loggers of a run."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        kept, about = read_json(path / STATE), read_json(self.folder.run)
        self.places: dict[str, Place] = {}
        self.followers: list[Follower] = []
        for name, spec in named(_specs(self.folder)).items():
            place = Place(**kept[name]) if name in kept else Place()
            self.places[name] = place
            told = About(
                folder=path,
                project=str(about["experiment"]),
                id=str(about["id"]),
                params=about.get("params") or {},
                after=place.step,
            )
            self.followers.append(Follower(name, spec, self.folder, told, place))
        self.parent = os.getppid()

    def run(self) -> None:
        """Until the run has ended or its process is gone."""
        leaving = False
        while True:
            moved = [self._tried(follower, "advance") for follower in list(self.followers)]
            self._keep()
            if leaving and not any(moved):
                break
            leaving = leaving or self._told(0.0 if any(moved) else POLL_S)
        status = str(read_json(self.folder.result).get("status") or "killed")
        for follower in list(self.followers):
            if follower.sink is not None:
                self._tried(follower, "close", status)
        self._keep()

    def _tried(self, follower: Follower, what: str, *args: Any) -> bool:
        """A logger that fails is out, with one warning; nobody else notices."""
        try:
            return bool(follower.advance() if what == "advance" else follower.sink and follower.sink.close(*args))
        except Exception as error:
            self.followers.remove(follower)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            message = (
                f"the logger {follower.name} failed and is left out from step {max(follower.place.step, 0)} on: {said}"
            )
            Lines(self.folder.events).append({"time": time.time(), "step": 0, "event": "warning", "message": message})
            return False

    def _keep(self) -> None:
        state = {name: asdict(place) for name, place in self.places.items()}
        if state != read_json(self.folder.path / STATE):
            write_json(self.folder.path / STATE, state)

    def _told(self, seconds: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(readable) or os.getppid() != self.parent


def _specs(folder: RunFolder) -> tuple[AnyLogger, ...]:
    """The loggers of the resolved experiment, without the seconds that reading the rest of it would cost."""
    found = yaml.safe_load(folder.experiment.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[LoggerSpec, ...]).validate_python(found.get("loggers") or ())


def main() -> None:
    """The process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it leaves when the run does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    Loop(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
