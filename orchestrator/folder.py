"""A run is a folder: what is in it, how it is made, found again, owned and asked to stop."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from backends.errors import UserError, nearest
from orchestrator import lock
from orchestrator.jsonl import Lines, read_json, read_jsonl, write_json

__all__ = [
    "Lines",
    "RunFolder",
    "acquire",
    "create",
    "find",
    "list_runs",
    "owner",
    "read_json",
    "read_jsonl",
    "status",
    "storage_of",
    "write_json",
]

STOPS = ("killed", "preempted", "stopped")
"""Why somebody may ask a run to stop."""


class _Entry:
    """A file or folder with a fixed name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder | None, kind: type | None = None) -> Path:
        return Path(self.name) if folder is None else folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    experiment = _Entry("experiment.yaml")
    """The resolved experiment: it runs again where it lies."""
    resolved = _Entry("resolved.json")
    """What `experiment.yaml` and the files in `code/` were when the run wrote them."""
    original = _Entry("original.yaml")
    """The experiment file as the user wrote it."""
    code = _Entry("code")
    """Copies of the user's own files."""
    provenance = _Entry("provenance.json")
    """Commit, packages, machine."""
    run = _Entry("run.json")
    """What the uploader needs to know: id, experiment, parameters, tags."""
    mlflow = _Entry("mlflow.json")
    """The MLflow run, once it exists."""
    metrics = _Entry("metrics.jsonl")
    """Metrics by step, one JSON line each."""
    system = _Entry("system.jsonl")
    """Readings of CPU, memory, disk, network and accelerators, one JSON line each."""
    events = _Entry("events.jsonl")
    """What happened: status, figures, checkpoints, warnings."""
    log = _Entry("log.txt")
    """The log of rank 0."""
    figures = _Entry("figures")
    """Pictures, with their data beside them."""
    checkpoints = _Entry("checkpoints")
    """`step-000005000/`, …"""
    result = _Entry("result.json")
    """How the run ended."""
    lock = _Entry("LOCK")
    """Who runs it (`orchestrator.lock`)."""
    stop = _Entry("STOP")
    """A request to stop, with its reason."""

    def request_stop(self, reason: str) -> None:
        """Ask the run to stop after its present dispatch: killed, preempted or stopped. The first request counts.

        May be called in a signal handler. Raises OSError where the folder can't be written at all.
        """
        if reason not in STOPS:
            raise ValueError(f"a run is stopped because it is one of {', '.join(STOPS)}, not {reason!r}")
        if self.stop.exists():
            return
        temporary = self.path / f".STOP.{os.urandom(4).hex()}"
        try:
            temporary.write_text(reason, encoding="utf-8")
            temporary.replace(self.stop)
        except OSError:  # a full disk still takes an empty file
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.stop.touch()

    def stop_requested(self) -> str | None:
        """The reason of a request, or None; cheap enough for every dispatch."""
        try:
            return self.stop.read_text(encoding="utf-8").strip() or STOPS[0]
        except OSError:
            return None

    def clear_stop(self) -> None:
        """Forget a request, and the result of an earlier attempt."""
        self.stop.unlink(missing_ok=True)
        self.result.unlink(missing_ok=True)


# --- making ---


def storage_of(option: str | None) -> Path:
    """The folder of run folders: the option, else ORCHESTRATOR_RUNS, else `runs`. Raises UserError for a bucket."""
    text = option or os.environ.get("ORCHESTRATOR_RUNS") or "runs"
    text = text.removeprefix("file://")
    if "://" in text:
        raise UserError(
            f"storage {text!r} is not a folder; run folders live in a file system that every worker mounts "
            "(checkpoints and metrics are appended and renamed there)",
            path="storage",
        )
    return Path(text).expanduser().absolute()


def create(storage: Path, name: str, out: Path | None = None) -> RunFolder:
    """Make an empty run folder, `<storage>/<name>-<8 hex digits>` or `out`. Raises UserError where it can't."""
    path = out.expanduser().absolute() if out else storage.absolute() / f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        if out and path.exists() and any(path.iterdir()):
            raise UserError(f"--out {out}: this folder is not empty; name a new one")
        path.mkdir(parents=True, exist_ok=out is not None)
        test = path / ".writable"
        test.write_text("a disk that is full refuses this", encoding="utf-8")
        test.unlink()
    except OSError as error:
        what = f"--out {out}" if out else f"storage {str(storage)!r}"
        raise UserError(
            f"{what}: can't be written ({error.strerror or error}); choose a folder that you may write to",
            path="" if out else "storage",
        ) from error
    return RunFolder(path)


# --- finding ---


