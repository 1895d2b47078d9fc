"""The uploader: one process per run that sends the run folder to MLflow, so that training never waits for it.

    python -m orchestrator.uploader RUN_FOLDER [--once]

It reads the run's files and never writes to them; its own state is `upload.json`. A store that is slow, away or
refuses is tried again with growing pauses. The process ends when the run's end has been sent, or some time after the
run's processes are gone. It has a session of its own (Ctrl-C does not reach it) and a low priority.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.jsonl import read_json
from orchestrator.mlflow_store import environment
from orchestrator.spool import EVENTS, Sent, backlog

if TYPE_CHECKING:
    from orchestrator.folder import RunFolder

FINISH_S = 60.0
"""Longest wait at a run's end without any progress (a fresh local store needs 12 s for its tables)."""
GOODBYE = b"end\n"
"""Written to the process's stdin at a run's end; the end of stdin without it means that the run's process died."""
BUSY = 4
"""Exit code of a process that found another uploader at work."""


@dataclass(frozen=True)
class Report:
    """What MLflow has of a run."""

    complete: bool
    """Everything that the run has written so far is there."""
    folder: str
    uri: str
    run_id: str | None = None
    sent: int = 0
    """Metric points that MLflow has accepted."""
    unsent: int = 0
    """Metric points and figures that are still only in the run folder."""
    error: str = ""

    def __str__(self) -> str:
        if self.complete:
            return f"MLflow run {self.run_id} has everything ({self.sent} points) at {self.uri}"
        why = f" ({self.error})" if self.error else ""
        count = "1 point has" if self.unsent == 1 else f"{self.unsent} points have"
        return f"{count} not reached MLflow{why}; kept in {self.folder}: run `orchestrator sync {self.folder}`"


def report(folder: Path, error: str = "") -> Report:
    """The present state, from the files alone."""
    sent, record = Sent.load(folder), read_json(folder / "run.json")
    unsent = backlog(folder, sent)
    complete = sent.state == "done" and not unsent and not error
    known = read_json(folder / "mlflow.json")
    return Report(
        complete,
        str(folder),
        str(record.get("uri", "")),
        known.get("run_id"),
        sent.sent,
        unsent,
        "" if complete else error or sent.error,
    )


# --- from outside ---


def start(folder: RunFolder | Path) -> Handle:
    """Start the uploader of a run. Never raises: a run goes on without it."""
    path = folder if isinstance(folder, Path) else folder.path
    events = path / EVENTS
    since = events.stat().st_size if events.exists() else 0
    try:
        return Handle(path, _spawn(path, "--since", str(since), stdin=subprocess.PIPE))
    except OSError as error:
        return Handle(path, None, f"the uploader can't be started: {error}")


def sync(folder: RunFolder | Path, timeout: float = 600.0) -> Report:
    """Send now what has not been sent, and wait for it. `timeout` in seconds."""
    path = folder if isinstance(folder, Path) else folder.path
    process = _spawn(path, "--once", stdin=subprocess.DEVNULL)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return report(path, f"not done after {timeout:g} s")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return report(path, "" if code == 0 else _last_words(path, code))


class Handle:
    """A running uploader, as the process that started it sees it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes] | None, error: str = "") -> None:
        self.folder, self.process, self._error = folder, process, error

    def finish(self, wait_s: float = 10.0) -> Report:
        """Nothing more will be written: wait until everything is sent, then report.

        While the store answers, the wait goes on as long as there is progress (at most a minute without); a store that
        is away or refuses is given `wait_s` seconds in all. What is not sent by then stays in the run folder.
        """
        process = self.process
        if process is None:
            return report(self.folder, self._error)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(GOODBYE)
            with contextlib.suppress(OSError):
                process.stdin.close()
        began = moved = time.monotonic()
        seen: Any = None
        while process.poll() is None:
            sent = Sent.load(self.folder)
            now = time.monotonic()
            mark = (sent.sent, sent.offsets, len(sent.files), sent.told)
            if mark != seen:
                seen, moved = mark, now
            if (sent.state == "retrying" and now - began > wait_s) or now - moved > FINISH_S:
                process.terminate()
                process.wait()
                return report(self.folder, sent.error or "MLflow does not answer")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        self.process = None
        code = process.returncode
        return report(self.folder, "" if code == 0 else _last_words(self.folder, code))


def _spawn(folder: Path, *options: str, stdin: int) -> subprocess.Popen[bytes]:
    ours = str(Path(__file__).resolve().parent.parent)
    paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.uploader", str(folder), *options],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment(), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        start_new_session=True,
    )


def _last_words(folder: Path, code: int) -> str:
    if code == BUSY:
        return "another uploader of this run is at work and sends the rest"
    return Sent.load(folder).error or f"the uploader ended with code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The uploader's process. 0: all is sent; 3: given up, the rest stays in the folder; 4: another is at work."""
    parser = argparse.ArgumentParser(prog="orchestrator.uploader", description="Send a run folder to MLflow.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is there and leave")
    parser.add_argument("--since", type=int, default=0, help="bytes of the events that belong to earlier attempts")
    options = parser.parse_args(arguments)
    os.environ.update(environment())
    os.nice(10)
    if not options.once:  # `ray job stop` and batch systems end every process of a run: this one sees to its end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from orchestrator.upload_process import Loop

    return Loop(options.folder, once=options.once, since=options.since).run()


if __name__ == "__main__":
    sys.exit(main())
