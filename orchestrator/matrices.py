"""Whether this machine holds the dense matrices of an experiment's stages."""

from __future__ import annotations

import psutil

from backends.randomness import generator
from backends.stages import dense
from backends.task import Task, trainable
from orchestrator.config import Experiment


def refuse_hopeless(experiment: Experiment, task: Task | None) -> None:
    """Raise UserError where a stage's dense matrices alone are more than this machine's memory: no step would end."""
    if task is None or not any(dense.bytes_of(stage, 1) for stage in experiment.stages):
        return
    size = sum(v.size for k, v in task.init(generator(experiment.seed, "init")).items() if trainable(k))
    dense.refuse_too_large(experiment.stages, size, psutil.virtual_memory().total)
