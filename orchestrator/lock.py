"""The lock of a run folder: one process drives a run, and everybody can see which.

`LOCK` says who (process, machine, since when); its modification time is the heartbeat. A lock whose owner is gone is
taken over: on the same machine the process table decides (the process's start time tells a reused number), on
another machine, after a reboot or in another container the age of the heartbeat.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from backends.errors import StorageFailed, UserError
from orchestrator.jsonl import read_json, write_json

log = logging.getLogger("orchestrator")

HEARTBEAT_S = 5.0
STALE_S = 60.0
"""Without a heartbeat for so long, an owner that can't be asked counts as gone."""


class Lock:
    """A lock that this process holds until `release`; usable in a `with` statement."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)
        self._thread.start()

    def beat(self) -> bool:
        """Show that the owner lives. False where the lock is no longer ours: another process took it over."""
        if read_json(self.path).get("token") != self._token:
            return False
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return True

    def release(self) -> None:
        """Give the folder free. Never touches the lock of another owner."""
        self._done.set()
        self._thread.join(timeout=1)
        if self.beat():
            self.path.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            if not self.beat():
                log.error("%s was taken over by another process while this one still runs", self.path)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def acquire(path: Path) -> Lock:
    """Take the lock file `path` for this process. Raises UserError that says who holds it, where somebody does."""
    folder = path.parent
    with _alone(folder):
        holder = owner(path)
        if holder is not None:
            raise UserError(_in_use(path, holder))
        me = _identity()
        try:
            write_json(path, me)
        except StorageFailed as error:
            raise UserError(f"the run folder can't be used: {error}") from error
    return Lock(path, me["token"])


def owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock and lives (`pid`, `host`, `since`); None where nobody does."""
    holder = read_json(path)
    return holder if holder and _lives(holder, path) else None


def _in_use(path: Path, holder: Mapping[str, Any]) -> str:
    """Who runs this folder."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder.get("since") or 0)))
    elsewhere = "" if _is_here(holder) else f" (if that machine is gone: try again in {STALE_S:.0f} s)"
    who = f"process {holder.get('pid')} on {holder.get('host')} since {since}{elsewhere}"
    return f"{path.parent} is running already: {who}; `orchestrator stop {path.parent}` ends it with a checkpoint"


def _identity() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "process_started": _process_started(os.getpid()),
        "since": time.time(),
        "token": os.urandom(8).hex(),
    }


def _lives(holder: Mapping[str, Any], path: Path) -> bool:
    if _is_here(holder):
        started = _process_started(holder.get("pid"))
        return started is not None and started == holder.get("process_started")
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except OSError:
        return False


def _is_here(holder: Mapping[str, Any]) -> bool:
    """Whether the holder's process would be in this machine's process table."""
    return holder.get("host") == socket.gethostname() and holder.get("boot") == _boot()


def _process_started(pid: Any) -> float | None:
    """When a process was started, in a form that two calls agree on; None where it is gone or a zombie."""
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])  # in clock ticks since the boot: no clock can move it
    except (OSError, IndexError, ValueError):
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 1)
    except psutil.Error:
        return None


def _boot() -> str:
    """Names one run of one machine, and the process table of one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return str(int(psutil.boot_time()))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time looks at a lock and takes it. Where the file system can't do that (some network
    ones), two that start within a millisecond may both go on; the heartbeat tells the first."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
