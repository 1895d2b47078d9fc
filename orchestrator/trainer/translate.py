"""From a TrainingConfig to the experiment that it means: stages, schedules, clipping, periods in steps."""

from __future__ import annotations

import re
import typing
from typing import Any, Literal

from backends.errors import UserError, nearest
from backends.schedules import Schedule
from backends.spec import Leaf
from backends.stages import FIRST_ORDER, Lbfgs
from backends.task import TaskSpec
from orchestrator.config import Experiment
from orchestrator.reader import validate
from orchestrator.trainer.configs import OptimizerConfig, SchedulerConfig, TrainingConfig

STAGES: dict[str, type[Leaf]] = {str(kind.model_fields["kind"].default): kind for kind in (*FIRST_ORDER, Lbfgs)}
_FIELDS = {
    "beta1": ("b1",),
    "beta2": ("b2", "decay"),
    "eps": ("eps",),
    "momentum": ("momentum",),
    "nesterov": ("nesterov",),
    "initial_accumulator_value": ("initial",),
    "weight_decay": ("weight_decay",),
}
"""Fields of OptimizerConfig -> of the stages, the first that the stage has."""
_DECAYING = {"adam": "adamw"}


class OwnSpec(TaskSpec):
    """What stands for a user's model and loss in the resolved experiment of a Trainer's run folder."""

    kind: Literal["trainer"] = "trainer"
    model: str
    """Its class."""
    loss: str
    """Its name."""
    terms: tuple[str, ...]


class TrainerRun(Experiment):
    """An experiment whose task can't be written into a file: it lives in the program that made the Trainer."""

    task: OwnSpec  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


def experiment_of(config: TrainingConfig, spec: OwnSpec, backend: str, per_epoch: int, optimizer: Any) -> TrainerRun:
    """The experiment of a config. `per_epoch`: optimizer steps; `optimizer`: what Trainer was given beside the config.

    Raises UserError for what has no counterpart.
    """
    total = config.num_epochs * per_epoch
    stage = stage_of(config, optimizer, per_epoch, total)
    clip = {
        "norm": config.gradient_clip_norm or config.optimizer.gradient_clip_norm,
        "value": config.gradient_clip_value or config.optimizer.gradient_clip_value,
    }
    saved = config.save_frequency or (config.checkpoint_frequency or 1) * per_epoch
    tree = {
        "name": config.name,
        "backend": backend,
        "device": config.device,
        "seed": config.seed,
        "task": spec.model_dump(),
        "stages": [stage],
        "weights": config.weights.model_dump(),
        "clip": clip if any(clip.values()) else None,
        "accumulate": config.gradient_accumulation,
        "remat": config.gradient_checkpointing,
        "compile": config.compile,
        "evaluate": {"every": config.validation_frequency * per_epoch},
        "checkpoint": {"every": saved, "keep": config.max_checkpoints, "best": metric_of(config.monitor)},
        "resources": {"workers": 0},
        "loggers": [logger.model_dump() for logger in config.loggers],
        "tracking": config.tracking.model_dump() if config.tracking else {"enabled": False},
    }
    tree["tracking"]["every"] = config.log_frequency
    return validate(TrainerRun, tree, "Trainer")


def stage_of(config: TrainingConfig, optimizer: Any, per_epoch: int, total: int) -> dict[str, Any]:
    """The one stage, as plain data."""
    if optimizer is not None and not isinstance(optimizer, OptimizerConfig | str | dict):
        given = _instance(optimizer)
    else:
        chosen = config.optimizer if optimizer is None else _optimizer(optimizer)
        given = _stage(chosen)
    if config.learning_rate is not None and "lr" in STAGES[given["kind"]].model_fields:
        given["lr"] = config.learning_rate
    if config.weight_decay is not None:
        _set(given, "weight_decay", config.weight_decay)
    half = config.mixed_precision
    if half:
        given["compute"] = "bfloat16" if half is True else half
    if "lr" in STAGES[given["kind"]].model_fields:
        given["schedule"] = _schedule(config, float(given.get("lr", 0) or _default(given)), per_epoch, total)
        total = max(total, given["schedule"].get("steps", 0))  # a schedule may be cut off by the end of the training
    return {**given, "steps": total, "precision": config.precision}


def metric_of(name: str) -> str:
    """Our name of a metric that a seed's callback watches: `val_loss` -> `validation/total`."""
    if name in ("val_loss", "validation_loss", "valid_loss"):
        return "validation/total"
    if name in ("loss", "train_loss", "training_loss"):
        return "loss"
    found = re.fullmatch(r"(val|validation)_(.+)", name)
    if found:
        return f"validation/{found[2]}"
    return f"loss/{name.removeprefix('train_')}" if name.startswith("train_") else name


def _optimizer(given: Any) -> OptimizerConfig:
    if isinstance(given, OptimizerConfig):
        return given
    data: dict[str, Any] = {"optimizer_type": given} if isinstance(given, str) else dict(given)
    return OptimizerConfig(**data)


