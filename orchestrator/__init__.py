"""Describe a training experiment once; run it on PyTorch or on JAX, here or on a Ray cluster; compare the runs.

    from orchestrator import Experiment, run
    result = run("experiments/burgers/burgers.yaml", {"resources.workers": 0})
    result.metrics["error/l2"], result.predict({"t": [0.5], "x": [0.1]})

Everything public is listed here and loaded when it is first used, so `import orchestrator` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Experiment": "orchestrator.config",
    "RunResult": "orchestrator.result",
    "run": "orchestrator.runs",
    "resume": "orchestrator.resuming",
    "check": "orchestrator.smoke",
    "export": "orchestrator.exporting",
    "find": "orchestrator.folder",
    "history": "orchestrator.result",
    "Plan": "orchestrator.planning",
    "plan": "orchestrator.planning",
    "predict": "orchestrator.predictions",
    "compare": "orchestrator.comparison",
    "Comparison": "orchestrator.comparison",
    "new": "orchestrator.scaffold",
    "delete": "orchestrator.deleting",
    "compare_backends": "orchestrator.agree",
    "Ask": "orchestrator.hooks",
    "Moment": "orchestrator.hooks",
    "Outcome": "orchestrator.hooks",
    **dict.fromkeys(
        (
            "EarlyStopping",
            "LearningRateScheduler",
            "ModelCheckpoint",
            "OptimizerConfig",
            "SchedulerConfig",
            "Trainer",
            "TrainingConfig",
            "TrainingState",
        ),
        "orchestrator.trainer",
    ),
    "Problem": "backends.pde.problem",
    "residual": "backends.pde.problem",
    "loss": "backends.pde.problem",
    "hard": "backends.pde.problem",
    "conserved": "backends.pde.problem",
    "ensemble": "orchestrator.members",
    "Ensemble": "orchestrator.members",
    "symmetric": "backends.pde.problem",
    "Network": "backends.networks",
    "OrchestratorError": "backends.errors",
    "UserError": "backends.errors",
    "ConfigError": "backends.errors",
    "RunFailed": "backends.errors",
    "NonFinite": "backends.errors",
}
_RENAMED = {"compare_backends": "compare"}

__all__ = [
    "Ask",
    "Comparison",
    "ConfigError",
    "EarlyStopping",
    "Ensemble",
    "Experiment",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "Moment",
    "Network",
    "NonFinite",
    "OptimizerConfig",
    "OrchestratorError",
    "Outcome",
    "Plan",
    "Problem",
    "RunFailed",
    "RunResult",
    "SchedulerConfig",
    "Trainer",
    "TrainingConfig",
    "TrainingState",
    "UserError",
    "__version__",
    "check",
    "compare",
    "compare_backends",
    "conserved",
    "delete",
    "ensemble",
    "export",
    "find",
    "hard",
    "history",
    "loss",
    "new",
    "plan",
    "predict",
    "residual",
    "resume",
    "run",
    "symmetric",
]

if TYPE_CHECKING:
    from backends.errors import ConfigError, NonFinite, OrchestratorError, RunFailed, UserError
    from backends.networks import Network
    from backends.pde.problem import Problem, conserved, hard, loss, residual, symmetric
    from orchestrator.agree import compare as compare_backends
    from orchestrator.comparison import Comparison, compare
    from orchestrator.config import Experiment
    from orchestrator.deleting import delete
    from orchestrator.exporting import export
    from orchestrator.folder import find
    from orchestrator.hooks import Ask, Moment, Outcome
    from orchestrator.members import Ensemble, ensemble
    from orchestrator.planning import Plan, plan
    from orchestrator.predictions import predict
    from orchestrator.result import RunResult, history
    from orchestrator.resuming import resume
    from orchestrator.runs import run
    from orchestrator.scaffold import new
    from orchestrator.smoke import check
    from orchestrator.trainer import (
        EarlyStopping,
        LearningRateScheduler,
        ModelCheckpoint,
        OptimizerConfig,
        SchedulerConfig,
        Trainer,
        TrainingConfig,
        TrainingState,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
