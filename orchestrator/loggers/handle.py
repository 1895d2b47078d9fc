"""The loggers' process as the run sees it: started beside the run, told when it is over, never waited for in vain."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from orchestrator.folder import Lines, RunFolder

FINISH_S = 60.0
"""Longest wait for loggers at a run's end."""
FOLLOW = "orchestrator.loggers.follow"


class Handle:
    """A running process, and the file that takes what it says on stderr."""

    def __init__(self, folder: RunFolder, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self.folder, self.process, self.said = folder, process, said

    def finish(self, wait_s: float = FINISH_S) -> None:
        """The run has written everything: wait until the loggers have it. Whatever goes wrong becomes a warning."""
        with self.said:
            try:
                self.process.communicate(b"end\n", timeout=wait_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                _warn(self.folder, f"the loggers were not done {wait_s:g} s after the run; it is all in the run folder")
                return
            if code := self.process.returncode:
                self.said.seek(0)
                lines = self.said.read().decode(errors="replace").strip().splitlines() or ["without a word"]
                _warn(self.folder, f"the loggers' process ended with code {code}: {lines[-1]}")


def start(folder: RunFolder) -> Handle | None:
    """Start the process of a run that has loggers. Never raises: a run goes on without, warned."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
    try:
        return Handle(folder, _spawn(folder.path, said), said)
    except OSError as error:
        said.close()
        _warn(folder, f"the loggers can't be started: {error}")
        return None


def _warn(folder: RunFolder, message: str) -> None:
    Lines(folder.events).append({"time": time.time(), "step": 0, "event": "warning", "message": message})


def _spawn(folder: Path, said: IO[bytes]) -> subprocess.Popen[bytes]:
    ours = str(Path(__file__).resolve().parents[2])
    paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    return subprocess.Popen(
        [sys.executable, "-m", FOLLOW, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=environment,
        start_new_session=True,
    )