@dataclass(frozen=True)
class _Found:
    """One run of a storage folder, under all the names that it can be asked for by."""

    folder: RunFolder
    about: dict[str, Any] = field(repr=False)

    @property
    def started(self) -> float:
        """When it was made."""
        return float(self.about.get("created") or 0.0)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.about.get("name") or self.folder.path.name.rpartition("-")[0])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The folder's name, its short id, the run's id and the MLflow run's."""
        folder = self.folder.path.name
        ids = (folder.rpartition("-")[2], self.about.get("id"), read_json(self.folder.mlflow).get("run_id"))
        return (folder, *(str(i) for i in ids if i))


def find(run: str, storage: str | None = None) -> RunFolder:
    """The run that a person means: a folder, an MLflow run id, a name, `latest`, or an unambiguous beginning.

    What fits exactly comes before what only begins so. Raises UserError with the candidates, or with the nearest name.
    """
    path = Path(run).expanduser()
    if (path / "run.json").exists():
        return RunFolder(path.absolute())
    where = storage_of(storage)
    entries = _runs(where)
    if not entries:
        raise UserError(
            f"{run!r} is no run folder, and there are no runs in {where} (set --storage or ORCHESTRATOR_RUNS)"
        )
    if run == "latest":
        return entries[-1].folder
    for fitting in (
        [e for e in entries if run in e.ids],
        [e for e in entries if run == e.name],
        [e for e in entries if run and any(i.startswith(run) for i in e.ids)],
    ):
        if len(fitting) == 1:
            return fitting[0].folder
        if fitting:
            raise UserError(_ambiguous(run, fitting))
    known = {e.folder.path.name for e in entries} | {e.name for e in entries}
    raise UserError(f"there is no run {run!r} in {where}{nearest(run, known)}")


def _ambiguous(run: str, fitting: Sequence[_Found]) -> str:
    shown = [
        f"{e.folder.path.name} ({status(e.folder)}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(e.started))})"
        for e in fitting[-10:]
    ]
    more = f" and {len(fitting) - len(shown)} older ones" if len(fitting) > len(shown) else ""
    return f"{run!r} may be any of {', '.join(shown)}{more}; write more of it, or `latest`"


def _runs(storage: Path) -> list[_Found]:
    """The runs of a storage folder, oldest first."""
    found = [f.parent for f in storage.glob("*/run.json")] if storage.is_dir() else []
    entries = [_Found(RunFolder(f), read_json(f / "run.json")) for f in found]
    return sorted(entries, key=lambda e: (e.started, e.folder.path.name))


def list_runs(storage: Path) -> list[dict[str, Any]]:
    """One summary per run, oldest first: name, folder, ids, status, step, start, last metrics."""
    return [_summary(e) for e in _runs(storage)]


def _summary(entry: _Found) -> dict[str, Any]:
    folder, result = entry.folder, read_json(entry.folder.result)
    metrics: dict[str, Any] = dict(result.get("metrics") or {})
    step = result.get("step", 0)
    if not result:
        for record in _last_records(folder.metrics):
            metrics.update(record.get("metrics") or {})
            step = record.get("step", step)
    return {
        "name": entry.name,
        "folder_name": folder.path.name,
        "folder": str(folder.path),
        "id": entry.about.get("id"),
        "run_id": read_json(folder.mlflow).get("run_id"),
        "status": status(folder),
        "step": step,
        "started": entry.about.get("created"),
        "metrics": metrics,
    }


def _last_records(path: Path, size: int = 1 << 17) -> list[dict[str, Any]]:
    """Records of the last `size` bytes: a list of runs must not read what a long run wrote in a week."""
    try:
        start = max(path.stat().st_size - size, 0)
    except OSError:
        return []
    return read_jsonl(path, start)[0]  # the first line is cut, so no JSON, so skipped


# --- owning ---


def acquire(folder: RunFolder) -> lock.Lock:
    """Own a run folder while it runs (`with acquire(folder):`). Raises UserError where somebody else does."""
    return lock.acquire(folder.lock)


def owner(folder: RunFolder) -> dict[str, Any] | None:
    """Who runs it now (`pid`, `host`, `since`); None where nobody does."""
    return lock.owner(folder.lock)


def status(folder: RunFolder) -> str:
    """waiting, running, finished, stopped, killed, preempted or failed. A dead owner without a result: killed."""
    states = [str(e.get("status")) for e in read_jsonl(folder.events)[0] if e.get("event") == "status"]
    begun = any(s != "waiting" for s in states)
    if owner(folder) is not None:
        return "running" if begun else "waiting"
    ended = read_json(folder.result).get("status")
    if ended:
        return str(ended)
    if folder.lock.exists():  # it died without a word; perhaps it had been told to go, and no time was left
        return folder.stop_requested() or "killed"
    return "killed" if states[-1:] == ["running"] else (states or ["waiting"])[-1]
