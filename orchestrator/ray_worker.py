"""What Ray Train runs in every worker: the same `work` as in process, with this worker's rank and its own caches."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.environment import environment
from backends.errors import OrchestratorError, RunFailed, StorageFailed
from backends.protocol import World

log = logging.getLogger("orchestrator")

ECHO_S = 3.0
"""A failed sum is nearly always the echo of another worker's end: this long the others' own failure goes first."""


class WorkerBug(Exception):
    """An exception that nobody foresaw, with the worker's traceback as its text."""


def ray_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train this worker's share. `config`: `job` (a `worker.Job` as data) and `backend`.

    Nothing goes through `ray.train.report`: it keeps no metric without a checkpoint of its own, and as a barrier of all
    workers it costs a tick of the controller (0.2 s) per evaluation. The run folder has all.
    """
    import ray.train

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    keep_own_caches(config["backend"])
    from orchestrator.worker import Host, Job, work

    job = Job(**config["job"])
    sees_storage(Path(job.folder), world.rank)

    with contextlib.redirect_stdout(PrintsToLog()):
        try:
            return work(job, Host(world))
        except OrchestratorError:
            raise
        except Exception as error:
            raise _carried(error, world) from error


def keep_own_caches(backend: str) -> None:
    """Compiled programs belong to this node's processor, not to the driver's. Before a framework is imported."""
    os.environ.update({k: v for k, v in environment(backend, 1, "cpu").items() if k.endswith("CACHE_DIR")})


def sees_storage(folder: Path, rank: int) -> None:
    """Write and read a file in the run folder from this node, before the first step. Raises StorageFailed."""
    here = socket.gethostname()
    if not (folder / "run.json").exists():
        raise StorageFailed(
            f"worker {rank} on {here} does not see the run folder {folder}: "
            "set `storage` to a folder that every node mounts"
        )
    test = folder / f".seen-by-{rank}"
    try:
        test.write_text(here, encoding="utf-8")
        back = test.read_text(encoding="utf-8")
        test.unlink()
    except OSError as error:
        raise StorageFailed(
            f"worker {rank} on {here} can't write to the run folder {folder}: {error.strerror}"
        ) from error
    if back != here:
        raise StorageFailed(f"worker {rank} on {here} reads something else from {test} than it wrote")


def _carried(error: Exception, world: World) -> Exception:
    """The error in a form that travels without the framework that made it."""
    text = "".join(traceback.format_exception(error)).rstrip()
    said = f"{type(error).__name__}: {error}".lower()
    if world.size > 1 and any(word in said for word in ("gloo", "nccl", "connection", "coordination", "peer")):
        time.sleep(ECHO_S)
        return RunFailed(f"worker {world.rank} lost the other workers: {str(error).strip().splitlines()[0]}")
    return WorkerBug(f"worker {world.rank} on {socket.gethostname()}:\n{text}")


class PrintsToLog(io.TextIOBase):
    """Standard output of a worker: what the user's own code prints goes to the run's log, line by line."""

    def __init__(self) -> None:
        self._rest = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Log every line that is complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("print: %s", line)
        return len(text)
