"""A run is a folder: what is in it, how it is made, found again, owned and asked to stop."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backends.errors import UserError, nearest
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

HEARTBEAT_S = 5.0


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def experiment(self) -> Path:
        """The resolved experiment: it runs again where it lies."""
        return self.path / "experiment.yaml"

    @property
    def original(self) -> Path:
        """The experiment file as the user wrote it."""
        return self.path / "original.yaml"

    @property
    def code(self) -> Path:
        """Copies of the user's own files."""
        return self.path / "code"

    @property
    def provenance(self) -> Path:
        """Commit, packages, machine."""
        return self.path / "provenance.json"

    @property
    def run(self) -> Path:
        """What the uploader needs to know: id, experiment, parameters, tags."""
        return self.path / "run.json"

    @property
    def mlflow(self) -> Path:
        """The MLflow run, once it exists."""
        return self.path / "mlflow.json"

    @property
    def metrics(self) -> Path:
        """Metrics by step, one JSON line each."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happened: status, figures, checkpoints, warnings."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The log of rank 0."""
        return self.path / "log.txt"

    @property
    def figures(self) -> Path:
        """Pictures, with their data beside them."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """`step-000005000/`, …"""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """Who runs it."""
        return self.path / "LOCK"

    @property
    def _stop(self) -> Path:
        return self.path / "STOP"

    def request_stop(self, reason: str) -> None:
        """Ask the run to stop after its present dispatch: killed, preempted or stopped. The first request counts."""
        if not self._stop.exists():
            temporary = self.path / f".STOP.{os.getpid()}"
            temporary.write_text(reason, encoding="utf-8")
            temporary.replace(self._stop)

    def stop_requested(self) -> str | None:
        """The reason of a request, or None; cheap enough for every dispatch."""
        try:
            return self._stop.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def clear_stop(self) -> None:
        """Forget a request, and the result of an earlier attempt."""
        self._stop.unlink(missing_ok=True)
        self.result.unlink(missing_ok=True)


# --- making and finding ---


def storage_of(option: str | None) -> Path:
    """The folder of run folders: the option, else ORCHESTRATOR_RUNS, else `runs`."""
    text = option or os.environ.get("ORCHESTRATOR_RUNS") or "runs"
    if text.startswith("file://"):
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
    path = out.expanduser().absolute() if out else storage / f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        if out and path.exists() and any(path.iterdir()):
            raise UserError(f"--out {out}: this folder is not empty; name a new one")
        path.mkdir(parents=True, exist_ok=out is not None)
        test = path / ".writable"
        test.write_text("")
        test.unlink()
    except OSError as error:
        what = f"--out {out}" if out else f"storage {str(storage)!r}"
        raise UserError(f"{what}: can't be written ({error.strerror or error})", path="" if out else "storage") from error
    return RunFolder(path)


def find(run: str, storage: str | None = None) -> RunFolder:
    """The run that a person means: a folder, an MLflow run id, a name, `latest`, or an unambiguous beginning."""
    path = Path(run).expanduser()
    if (path / "run.json").exists():
        return RunFolder(path.absolute())
    folders = _folders(storage_of(storage))
    if not folders:
        raise UserError(f"there are no runs in {storage_of(storage)} (set --storage or ORCHESTRATOR_RUNS), and {run!r} is no run folder")
    if run == "latest":
        return RunFolder(folders[-1])
    exact = [f for f in folders if run in (f.name, _mlflow_id(f))]
    named = [f for f in folders if read_json(f / "run.json").get("name") == run]
    begins = [f for f in folders if any(x.startswith(run) for x in (f.name, _mlflow_id(f), f.name.rpartition("-")[2]))]
    for found in (exact, named, begins):
        if len(found) == 1:
            return RunFolder(found[0])
        if found:
            raise UserError(f"{run!r} may be any of {', '.join(f.name for f in found)}; write more of it")
    raise UserError(f"there is no run {run!r} in {storage_of(storage)}{nearest(run, [f.name for f in folders])}")


def _mlflow_id(folder: Path) -> str:
    return str(read_json(folder / "mlflow.json").get("run_id") or "-")


def _folders(storage: Path) -> list[Path]:
    """Run folders, oldest first."""
    found = [f.parent for f in storage.glob("*/run.json")] if storage.is_dir() else []
    return sorted(found, key=lambda f: (read_json(f / "run.json").get("created") or 0.0, f.name))


def list_runs(storage: Path) -> list[dict[str, Any]]:
    """One summary per run, oldest first."""
    return [_summary(RunFolder(f)) for f in _folders(storage)]


def _summary(folder: RunFolder) -> dict[str, Any]:
    about, result = read_json(folder.run), read_json(folder.result)
    metrics: dict[str, Any] = dict(result.get("metrics") or {})
    step = result.get("step", 0)
    if not result:
        for record in read_jsonl(folder.metrics)[0]:
            metrics.update(record["metrics"])
            step = record["step"]
    return {
        "name": about.get("name", folder.path.name),
        "folder_name": folder.path.name,
        "folder": str(folder.path),
        "id": about.get("id"),
        "run_id": read_json(folder.mlflow).get("run_id"),
        "status": status(folder),
        "step": step,
        "started": about.get("created"),
        "metrics": metrics,
    }


def status(folder: RunFolder) -> str:
    """waiting, running, finished, stopped, killed, preempted or failed. A dead owner without a result: killed."""
    if _owner(folder.lock) is not None:
        return "running"
    ended = read_json(folder.result).get("status")
    if ended:
        return str(ended)
    states = [e["status"] for e in read_jsonl(folder.events)[0] if e.get("event") == "status"]
    return "waiting" if not states or set(states) == {"waiting"} else "killed"


# --- owning ---


@contextlib.contextmanager
def acquire(folder: RunFolder) -> Iterator[None]:
    """Own a run folder while it runs; a heartbeat tells others. Raises UserError where somebody else does."""
    holder = _owner(folder.lock)
    if holder is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since"]))
        raise UserError(f"{folder.path} is running already: process {holder['pid']} on {holder['host']} since {since}")
    folder.lock.unlink(missing_ok=True)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": psutil.Process().create_time(), "since": time.time()}
    try:
        with folder.lock.open("x", encoding="utf-8"):
            pass  # whoever creates the file has it
    except FileExistsError:
        raise UserError(f"{folder.path} is being started by somebody else at this moment") from None
    except OSError as error:
        raise UserError(f"{folder.path} can't be written ({error.strerror})") from error
    write_json(folder.lock, me)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(folder.lock)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)
        folder.lock.unlink(missing_ok=True)


def owner(folder: RunFolder) -> dict[str, Any] | None:
    """Who runs it now (`pid`, `host`, `since`); None where nobody does."""
    return _owner(folder.lock)


def _owner(lock: Path) -> dict[str, Any] | None:
    """Who holds a lock and lives; on another machine: whose heartbeat is less than a minute old."""
    holder = read_json(lock)
    if not holder:
        return None
    if holder.get("host") != socket.gethostname():
        try:
            return holder if time.time() - lock.stat().st_mtime < 12 * HEARTBEAT_S else None
        except OSError:
            return None
    if holder.get("boot") != _boot():
        return None
    try:
        process = psutil.Process(int(holder["pid"]))
        alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(holder["started"])) < 1.0
    except (psutil.Error, KeyError, ValueError):
        return None
    return holder if alive else None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return str(psutil.boot_time())
