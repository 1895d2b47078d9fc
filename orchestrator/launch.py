"""Hosts: where `orchestrator.worker.work` runs, in this process or in Ray Train workers.

One process-group backend serves both frameworks: Ray places the workers, each joins its framework's own
group (gloo on CPUs, nccl on GPUs) through `backends.<name>.join`. Ray's stock torch integration would load
torch in the driver (3.5 CPU-seconds), its JAX one trains two separate models on CPUs without a word.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.environment import environment

import backends
from backends.errors import OrchestratorError, RunFailed, StorageFailed, UserError
from backends.protocol import World
from orchestrator.config import Experiment, Resources

log = logging.getLogger("orchestrator")

_RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # one report per tick: the default is 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


def in_process(job: Any) -> dict[str, Any]:
    """Train in this process, without Ray."""
    from orchestrator.worker import Host, work

    return work(job, Host())


def in_ray_train(job: Any, experiment: Experiment) -> dict[str, Any]:
    """Train in Ray Train workers. Raises the worker's own OrchestratorError."""
    resources = experiment.resources
    with _cluster(resources):
        return _fit(job, experiment)


# --- Ray ---


@contextmanager
def _cluster(resources: Resources) -> Iterator[None]:
    """A connection to the cluster of this job or address, else a small one of our own for the time of the run."""
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": log.isEnabledFor(logging.DEBUG)}
        if address:
            ray.init(address=address, **quiet)
        else:
            needed = resources.workers * resources.cpus_per_worker
            cores = os.cpu_count() or 1
            if needed > cores:
                raise UserError(
                    f"{resources.workers} workers of {resources.cpus_per_worker} CPUs need {needed} CPUs, this machine has "
                    f"{cores}; lower resources.workers or resources.cpus_per_worker, or connect to a cluster with RAY_ADDRESS",
                    path="resources",
                )
            ray.init(address="local", num_cpus=cores, object_store_memory=200_000_000, **quiet)
            _private_token()
    try:
        _enough(ray.cluster_resources(), resources)
        yield
    finally:
        if ours:
            ray.shutdown()


def _private_token() -> None:
    """Ray writes its token readable for everybody on the machine: close it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def _enough(there: Mapping[str, float], resources: Resources) -> None:
    """Refuse at once what the cluster can't place, instead of waiting for ever."""
    for name, each in (("CPU", float(resources.cpus_per_worker)), ("GPU", resources.gpus_per_worker)):
        asked, have = resources.workers * each, there.get(name, 0.0)
        if asked > have:
            raise UserError(
                f"{resources.workers} workers need {asked:g} {name}s, the cluster has {have:g}; lower resources.workers "
                f"or resources.{name.lower()}s_per_worker",
                path="resources",
            )


def _fit(job: Any, experiment: Experiment) -> dict[str, Any]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.data_parallel_trainer import DataParallelTrainer

    from orchestrator.process_group import ProcessGroup

    resources = experiment.resources
    variables = environment(
        experiment.backend, resources.cpus_per_worker, "cuda" if resources.gpus_per_worker else "cpu"
    )
    trainer = DataParallelTrainer(
        ray_worker,
        train_loop_config={"job": asdict(job)},
        backend_config=ProcessGroup(framework=experiment.backend, gpu=bool(resources.gpus_per_worker)),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
            },
        ),
        # Ray resumes silently where name and folder are the same: give each attempt its own.
        run_config=RunConfig(
            name=f"attempt-{os.getpid()}-{os.urandom(3).hex()}",
            storage_path=str(Path(job.folder) / "ray"),
            worker_runtime_env={"env_vars": variables},
        ),
    )
    box = _InThread(trainer.fit)
    result = box.result()
    return dict(result.return_value)


class _InThread:
    """`fit` in a thread: on the main thread it would install a signal handler that aborts the workers."""

    def __init__(self, function: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Any) -> None:
        try:
            self._value = function()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Wait, interruptibly; raise what the worker raised."""
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._error is not None:
            raise _own_error(self._error) from self._error
        return self._value


def _own_error(error: BaseException) -> BaseException:
    """The OrchestratorError that a worker raised, out of Ray's wrappings."""
    failures = getattr(error, "worker_failures", None) or {}
    for candidate in (*failures.values(), error, error.__cause__, error.__context__):
        for layer in (candidate, getattr(candidate, "cause", None), getattr(candidate, "__cause__", None)):
            if isinstance(layer, OrchestratorError):
                return layer
    text = next((str(v) for v in failures.values()), str(error)).strip()
    return RunFailed(f"a Ray worker failed: {text.splitlines()[-1] if text else type(error).__name__}")


@dataclass(frozen=True)
class _RayHost:
    """What a Ray Train worker knows of itself."""

    rank: int
    size: int


def ray_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs in every worker."""
    import ray.train

    from orchestrator.worker import Host, Job, work

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    job = Job(**config["job"])
    _sees_storage(Path(job.folder), world.rank)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        ray.train.report({"step": step, **metrics})

    return work(job, Host(world, report))


def _sees_storage(folder: Path, rank: int) -> None:
    """Write and read a file in the run folder from this node, before the first step."""
    test = folder / f".seen-by-{rank}"
    here = socket.gethostname()
    try:
        if not (folder / "run.json").exists():
            raise StorageFailed(
                f"worker {rank} on {here} does not see the run folder {folder}: set `storage` to a folder that every node mounts"
            )
        test.write_text(here)
        test.unlink()
    except OSError as error:
        raise StorageFailed(
            f"worker {rank} on {here} can't write to the run folder {folder}: {error.strerror}"
        ) from error


def backend_installed(name: str) -> None:
    """Raise MissingBackend before anything starts where the framework is not installed here."""
    backends.installed(name)
