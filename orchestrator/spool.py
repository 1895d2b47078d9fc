"""The spool of a run as its reader sees it: complete lines after an offset, and what MLflow has accepted so far.

Writers append JSON lines and never look back; the uploader moves the offsets in `upload.json` only after MLflow has
accepted what lies before them. What is sent again after a crash has the same step and time, so MLflow stores it once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from orchestrator.jsonl import read_json, write_json

METRIC_STREAMS = ("metrics.jsonl", "system.jsonl")
EVENTS = "events.jsonl"
CHUNK_BYTES = 1 << 20

State = Literal["connecting", "sending", "retrying", "done"]


@dataclass
class Sent:
    """What MLflow has accepted, and how the uploader is doing: the content of `upload.json`."""

    store: str = ""
    """Tracking URI that all of this is about."""
    offsets: dict[str, int] = field(default_factory=dict)
    """Bytes of each stream that have been dealt with."""
    steps: dict[str, int] = field(default_factory=dict)
    """Highest step sent of each metric: a resumed run repeats steps, MLflow would draw them twice."""
    files: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each uploaded artifact."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """First step at which each metric was NaN or infinite."""
    checkpoints: list[tuple[str, bool]] = field(default_factory=list)
    """Checkpoints in order of appearance, and whether each was the best."""
    params: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of `run.json` as they were sent (a resume may change them)."""
    status: str = "waiting"
    """The last status event, its message and time (ms)."""
    message: str = ""
    status_ms: int = 0
    final: int = 0
    """Where in the events the run said that it has ended; 0 while it has not."""
    told: str = ""
    """The status that MLflow shows."""
    sent: int = 0
    """Metric points accepted."""
    refused: int = 0
    """Records that MLflow will never take (an invalid name); they stay in the run folder."""
    state: State = "connecting"
    error: str = ""
    heartbeat: float = 0.0

    @classmethod
    def load(cls, folder: Path) -> Sent:
        """The content of `upload.json`; a fresh one where it is missing or damaged (MLflow then gets all again)."""
        try:
            return TypeAdapter(cls).validate_python(read_json(folder / "upload.json"))
        except ValidationError:
            return cls()

    def save(self, folder: Path) -> None:
        """Replace `upload.json` atomically. A full disk is survived: what is not noted is sent again."""
        try:
            write_json(folder / "upload.json", asdict(self))
        except OSError:
            self.error = self.error or "upload.json can't be written"

    def forget(self, store: str) -> None:
        """Start over for another store (or one that lost the run)."""
        self.__dict__.update(Sent(store=store).__dict__)


def complete_lines(file: Path, offset: int, limit: int = CHUNK_BYTES) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(end offset, record) of the complete lines after `offset`, about `limit` bytes of them.

    The record is None for a line that is no JSON object (torn by a crash, then glued to the next). A last line without
    its newline is still being written. A file that became shorter is read from its beginning.
    """
    try:
        with file.open("rb") as source:
            if offset > source.seek(0, os.SEEK_END):
                offset = 0
            source.seek(offset)
            while limit > 0 and (line := source.readline()).endswith(b"\n"):
                offset += len(line)
                limit -= len(line)
                yield offset, _record(line)
    except FileNotFoundError:
        return


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def backlog(folder: Path, sent: Sent | None = None) -> int:
    """How many metric points and figures of the run MLflow does not have yet."""
    sent = sent or Sent.load(folder)
    count = 0
    for name in METRIC_STREAMS:
        for _, record in complete_lines(folder / name, sent.offsets.get(name, 0), 1 << 40):
            count += sum(1 for _ in points(record, sent.steps)) if record else 0
    for _, record in complete_lines(folder / EVENTS, sent.offsets.get(EVENTS, 0), 1 << 40):
        count += bool(record and record.get("event") == "figure")
    return count


def points(record: Mapping[str, Any], steps: Mapping[str, int]) -> Iterator[tuple[str, Any, int, int]]:
    """(metric, value, time in ms, step) of one line, without metrics that were sent up to that step already."""
    try:
        step, milliseconds, metrics = int(record["step"]), int(record["time"] * 1000), record["metrics"]
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    if isinstance(metrics, Mapping):
        for name, value in metrics.items():
            if step > steps.get(name, -1):
                yield name, value, milliseconds, step
