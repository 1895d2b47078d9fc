"""Task and backend of an experiment, put together in this process: what worker, `agree` and `predict` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backends
from backends.networks.custom import CustomNetwork
from backends.own.code import load as load_own
from backends.protocol import Backend, Settings, World, precision_of
from backends.stages import Stage
from backends.stages.custom import CustomOptimizer
from backends.task import Task
from orchestrator import build, levels
from orchestrator.config import Experiment

CAPACITY = 500
"""Most steps per dispatch: beyond a few hundred nothing is gained even for the smallest networks."""


ALONE = World()


@dataclass(frozen=True)
class Assembled:
    """A task with the compiled functions that train it."""

    experiment: Experiment
    module: Any
    device: str
    task: Task
    stages: tuple[Stage, ...]
    backend: Backend[Any]


def assemble(
    experiment: Experiment,
    folder: Path,
    *,
    world: World = ALONE,
    warn: Callable[[str], None] = lambda message: None,
    change: Callable[[Task], Task] = lambda task: task,
) -> Assembled:
    """Load the backend and build task and functions. `folder`: what relative names refer to; `change`: what becomes of
    the task before its functions are built. Raises UserError."""
    module = backends.load(experiment.backend)
    device = module.resolve_device(experiment.device)
    network = None
    if isinstance(experiment.network, CustomNetwork):
        network = module.adapt(load_own(experiment.network.target, folder), experiment.network.fields)
    task = change(build.task_of(experiment, folder, network))
    stages = tuple(s.model_copy(update={"precision": precision_of(s, experiment.precision)}) for s in experiment.stages)
    settings = Settings(
        seed=experiment.seed,
        device=device,
        compile=experiment.compile,
        clip=experiment.clip,
        noise=experiment.gradients.noise,
        optimizers={s.name: s.load(folder, experiment.backend) for s in stages if isinstance(s, CustomOptimizer)},
        process=own.load(folder) if (own := experiment.gradients.custom) else None,
        groups=experiment.groups,
        trained_weights=experiment.weights.trained([t.name for t in task.terms if t.trained]),
        accumulate=experiment.accumulate,
        remat=experiment.remat,
        capacity=CAPACITY,
        world=world,
        warn=warn,
    )

    def of(one: Experiment) -> Backend[Any]:
        same = one is experiment
        return module.build(task if same else change(build.task_of(one, folder, network)), stages, settings)

    return Assembled(experiment, module, device, task, stages, levels.backend_of(experiment, of))