def _stage(config: OptimizerConfig) -> dict[str, Any]:
    kind = config.optimizer_type.lower()
    if "optimizer_type" not in config.model_fields_set and config.name.lower() in STAGES:
        kind = config.name.lower()
    if kind not in STAGES:
        raise UserError(f"there is no optimizer {kind!r}{nearest(kind, STAGES)}", path="optimizer")
    found: dict[str, Any] = {"kind": kind}
    if config.learning_rate is not None:
        if "lr" not in STAGES[kind].model_fields:
            raise UserError(f"{kind} has no learning rate: it searches along a line", path="optimizer")
        found["lr"] = config.learning_rate
    if config.betas is not None:
        _set(found, "beta1", config.betas[0])
        _set(found, "beta2", config.betas[1])
    for name in _FIELDS:
        value = getattr(config, name)
        if name in config.model_fields_set and value is not None:
            _set(found, name, value)
    return found


def _set(stage: dict[str, Any], name: str, value: Any) -> None:
    """Write a field of OptimizerConfig into a stage. Raises UserError where that optimizer has none."""
    kind = stage["kind"]
    ours = next((f for f in _FIELDS[name] if f in STAGES[kind].model_fields), None)
    if ours is not None:
        stage[ours] = value
    elif value:  # a zero or a false is what the optimizer does anyway
        other = f"; take {_DECAYING[kind]!r}" if name == "weight_decay" and kind in _DECAYING else ""
        raise UserError(f"{kind} has no {name}{other}", path=f"optimizer.{name}")


def _default(stage: dict[str, Any]) -> float:
    return float(STAGES[stage["kind"]].model_fields["lr"].default)


def _schedule(config: TrainingConfig, lr: float, per_epoch: int, total: int) -> dict[str, Any]:
    chosen = config.scheduler or SchedulerConfig()
    kind = {"none": "constant"}.get(chosen.scheduler_type.lower(), chosen.scheduler_type.lower()).replace("-", "_")
    kinds = {str(s.model_fields["kind"].default): s for s in _schedules()}
    if kind not in kinds:
        raise UserError(f"there is no schedule {kind!r}{nearest(kind, kinds)}", path="scheduler")
    warmup = max(chosen.warmup_steps, config.warmup_steps)
    warmup = warmup or round(max(chosen.warmup_epochs, config.warmup_epochs) * per_epoch)
    fields = kinds[kind].model_fields
    length = chosen.total_steps or chosen.cycle_length or (chosen.max_epochs or 0) * per_epoch or total
    ratio = chosen.min_lr_ratio if chosen.min_lr_ratio is not None else (chosen.min_lr or 0.0) / lr
    found: dict[str, Any] = {"kind": kind, "warmup": warmup}
    wanted = {
        "steps": length if "steps" in fields else None,
        "final": ratio if chosen.min_lr_ratio is not None or chosen.min_lr is not None else None,
        "decay": chosen.decay_rate,
        "every": chosen.decay_steps if kind == "exponential" else chosen.step_size,
        "gamma": chosen.gamma,
        "milestones": chosen.milestones,
        "power": chosen.power,
        "cycle": chosen.cycle_length,
    }
    own = {"decay_rate": "decay", "decay_steps": "every", "step_size": "every", "gamma": "gamma",
           "milestones": "milestones", "power": "power"}  # fmt: skip
    for name, ours in own.items():
        if getattr(chosen, name) is not None and ours not in fields:
            raise UserError(f"the schedule {kind!r} has no {name}", path=f"scheduler.{name}")
    return found | {k: v for k, v in wanted.items() if k in fields and v is not None}


def _schedules() -> tuple[type[Leaf], ...]:
    return typing.get_args(typing.get_args(Schedule)[0])


def _instance(optimizer: Any) -> dict[str, Any]:
    """A torch.optim.Optimizer object, by its class and numbers. Raises UserError for anything else."""
    kind, groups = type(optimizer).__name__.lower(), getattr(optimizer, "param_groups", None)
    if groups is None:
        raise UserError(
            f"the optimizer is an object of the type {type(optimizer).__name__}; give its name ('adamw'), an "
            "OptimizerConfig or a torch.optim.Optimizer (optax transformations are functions that don't say what they "
            "are)",
            path="optimizer",
        )
    if kind not in STAGES:
        raise UserError(f"there is no counterpart of torch.optim.{type(optimizer).__name__}{nearest(kind, STAGES)}")
    if len(groups) > 1:
        raise UserError("the optimizer has several parameter groups; one is supported here", path="optimizer")
    values = groups[0]
    given: dict[str, Any] = {"kind": kind, "lr": float(values["lr"])}
    names = {"eps": "eps", "momentum": "momentum", "nesterov": "nesterov", "weight_decay": "weight_decay",
             "initial_accumulator_value": "initial_accumulator_value", "alpha": "beta2"}  # fmt: skip
    if "betas" in values:
        _set(given, "beta1", float(values["betas"][0]))
        _set(given, "beta2", float(values["betas"][1]))
    for theirs, ours in names.items():
        if theirs in values:
            _set(given, ours, values[theirs])
    for name in ("amsgrad", "maximize", "centered", "lr_decay", "dampening"):
        if values.get(name):
            raise UserError(f"{type(optimizer).__name__}({name}=…) has no counterpart here", path="optimizer")
    return given
