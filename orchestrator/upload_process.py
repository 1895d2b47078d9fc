"""What the uploader's process does: send, pause, look whether the run is still there, and leave when it is over."""

from __future__ import annotations

import os
import random
import select
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.folder import RunFolder, owner
from orchestrator.mlflow_store import StoreRefused
from orchestrator.replay import MLFLOW_STATUS, Replay
from orchestrator.spool import Sent, State

POLL_S = 1.0
HEARTBEAT_S = 5.0
GRACE_S = 5.0
"""How long a run without a living process may still say how it ended."""
LONGEST_PAUSE_S = 15.0
LINGER_S = 60.0
"""How long an uploader goes on trying after the process that started it is gone."""
ONCE_ATTEMPTS = 2
SENT, GAVE_UP, BUSY = 0, 3, 4
"""Exit codes."""


class Loop:
    """The uploader of one run folder.

    `once`: send what is there and leave. `since`: bytes of the events that belong to earlier attempts of the run,
    so that their end does not count as the end of this one.
    """

    def __init__(self, folder: Path, *, once: bool = False, since: int = 0) -> None:
        self.folder, self.once, self.since = folder, once, since
        self.parent = os.getppid()
        self.closed_at: float | None = None
        """When our stdin was closed: the process that started this one said goodbye, or died."""
        self.told_to_leave = False
        self.sent = Sent()
        self.saved_at = 0.0

    def run(self) -> int:
        """Upload until the run has ended. Returns the exit code."""
        lock = FileLock(self.folder / ".upload.lock")
        while True:
            try:
                with lock.acquire(timeout=LINGER_S if self.once else POLL_S):
                    self.sent = Sent.load(self.folder)
                    return self._upload()
            except Timeout:  # another uploader, of an earlier attempt, is still at work
                if not self.once and self.closed_at is None:
                    self._listen(0)
                if self.once or self.told_to_leave:
                    return BUSY

    def _upload(self) -> int:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        replay: Replay | None = None
        failures = 0
        self._say("connecting")
        while True:
            try:
                replay = replay or Replay(self.folder, self.sent)
                moved = replay.step()
                failures = 0
                self._say("sending", quiet=not moved)
                if not moved and self._over(replay):
                    self._say("done")
                    return SENT
            except (MlflowException, SQLAlchemyError, StoreRefused, OSError) as error:
                replay, moved, failures = None, False, failures + 1
                self._say("retrying", plain(error, self.sent.store))
                if self._hopeless(failures):
                    return GAVE_UP
            if not moved:
                self._pause(min(2.0 ** (failures - 1), LONGEST_PAUSE_S) if failures else POLL_S)

    def _say(self, state: State, error: str = "", *, quiet: bool = False) -> None:
        """Keep `upload.json` up to date; when idle only now and then."""
        if quiet and state == self.sent.state and time.time() - self.saved_at < HEARTBEAT_S:
            return
        self.sent.state, self.sent.error = state, error
        self.sent.heartbeat = self.saved_at = time.time()
        self.sent.save(self.folder)

    def _over(self, replay: Replay) -> bool:
        """All that was written is sent: whether to leave, after telling MLflow how the run ended where it has."""
        if self.sent.final > self.since:
            replay.close(self.sent.status)
            return True
        running = owner(RunFolder(self.folder))
        if self.once or self.told_to_leave:
            if running is None:
                self._close_abandoned(replay)
            return True
        if self.closed_at is None:
            return False
        if running is not None and running.get("pid") != self.parent:
            return True  # resumed by a process that has an uploader of its own
        if running is None and time.monotonic() - self.closed_at > GRACE_S:
            self._close_abandoned(replay)
            return True
        return False

    def _close_abandoned(self, replay: Replay) -> None:
        """The run's process is gone without a word (kill -9, a machine that went down)."""
        if self.sent.status in MLFLOW_STATUS:
            replay.close(self.sent.status)
        else:
            replay.close("killed", "its process ended without a word")

    def _hopeless(self, failures: int) -> bool:
        if self.once:
            return failures >= ONCE_ATTEMPTS
        return self.closed_at is not None and time.monotonic() - self.closed_at > LINGER_S

    def _pause(self, seconds: float) -> None:
        """Sleep; wake up when the process that started this one closes our stdin (by dying, for example)."""
        seconds *= 1 + 0.2 * random.random()
        if self.once or self.closed_at is not None:
            time.sleep(seconds)
        else:
            self._listen(seconds)

    def _listen(self, seconds: float) -> None:
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        heard = os.read(sys.stdin.fileno(), 4096) if readable else None
        if heard:
            self.told_to_leave = True
        if heard is not None or os.getppid() != self.parent:
            self.closed_at = time.monotonic()


def plain(error: Exception, uri: str) -> str:
    """One line for the user out of what MLflow, its database or the network said."""
    text = " ".join(str(error).split())
    for sign, meaning in (
        ("Connection refused", f"nothing answers at {uri}"),
        ("timed out", f"{uri} does not answer"),
        ("NameResolutionError", f"the host of {uri} is not known"),
        ("Name or service not known", f"the host of {uri} is not known"),
        ("readonly database", f"{uri} is read-only"),
        ("unable to open database file", f"{uri} can't be opened"),
        ("database is locked", f"{uri} is locked by another process"),
    ):
        if sign in text:
            return meaning
    return text[:300] or type(error).__name__
