"""Ray Train as a host: places the workers, watches them, and brings home what they return or raise.

The trainer is Ray's own (`DataParallelTrainer`, its controller and worker group) without the actors that this
project has no use for: shards of Ray Data, the coordinator of autoscaling requests (a placement group asks by
itself) and the cleaner of placement groups (we do it when we cancel): 4 CPU-seconds of a start. Internal names of
Ray are used in this module and in `process_group` only; pyproject pins its minor version.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks import BackendSetupCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.util import ObjectRefWrapper
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from orchestrator import ray_cluster
from orchestrator.config import Experiment, Resources
from orchestrator.process_group import ProcessGroup
from orchestrator.ray_failures import understood
from orchestrator.ray_worker import ray_worker
from orchestrator.worker import Job

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon a report, an end or a death is seen
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
LOOK_S = 0.2
WAITING_S = 5.0
"""How long workers may take to be placed before the run says what it waits for."""


class FixedSize(FixedScalingPolicy):
    """As many workers as asked for, without Ray Data's coordinator."""

    def _maybe_send_resource_request(self) -> None: ...
    def _send_resource_request(self) -> None: ...
    def _cancel_resource_request(self) -> None: ...


class NoRetry(FailurePolicy):
    """What fails ends the run (`resume` goes on from its checkpoint); waiting for room is no failure."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Retry where the cluster had no room yet."""
        cause = getattr(training_failed_error, "controller_failure", None)
        waiting = isinstance(cause, WorkerGroupStartupTimeoutError)
        return FailureDecision.RETRY if waiting else FailureDecision.RAISE


class QuickController(TrainController):
    """Ray's controller with settings of its own, which are not passed on to the workers."""

    def __init__(self, **parts: Any) -> None:
        with ray_cluster.environ(SETTINGS):
            super().__init__(**parts)


class LeanTrainer(DataParallelTrainer):
    """Ray's trainer with the parts that are used here, which can be cancelled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._controller: Any = None
        self._groups_before: set[str] = set()

    def fit(self) -> Any:
        """Train to the end; Ray's Result. Raises Ray's TrainingFailedError."""
        self._groups_before = set(placement_group_table())
        users_own = get_env_vars_to_propagate()
        controller = ray.remote(
            num_cpus=0,
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
            runtime_env={"env_vars": users_own} if users_own else {},
        )(QuickController)
        self._controller = controller.remote(
            train_fn_ref=ObjectRefWrapper(self._get_train_func()),
            train_run_context=self.train_run_context,
            scaling_policy=FixedSize(self.scaling_config),
            failure_policy=NoRetry(FailureConfig()),
            callbacks=[BackendSetupCallback(self.backend_config)],
        )
        ray.get(self._controller.run.remote())
        result: Any = ray.get(self._controller.get_result.remote())
        if result.error:
            raise result.error
        return result

    def cancel(self) -> None:
        """End it now: the controller, its workers, and the places that they held."""
        if self._controller is None or not ray.is_initialized():
            return
        with contextlib.suppress(RayError):
            ray.kill(self._controller)
        for key in self._groups():
            with contextlib.suppress(RayError):
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))

    def unplaced(self) -> bool:
        """Whether the workers wait for room in the cluster."""
        return any(group.get("state") == "PENDING" for group in self._groups().values())

    def _groups(self) -> dict[str, Any]:
        """The placement groups of this fit; an id ends with its job's."""
        mine = ray.get_runtime_context().get_job_id()
        table: dict[str, Any] = placement_group_table()
        return {k: v for k, v in table.items() if k not in self._groups_before and k.endswith(mine)}


def train(
    job: Job,
    experiment: Experiment,
    variables: Mapping[str, str],
    *,
    begun: Callable[[], bool],
    stop: Callable[[], str | None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train in workers of the connected cluster. Returns what rank 0's `work` returns.

    variables: what each worker's environment must get. begun: whether a worker has taken over; until then a request to
    `stop` is answered here. say: shows what is being waited for. Raises what a worker raised, or RunFailed where one
    died.
    """
    with ray_cluster.scratch() as scratch:
        trainer = _trainer(job, experiment, variables, scratch)
        fitting = _InThread(trainer.fit)
        try:
            say(f"starting {ray_cluster.counted(experiment.resources.workers, 'Ray worker')}")
            waiting = _wait_for_workers(trainer, fitting, experiment.resources, begun, stop, say)
            if waiting is not None:
                trainer.cancel()
                return waiting
            result = fitting.result()
        except KeyboardInterrupt:
            trainer.cancel()
            raise
        return dict(result.return_value)


def _trainer(job: Job, experiment: Experiment, variables: Mapping[str, str], scratch: Path) -> LeanTrainer:
    resources = experiment.resources
    gpus = resources.gpus_per_worker
    return LeanTrainer(
        ray_worker,
        train_loop_config={"job": asdict(job), "backend": experiment.backend},
        backend_config=ProcessGroup(name=experiment.backend, gpu=bool(gpus)),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
        ),
        # Ray resumes by itself where name and folder are those of an earlier run: give it a new, empty folder.
        run_config=RunConfig(
            name="attempt",
            storage_path=str(scratch),
            storage_filesystem=pyarrow.fs.LocalFileSystem(),
            worker_runtime_env={"env_vars": dict(variables)} if variables else {},
        ),
    )


def _wait_for_workers(
    trainer: LeanTrainer,
    fitting: _InThread,
    resources: Resources,
    begun: Callable[[], bool],
    stop: Callable[[], str | None],
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Wait until a worker has taken over, or all is over. Returns an outcome where the run was stopped before."""
    began, said = time.monotonic(), False
    while not (fitting.ended(LOOK_S) or begun()):
        asked = stop()
        if asked:
            return {"status": asked, "reason": "asked to stop before the workers had started"}
        if not said and time.monotonic() - began > WAITING_S and trainer.unplaced():
            said = True
            say(f"waiting for room in the cluster: {_wanted(resources)}")
    return None


def _wanted(resources: Resources) -> str:
    """How much is asked for, and how much is free."""
    free = ray_cluster.free()
    wanted = {"CPU": float(resources.cpus_per_worker), "GPU": resources.gpus_per_worker}
    counted = {k: ray_cluster.counted(resources.workers * v, k) for k, v in wanted.items() if v}
    return ", ".join(f"{text} ({free.get(k, 0.0):g} free)" for k, text in counted.items())


class _InThread:
    """A function in a thread: on the main thread Ray's `fit` would answer Ctrl-C itself, and kill the workers."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True, name="ray-train")
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:
            self._error = error

    def ended(self, timeout_s: float) -> bool:
        """Whether it is over, after waiting that long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Wait, interruptibly; raise what was raised, as this project's error."""
        while not self.ended(LOOK_S):
            pass
        if self._error is not None:
            raise understood(self._error) from self._error
        return self._value
