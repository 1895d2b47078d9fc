"""Configuration leaves that a backend reads: stages, schedules, point sets, clipping.

Each is a frozen pydantic model; an attribute's docstring is its documentation (hover text in an
editor through `orchestrator schema`). Problems, tasks and networks are leaves too and live beside
their mathematics in `backends.tasks` and `backends.networks`.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticSerializationError

Precision = Literal["float32", "float64"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _alternatives(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits (through Annotated, Optional and unions)."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_alternatives(a) for a in typing.get_args(annotation)))
    return {type(a) for a in typing.get_args(annotation)} if origin is Literal else {annotation}


def _number(cls: Any, value: Any, info: ValidationInfo) -> Any:
    """pydantic would read `true` as 1 and '1e-3' as a number: both hide a slip of the pen."""
    field = cls.model_fields.get(info.field_name or "")
    kinds = _alternatives(field.annotation) if field else set()
    if not kinds & {int, float}:
        return value
    if isinstance(value, bool) and bool not in kinds:
        raise PydanticCustomError("number", "must be a number, not true or false")
    if isinstance(value, str) and str not in kinds:
        raise PydanticCustomError("number", "must be a number, not text (write it without quotes)")
    return value


class Leaf(BaseModel):
    """Root of every configuration model: frozen, unknown keys refused, numbers are numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Not "*": pydantic refuses a before-validator on the field that discriminates a union.
        names = {n for c in cls.__mro__ if issubclass(c, Leaf) for n in inspect.get_annotations(c)}
        fields = sorted(n for n in names - {"kind"} if not n.startswith("_"))
        if fields:
            number = field_validator(*fields, mode="before", check_fields=False)
            cls._numbers_are_numbers = number(_number)  # type: ignore[attr-defined]


def structure(leaf: Any, without: Collection[str] = ()) -> tuple[type[BaseModel], str] | None:
    """Everything that a frozen model says but the fields `without`, hashable; None where it holds more than plain data.

    Equal structures of two models mean equal programs: what `Task.signature` is made of.
    """
    if not isinstance(leaf, BaseModel) or leaf.__pydantic_private__:
        return None
    try:
        return type(leaf), leaf.model_dump_json(exclude=set(without))
    except PydanticSerializationError:
        return None


class Constant(Leaf):
    """The rate stays as it is, after an optional linear warmup."""

    kind: Literal["constant"] = "constant"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""


class Cosine(Leaf):
    """After the warmup, half a cosine from the rate down to `final` times the rate."""

    kind: Literal["cosine"] = "cosine"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""
    steps: PositiveInt | None = None
    """Length with the warmup; default: the stage's steps. Afterwards the rate stays at its final value."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The last rate, as a fraction of the stage's."""


class Exponential(Leaf):
    """After the warmup, the rate is multiplied by `decay` every `every` steps, smoothly."""

    kind: Literal["exponential"] = "exponential"
    warmup: NonNegativeInt = 0
    """Steps over which the rate grows linearly from 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor per `every` steps."""
    every: PositiveInt = 1000
    """Steps per factor of `decay`."""
    steps: PositiveInt | None = None
    """Length with the warmup, after which the rate stays; default: the stage's steps."""


Schedule = Annotated[Constant | Cosine | Exponential, Field(discriminator="kind")]


class _Stage(Leaf):
    """What all stages have in common. Floats named in `knob_fields` are live values, not compiled constants."""

    knob_fields: ClassVar[tuple[str, ...]] = ()
    default_precision: ClassVar[Precision] = "float32"

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")] = ""
    """Unique within the file; stages are addressed by it (`stages.warm.lr`). Default: the kind."""
    steps: PositiveInt
    """Optimizer steps (iterations of a quasi-Newton stage)."""
    precision: Precision | None = None
    """Default: the file's `precision`, else float64 for quasi-Newton stages and float32 for the others."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            kind = data.get("kind", cls.model_fields["kind"].default)
            return {**data, "name": kind} if isinstance(kind, str) else data
        return data


class _FirstOrder(_Stage):
    schedule: Schedule = Constant()
    """How the rate changes over the stage."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> _FirstOrder:
        length = getattr(self.schedule, "steps", None)
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


class Rad(Leaf):
    """Residual-based adaptive distribution (Wu et al., arXiv 2207.10289, equation 2).

    New points are drawn without replacement from fresh candidates, with probability proportional
    to |r|^k / mean(|r|^k) + c.
    """

    kind: Literal["rad"] = "rad"
    every: PositiveInt = 500
    """Optimizer steps between draws."""
    k: NonNegativeFloat = 1.0
    """Exponent of the residual: 0 draws uniformly, large values draw only where the residual is large."""
    c: NonNegativeFloat = 1.0
    """Share of the uniform distribution."""
    candidates: Annotated[int, Field(ge=2, le=100)] = 5
    """Candidates per point."""


class Points(Leaf):
    """The collocation points of one set (one region of the domain). `200` is short for `{count: 200}`."""

    count: PositiveInt
    """Number of points, over all workers."""
    sampler: Literal["uniform", "sobol", "halton", "latin_hypercube", "grid"] = "uniform"
    """How the points are drawn (scipy.stats.qmc for the low-discrepancy ones)."""
    adapt: Rad | None = None
    """Draw again by the residual while training."""
    chunk: Literal["auto"] | PositiveInt = "auto"
    """Points per pass; must divide the points of a worker. `auto`: as many as a CPU's cache holds, elsewhere all."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"count": data} if isinstance(data, int) and not isinstance(data, bool) else data


class Clip(Leaf):
    """Clipping of the gradient before a first-order optimizer sees it."""

    norm: PositiveFloat
    """The gradient's global 2-norm is scaled down to this where it is larger."""
