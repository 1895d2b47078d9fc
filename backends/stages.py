"""The optimizers of an experiment, as stages that run in order: `stages:` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Epochs, Period, known
from backends.schedules import Constant, Schedule
from backends.spec import Fraction, Leaf, Precision


def _steps_or_epochs(schema: dict[str, Any]) -> None:
    """A file gives one of the two lengths."""
    schema["required"] = [name for name in schema.get("required", []) if name != "steps"]
    schema["anyOf"] = [{"required": ["steps"]}, {"required": ["epochs"]}]


class _Stage(Leaf):
    """What all stages have in common. Floats named in `knob_fields` are live values, not compiled constants."""

    model_config = ConfigDict(json_schema_extra=_steps_or_epochs)

    knob_fields: ClassVar[tuple[str, ...]] = ()
    default_precision: ClassVar[Precision] = "float32"
    choices: ClassVar[tuple[str, ...]] = ()
    """Fields that are true or false and choose between programs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")] = ""
    """Unique within the file; stages are addressed by it (`stages.warm.lr`). Default: the kind."""
    steps: Period
    """Optimizer steps (iterations of a quasi-Newton stage)."""
    epochs: PositiveFloat | None = None
    """Length in passes over the data, instead of `steps`."""
    precision: Precision | None = None
    """Default: the file's `precision`, else float64 for quasi-Newton stages and float32 for the others."""

    @property
    def method(self) -> str:
        """The algorithm: the kind, followed by the choices that shape its program."""
        kind = type(self).model_fields["kind"].default
        return "-".join([kind, *(name for name in self.choices if getattr(self, name))])

    @model_validator(mode="before")
    @classmethod
    def _named_by_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            kind = data.get("kind", cls.model_fields["kind"].default)
            return {**data, "name": kind} if isinstance(kind, str) else data
        return data

    @model_validator(mode="before")
    @classmethod
    def _length_in_epochs(cls, data: Any) -> Any:
        """`epochs: 20` is another spelling of `steps: 20 epochs`."""
        epochs = data.get("epochs") if isinstance(data, dict) else None
        if epochs is None:
            return data
        if data.get("steps") is not None:
            raise PydanticCustomError("length", "has both `steps` and `epochs`; give one of them (the other: null)")
        if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs < float("inf"):
            return {**data, "steps": 1}  # what is wrong with the epochs is said of them alone
        return {**data, "steps": Epochs.of(epochs), "epochs": None}


class _FirstOrder(_Stage):
    schedule: Schedule = Constant()
    """How the rate changes over the stage."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> _FirstOrder:
        length = getattr(self.schedule, "steps", None)
        if not known(self.steps, length, self.schedule.warmup):
            return self
        if length is not None and length > self.steps:
            raise PydanticCustomError(
                "schedule",
                "the schedule is {length} steps long, longer than its stage ({steps}); shorten it "
                "or give the stage more",
                {"length": length, "steps": self.steps},
            )
        if self.schedule.warmup >= (length or self.steps) > 0 and self.schedule.warmup:
            raise PydanticCustomError(
                "schedule",
                "a warmup of {warmup} steps leaves nothing of {steps} steps; shorten it",
                {"warmup": self.schedule.warmup, "steps": length or self.steps},
            )
        return self


class Adam(_FirstOrder):
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), as `optax.adam`."""

    knob_fields: ClassVar = ("b1", "b2", "eps")
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class AdamW(_FirstOrder):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as `optax.adamw`."""

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decay per step, times the learning rate."""


class Sgd(_FirstOrder):
    """Stochastic gradient descent, with heavy-ball momentum where `momentum` > 0, as `optax.sgd`."""

    knob_fields: ClassVar = ("momentum",)
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-2
    """Learning rate."""
    momentum: Fraction = 0.0
    """trace = gradient + momentum * trace; the step is the trace times the rate."""


class _QuasiNewton(_Stage):
    default_precision: ClassVar[Precision] = "float64"
    knob_fields: ClassVar[tuple[str, ...]] = ()

    line_search: Annotated[int, Field(ge=2, le=100)] = 20
    """Most evaluations of loss and gradient per iteration."""
    tolerance: NonNegativeFloat = 0.0
    """The stage ends early when the largest gradient component falls below this. 0: never."""


class Lbfgs(_QuasiNewton):
    """Limited-memory BFGS with a strong-Wolfe search (Nocedal and Wright, 2nd ed., algorithms 7.4 and 3.5)."""

    kind: Literal["lbfgs"] = "lbfgs"
    memory: Annotated[int, Field(ge=1, le=1000)] = 50
    """Pairs of steps and gradient differences that are kept."""


class SsBroyden(_QuasiNewton):
    """Self-scaled Broyden with a dense inverse Hessian (Urban et al., arXiv 2405.04230), float64 only."""

    kind: Literal["ssbroyden"] = "ssbroyden"

    @model_validator(mode="after")
    def _double(self) -> SsBroyden:
        if self.precision == "float32":
            raise PydanticCustomError(
                "precision",
                "ssbroyden needs float64 (in float32 its line search stalls after a few iterations); "
                "remove `precision` here",
            )
        return self


Stage = Annotated[Adam | AdamW | Sgd | Lbfgs | SsBroyden, Field(discriminator="kind")]
FIRST_ORDER: tuple[type[_FirstOrder], ...] = (Adam, AdamW, Sgd)
QUASI_NEWTON: tuple[type[_QuasiNewton], ...] = (Lbfgs, SsBroyden)
