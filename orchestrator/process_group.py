"""The framework's own process group inside Ray Train workers, for torch and JAX alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

log = logging.getLogger("orchestrator")


@dataclass
class ProcessGroup(BackendConfig):
    """Which framework's group the workers join."""

    framework: str = "jax"
    gpu: bool = False
    timeout_s: int = 120

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when workers start and end."""
        return _JoinedWorkers


class _JoinedWorkers(Backend):
    """Joins the workers when they start, with a check that they really see each other."""

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Rank 0's node is the meeting point."""
        size = len(worker_group)
        if size == 1:
            return
        host, port = worker_group.execute_single(0, get_address_and_port)
        joined = ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _join,
                    backend_config.framework,
                    f"{host}:{port}",
                    rank,
                    size,
                    backend_config.gpu,
                    backend_config.timeout_s,
                )
                for rank in range(size)
            ]
        )
        if any(count != size for count in joined):
            raise RuntimeError(f"the workers do not see each other: {size} were started, they count {joined}")

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Leave the group; a worker that is gone already does not matter."""
        if len(worker_group) == 1:
            return
        try:
            ray.get(worker_group.execute_async(_leave, backend_config.framework), timeout=10)
        except Exception as error:
            log.debug("leaving the process group: %s", error)


def _join(framework: str, address: str, rank: int, size: int, gpu: bool, timeout_s: int) -> int:
    import backends

    return backends.load(framework).join(address, rank, size, gpu=gpu, timeout_s=timeout_s)


def _leave(framework: str) -> None:
    import backends

    backends.load(framework).leave()
