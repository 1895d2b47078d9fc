"""Whether this machine holds the dense matrices of an experiment's stages."""

from __future__ import annotations

import psutil

from backends.randomness import generator
from backends.stages import dense
from backends.task import Task, trainable
from orchestrator.config import Experiment


def trained_parameters(experiment: Experiment, task: Task) -> int:
    """How many numbers are trained, by a network that ships."""
    params = task.init(generator(experiment.seed, "init"))
    return sum(value.size for name, value in params.items() if trainable(name))


def refuse_hopeless(experiment: Experiment, task: Task) -> None:
    """Raise UserError where a stage's dense matrices alone are more than this machine's memory: no step would end."""
    if not any(dense.bytes_of(stage, 1) for stage in experiment.stages):
        return
    dense.refuse_too_large(experiment.stages, trained_parameters(experiment, task), psutil.virtual_memory().total)
