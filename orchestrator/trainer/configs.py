"""Configuration of a Trainer, in the words of the systems that people come from.

Each is a face of the stages, schedules and periods of an experiment file (`orchestrator.trainer.translate`). A field
acts, or it is refused with its counterpart here: none is read and forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic import ValidationError as Invalid
from pydantic_core import PydanticCustomError

from backends.errors import UserError, nearest
from backends.spec import Fraction, Leaf, Precision
from backends.weighting import FixedWeights, WeightsSpec
from orchestrator.loggers import LoggerSpec
from orchestrator.tracking import Tracking

REFUSED: dict[str, str] = {
    "progress_callback": "pass it in Trainer(callbacks=[…]); every callback may have on_epoch_end and on_batch_end",
    "loss_type": "give Trainer `loss='mse'`, 'mae', 'relative_l2' or 'cross_entropy'",
    "warmup": "write `warmup_steps` or `warmup_epochs`",
    "quantum_config": "comes with the physics configurations",
    "conservation_config": "comes with the physics configurations",
    "multiscale_config": "comes with the physics configurations",
    "boundary_config": "write the equation as an orchestrator.Problem, whose boundary terms are its own",
    "dft_config": "comes with the physics configurations",
    "scf_config": "comes with the physics configurations",
    "distributed_config": "runs of experiment files train on several workers: `resources: {workers: 4}`",
    "gradient_checkpoint_policy": "there is one policy: `gradient_checkpointing=True`",
}
"""Fields of other systems that have no place here, with what to do instead."""


class _Face(Leaf):
    also: ClassVar[Mapping[str, str]] = {}
    """Other words for fields."""

    def __init__(self, **data: Any) -> None:
        """Raises UserError with every field that does not fit."""
        try:
            super().__init__(**data)
        except Invalid as error:
            kind = type(self).__name__
            raise UserError("\n".join(_said(kind, type(self), e) for e in error.errors())) from None

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for word, name in cls.also.items():
            told = {"word": word, "name": name}
            if word in data and name in data:
                raise PydanticCustomError("twice", "{word} is another word for {name}; give one", told)
        return {cls.also.get(name, name): value for name, value in data.items()}


def _said(kind: str, model: type[Leaf], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{kind}: unknown field {where!r}{nearest(where, model.model_fields)}"
    return f"{kind}{'.' if where else ''}{where}: {error['msg']}"


class OptimizerConfig(_Face):
    """An optimizer by its name, with its rates."""

    also: ClassVar = {
        "type": "optimizer_type",
        "lr": "learning_rate",
    }

    name: str = ""
    """A label; the type where `optimizer_type` is not given and the label is one."""
    optimizer_type: str = "adam"
    """adam, adamw, nadam, radam, lamb, lion, rmsprop, adagrad, sgd, lbfgs."""
    learning_rate: PositiveFloat | None = None
    """Default: that of the optimizer (adam: 1e-3)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled from the gradient; adam has none, adamw does."""
    beta1: Fraction | None = None
    """Decay of the first moment."""
    beta2: Fraction | None = None
    """Decay of the second moment (rmsprop: of the mean square)."""
    betas: tuple[Fraction, Fraction] | None = None
    """Both."""
    eps: PositiveFloat | None = None
    """Keeps a division from being one by zero."""
    momentum: Fraction | None = None
    """sgd and rmsprop."""
    nesterov: bool | None = None
    """sgd: look ahead."""
    initial_accumulator_value: NonNegativeFloat | None = None
    """adagrad and rmsprop: the first sum of squares."""
    gradient_clip_norm: PositiveFloat | None = None
    """The gradient's 2-norm is scaled down to this."""
    gradient_clip_value: PositiveFloat | None = None
    """Each component of the gradient is cut to this."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"optimizer_type": data} if isinstance(data, str) else data


class SchedulerConfig(_Face):
    """How the learning rate changes, by the name of the schedule."""

    also: ClassVar = {
        "type": "scheduler_type",
    }

    name: str = ""
    """A label."""
    scheduler_type: str = "constant"
    """constant, linear, cosine, exponential, polynomial, step, multistep, cyclic, one_cycle."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate grows from 0."""
    warmup_epochs: NonNegativeFloat = 0
    """The same in epochs."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """The last rate, as a fraction of the first."""
    min_lr: NonNegativeFloat | None = None
    """The last rate itself."""
    cycle_length: PositiveInt | None = None
    """cosine: steps until the rate is at its lowest; cyclic: steps of a cycle."""
    total_steps: PositiveInt | None = None
    """linear, polynomial: steps until the rate is at its lowest."""
    max_epochs: PositiveInt | None = None
    """The same in epochs."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """exponential: factor per `decay_steps`."""
    decay_steps: PositiveInt | None = None
    """exponential: steps per factor."""
    step_size: PositiveInt | None = None
    """step: steps between drops."""
    gamma: Annotated[float, Field(gt=0, le=1)] | None = None
    """step, multistep: factor of each drop."""
    milestones: tuple[PositiveInt, ...] | None = None
    """multistep: steps of the drops."""
    power: PositiveFloat | None = None
    """polynomial: exponent of the time that is left."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"scheduler_type": data} if isinstance(data, str) else data


