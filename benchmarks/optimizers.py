"""Every optimizer, schedule and treatment of the gradient: jax against torch, step by step, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import backends
from backends.gradients import Noise
from backends.protocol import Settings
from backends.spec import Clip
from backends.stages import Adam, Stage
from backends.task import Task
from backends.testing.gradients import normalized
from backends.testing.optimizers import OPTIMIZERS
from backends.testing.tasks import LeastSquares
from benchmarks.results import Section, page, table
from orchestrator.build import task_of
from orchestrator.config import Experiment
from orchestrator.knobs import Knobs, initial

STEPS, PIECE = 50, 10
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"warmup": 5},
    "linear": {"warmup": 5, "final": 0.1},
    "polynomial": {"power": 3.0, "steps": 40},
    "cosine": {"warmup": 5, "final": 0.1},
    "exponential": {"decay": 0.5, "every": 10},
    "step": {"every": 20, "gamma": 0.3},
    "multistep": {"milestones": [10, 30], "gamma": 0.3},
    "cyclic_cosine": {"cycle": 10, "growth": 1.5, "shrink": 0.8, "final": 0.05},
    "cyclic": {"cycle": 20, "low": 0.1, "shrink": 0.5},
    "one_cycle": {"shape": "linear"},
}
TREATMENTS: dict[str, dict[str, Any]] = {
    "clip by norm": {"clip": Clip(norm=0.1)},
    "clip by value": {"clip": Clip(value=0.01)},
    "noise": {"noise": Noise(eta=0.01)},
    "own function, both clips, noise": {
        "clip": Clip(norm=0.5, value=0.1),
        "noise": Noise(eta=0.3, gamma=1.0),
        "process": normalized,
    },
}
BURGERS: dict[str, Any] = {
    "name": "agreement",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 8, "depth": 2},
    "points": {"pde": 64, "ic": 16, "bc": 16},
    "stages": [{"kind": "adam", "steps": 1}],
}


def measure() -> Section:
    """Largest differences of each, over 50 steps."""
    rows = []
    for name, stage, settings in cases():
        parameters, _ = difference(LeastSquares(), stage, settings)
        _, losses = difference(burgers(), stage, settings)
        rows.append([name, f"{parameters:.1e}", f"{losses:.1e}"])
    text = page(
        """Parameters after each ten steps of least squares in two unknowns and an offset (largest difference over the
        largest parameter), and losses of every step on Burgers' equation with soft constraints, a network 2-8x2-1 and
        96 points (relative, of every term), torch uncompiled. Schedules and treatments of the gradient run with
        Adam.""",
        table(["", "parameters, quadratic", "losses, Burgers"], rows),
    )
    return Section("parameters to 1e-12 over 50 steps of a quadratic, losses to 1e-9 over 50 steps of Burgers.", text)


def cases() -> Iterator[tuple[str, Stage, Mapping[str, Any]]]:
    """(name, stage, settings) of everything that is compared."""
    for stage in OPTIMIZERS:
        yield stage.method, stage.model_copy(update={"name": "warm", "steps": STEPS}), {}
    for kind, fields in SCHEDULES.items():
        yield f"schedule {kind}", _adam(schedule={"kind": kind, **fields}), {}
    for name, settings in TREATMENTS.items():
        yield name, _adam(), settings


def burgers() -> Task:
    """A small problem with three terms."""
    return task_of(Experiment.model_validate(BURGERS), Path())


def difference(task: Task, stage: Stage, settings: Mapping[str, Any]) -> tuple[float, float]:
    """(parameters, losses): how far the backends are from each other at most."""
    paths = [list(_path(backends.load(name), task, stage, settings)) for name in ("jax", "torch")]
    parameters = losses = 0.0
    for (one, a), (other, b) in zip(*paths, strict=True):
        scale = max(float(np.abs(value).max()) for value in one.values())
        parameters = max(parameters, *(float(np.abs(one[k] - other[k]).max()) / scale for k in one))
        losses = max(losses, float((np.abs(a - b) / np.abs(a)).max()))
    return parameters, losses


def _path(
    module: ModuleType, task: Task, stage: Stage, settings: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """(parameters, losses [steps, terms]) of ten steps after the other."""
    compiled = "never" if module.__name__.endswith("torch") else "auto"
    backend = module.build(task, (stage,), Settings(compile=compiled, capacity=PIECE, **settings))
    weights = {t.name: 1.0 for t in task.terms if t.trained}
    knobs = Knobs(initial(task, weights), (), settings.get("clip"), noise=settings.get("noise"), task=task)
    state, feed = backend.init(0), task.feed(0)
    for start in range(0, STEPS, PIECE):
        state, steps = backend.step(state, PIECE, knobs.table(stage, start, start, PIECE), feed, start)
        yield {k: np.array(v) for k, v in backend.parameters(state).items()}, np.array(steps.losses)


def _adam(**fields: Any) -> Stage:
    return Adam.model_validate({"name": "warm", "steps": STEPS, "lr": 1e-2, "precision": "float64", **fields})
