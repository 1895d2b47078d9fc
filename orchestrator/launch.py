"""Hosts: where `orchestrator.worker.work` runs, in this process or in Ray Train workers.

One process-group backend serves both frameworks: Ray places the workers, each joins its framework's own
group (gloo on CPUs, nccl on GPUs) through `backends.<name>.join`. Ray's stock torch integration would load
torch in the driver (3.5 CPU-seconds), its JAX one trains two separate models on CPUs without a word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import backends
from backends.environment import environment
from backends.errors import UserError
from orchestrator.config import Experiment
from orchestrator.folder import Lines, RunFolder, read_jsonl
from orchestrator.worker import Host, Job, work


def in_process(job: Job, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Train in this process, without Ray. `callbacks`: objects beside those of the file."""
    return work(job, Host(callbacks=callbacks))


def in_ray_train(job: Job, experiment: Experiment) -> dict[str, Any]:
    """Train in Ray Train workers. Raises UserError where the cluster is too small, else what a worker raised."""
    from orchestrator.ray_cluster import connected

    folder = RunFolder(Path(job.folder))
    since = read_jsonl(folder.events)[1]

    def begun() -> bool:
        return any(e.get("status") == "running" for e in read_jsonl(folder.events, since)[0])

    def say(message: str) -> None:
        event = {"time": time.time(), "step": 0, "event": "status", "status": "waiting", "message": message}
        Lines(folder.events).append(event)

    say("starting Ray")
    with connected(experiment.resources, _variables(experiment)) as variables:
        from orchestrator.ray_cluster import free
        from orchestrator.ray_train import train

        idle = free().get("GPU", 0.0)
        if idle and experiment.device == "auto" and not experiment.resources.gpus_per_worker:
            unused = f"the workers use no accelerator ({idle:g} free here): -s resources.gpus_per_worker=1"
            Lines(folder.events).append({"time": time.time(), "step": 0, "event": "warning", "message": unused})

        return train(job, experiment, variables, begun=begun, stop=folder.stop_requested, say=say)


def _variables(experiment: Experiment) -> dict[str, str]:
    """Environment of a Ray worker. Without `gpus_per_worker` Ray shows it no accelerator."""
    resources = experiment.resources
    gpus = resources.gpus_per_worker
    return environment(experiment.backend, resources.cpus_per_worker, "cuda" if gpus else "cpu", gpus or 1.0)


def backend_installed(name: str) -> None:
    """Raise MissingBackend before anything starts where the framework is not installed here."""
    backends.installed(name)


def refuse_what_does_not_fit(experiment: Experiment) -> None:
    """Raise UserError before anything starts where Ray could not give the workers what the file asks for."""
    resources = experiment.resources
    if not resources.workers:
        return
    if experiment.device.startswith(("cuda", "gpu")) and not resources.gpus_per_worker:
        raise UserError(
            f"device {experiment.device} needs resources.gpus_per_worker: 1 (Ray hides accelerators that were not "
            "asked for), or resources.workers: 0 to train in this process",
            path="device",
        )
    from orchestrator.ray_cluster import refuse_at_once

    refuse_at_once(resources)