class TrainingConfig(_Face):
    """How long and how a Trainer trains."""

    also: ClassVar = {
        "epochs": "num_epochs",
        "max_epochs": "num_epochs",
        "lr": "learning_rate",
        "early_stopping_patience": "patience",
        "save_steps": "save_frequency",
        "max_to_keep": "max_checkpoints",
        "gradient_clip": "gradient_clip_norm",
        "gradient_clip_val": "gradient_clip_norm",
        "max_grad_norm": "gradient_clip_norm",
        "gradient_accumulation_steps": "gradient_accumulation",
        "accumulate_grad_batches": "gradient_accumulation",
        "eval_every": "validation_frequency",
        "save_every": "checkpoint_frequency",
        "every_n_epochs": "checkpoint_frequency",
        "log_interval": "log_frequency",
        "logging_steps": "log_frequency",
    }

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "trainer"
    """Name of the run, where it has a folder."""
    num_epochs: PositiveInt = 100
    """Passes over the data, in all."""
    steps_per_epoch: PositiveInt | None = None
    """Batches of an epoch, for data that has no end."""
    batch_size: PositiveInt = 32
    """Samples per step, where the data is arrays."""
    shuffle: bool = True
    """Whether arrays are read in another order each epoch."""
    learning_rate: PositiveFloat | None = None
    """Instead of the optimizer's."""
    weight_decay: NonNegativeFloat | None = None
    """Instead of the optimizer's."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """`OptimizerConfig(…)`, its fields as a dict, or a name."""
    scheduler: SchedulerConfig | None = None
    """`SchedulerConfig(…)`, its fields as a dict, or a name."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate grows from 0, without a scheduler."""
    warmup_epochs: NonNegativeFloat = 0
    """The same in epochs."""
    gradient_clip_norm: PositiveFloat | None = None
    """The gradient's 2-norm is scaled down to this."""
    gradient_clip_value: PositiveFloat | None = None
    """Each component of the gradient is cut to this."""
    gradient_accumulation: PositiveInt = 1
    """Batches per optimizer step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    mixed_precision: bool | Literal["bfloat16", "float16"] = False
    """Network and derivatives in half precision; true: bfloat16."""
    precision: Precision = "float32"
    """Of parameters and optimizer."""
    weights: WeightsSpec = FixedWeights()
    """Weights of the loss terms: `{kind: relobralo}`, …; a dict of numbers is short for fixed ones."""
    validation_frequency: PositiveInt = 1
    """Epochs between validations."""
    early_stopping: bool = False
    """Stop where `monitor` has not improved for `patience` validations."""
    patience: PositiveInt = 10
    """Validations without improvement."""
    min_delta: NonNegativeFloat = 0.0
    """A smaller change is no improvement."""
    monitor: str = "val_loss"
    """What early stopping and the best checkpoint look at (train_loss where nothing is validated)."""
    checkpoint_dir: Path | None = None
    """Where checkpoints go; none are written without it (or `storage`)."""
    save_frequency: PositiveInt | None = None
    """Steps between checkpoints."""
    checkpoint_frequency: PositiveInt | None = None
    """Epochs between checkpoints. Default, without `save_frequency`: 1."""
    max_checkpoints: PositiveInt = 3
    """The newest so many are kept, and the best."""
    log_frequency: PositiveInt = 100
    """Steps between records, where there is a run folder."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Decides the order of the data and the noise in model and loss."""
    device: str = "auto"
    """`auto`, cpu, cuda, cuda:0."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch: whether steps are compiled. auto: where the run is long enough to pay for it."""
    steps_per_call: PositiveInt | None = None
    """Most steps between two looks at callbacks; default: as many as pay."""
    storage: str | None = None
    """Folder of run folders: gives this training one, with metrics and checkpoints, like any other run."""
    tracking: Tracking | None = None
    """MLflow; needs `storage`."""
    loggers: tuple[LoggerSpec, ...] = ()
    """TensorBoard, Weights & Biases, CSV: `[{"kind": "wandb", "project": …}]`; needs `storage`."""
    verbose: bool = False
    """Print a line per epoch."""

    @model_validator(mode="before")
    @classmethod
    def _other_words(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for name, instead in REFUSED.items():
            if data.get(name) not in (None, False):
                raise PydanticCustomError(
                    "refused", "{name} has no effect here: {instead}", {"name": name, "instead": instead}
                )
            data.pop(name, None)
        project = data.pop("wandb_project", None)
        if data.pop("use_wandb", False):
            data["loggers"] = [*data.get("loggers", ()), {"kind": "wandb", "project": project}]
        if (data.get("loggers") or data.get("tracking")) and data.get("storage") is None:
            raise PydanticCustomError("storage", "tracking and loggers read a run folder: give `storage='runs'`")
        inner = data.pop("validation", None)
        if inner is not None:  # JEPA: validation: {frequency: 5, patience: 10}
            if not isinstance(inner, dict) or not set(inner) <= {"frequency", "patience"}:
                raise PydanticCustomError("validation", "`validation` is a dict with `frequency` and `patience`")
            if "frequency" in inner:
                data["validation_frequency"] = inner["frequency"]
            if inner.get("patience"):
                data |= {"patience": inner["patience"], "early_stopping": data.get("early_stopping", True)}
        weights = data.get("weights")
        if isinstance(weights, dict) and "kind" not in weights:
            data["weights"] = {"kind": "fixed", "values": weights}
        return data
