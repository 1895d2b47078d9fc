"""The framework's own process group inside Ray Train workers, for torch and JAX alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

import backends
from backends.errors import RunFailed
from orchestrator.ray_worker import keep_own_caches

log = logging.getLogger("orchestrator")

LEAVE_S = 10.0


@dataclass
class ProcessGroup(BackendConfig):
    """Which backend's group the workers join."""

    name: str = "jax"
    gpu: bool = False
    timeout_s: int = 120

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when workers start and end."""
        return _JoinedWorkers


class _JoinedWorkers(Backend):
    """Joins the workers when they start, with a check that they really see each other."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Rank 0's node is the meeting point. Raises RunFailed where the workers do not meet."""
        size = len(worker_group)
        if size == 1:
            return
        host, port = worker_group.execute_single(0, get_address_and_port)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        c: ProcessGroup = backend_config
        joining = [
            worker_group.execute_single_async(rank, _join, c.name, address, rank, size, c.gpu, c.timeout_s)
            for rank in range(size)
        ]
        joined = ray.get(joining)
        if any(count != size for count in joined):
            raise RunFailed(f"the workers do not see each other: {size} were started, they count {joined}")

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Leave the group; where a worker has failed the others would wait for it in vain."""
        polled = worker_group.get_latest_poll_status()
        if len(worker_group) == 1 or (polled is not None and polled.errors):
            return
        try:
            ray.get(worker_group.execute_async(_leave, backend_config.name), timeout=LEAVE_S)
        except Exception as error:  # the run is over and its result is safe
            log.debug("leaving the process group: %s", error)


def _join(framework: str, address: str, rank: int, size: int, gpu: bool, timeout_s: int) -> int:
    keep_own_caches(framework)
    return backends.load(framework).join(address, rank, size, gpu=gpu, timeout_s=timeout_s)


def _leave(framework: str) -> None:
    backends.load(framework).leave()
