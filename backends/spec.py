"""What all configuration models have in common, and the leaves of point sets and clipping.

Each is a frozen pydantic model; an attribute's docstring is its documentation (hover text in an
editor through `orchestrator schema`). Stages (`backends.stages`), schedules, weightings, problems, tasks and networks
are leaves too and live beside their mathematics.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticSerializationError

from backends.periods import InEpochs

Precision = Literal["float32", "float64"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
TablePath = Annotated[str, Field(pattern=r"(?i)\.(csv|npz)$")]
"""A `.csv` (comma separated, UTF-8, names in the first line) or `.npz` file, relative to the experiment file."""


def _alternatives(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits (through Annotated, Optional and unions)."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *marks = typing.get_args(annotation)
        return _alternatives(inner) | ({str} if any(isinstance(m, InEpochs) for m in marks) else set())
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_alternatives(a) for a in typing.get_args(annotation)))
    return {type(a) for a in typing.get_args(annotation)} if origin is Literal else {annotation}


def _annotated(field: Any) -> Any:
    """A field's whole annotation: pydantic keeps the outermost marks apart."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _number(cls: Any, value: Any, info: ValidationInfo) -> Any:
    """pydantic would read `true` as 1 and '1e-3' as a number: both hide a slip of the pen."""
    field = cls.model_fields.get(info.field_name or "")
    kinds = _alternatives(_annotated(field)) if field else set()
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
    by: Literal["sum"] | tuple[str, ...] = "sum"
    """The residuals of the region that decide, by the names of their terms. `sum`: all of them. Of several, the squares
    are added, each divided by the `scale` of its term."""


class Rard(Leaf):
    """Residual-based adaptive refinement with distribution (Wu et al., arXiv 2207.10289, algorithm 3).

    The set begins with `count` points; `add` more join them each time, drawn from fresh candidates as `rad` draws
    them. Room for all of them is there from the start, so that nothing is compiled again.
    """

    kind: Literal["rard"] = "rard"
    every: PositiveInt = 500
    """Optimizer steps between additions."""
    add: PositiveInt = 50
    """Points that are added each time."""
    capacity: PositiveInt | None = None
    """Most points of the set; default: twice `count`. Each step costs as much as so many points, from the start. Once
    they are all there, new points take the places of those with the smallest residual."""
    k: NonNegativeFloat = 2.0
    """Exponent of the residual."""
    c: NonNegativeFloat = 0.0
    """Share of the uniform distribution."""
    candidates: Annotated[int, Field(ge=2, le=100)] = 5
    """Candidates per point of `capacity`."""
    spread: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Added points lie around the drawn candidates: at a random distance of this share of the domain's length along
    each coordinate, reflected at its ends. 0: at the candidates themselves."""
    noise: Literal["normal", "uniform"] = "normal"
    """Distribution of that distance: `spread` is its standard deviation (normal) or its largest value (uniform)."""
    by: Literal["sum"] | tuple[str, ...] = "sum"
    """The residuals of the region that decide, as in `rad`."""

    @model_validator(mode="after")
    def _has_room(self) -> Rard:
        if self.capacity is not None and self.add > self.capacity:
            raise PydanticCustomError(
                "points",
                "add ({add}) must not be above the capacity ({capacity})",
                {"add": self.add, "capacity": self.capacity},
            )
        return self


class Fresh(Leaf):
    """New points by the set's own sampler, whatever the residual is (DeepXDE's PDEPointResampler)."""

    kind: Literal["fresh"] = "fresh"
    every: PositiveInt = 500
    """Optimizer steps between draws."""


def _rad_by_default(value: Any) -> Any:
    return {"kind": "rad", **value} if isinstance(value, dict) else value


Adapt = Annotated[
    Annotated[Rad | Rard | Fresh, Field(discriminator="kind")],
    BeforeValidator(_rad_by_default, json_schema_input_type=Rad | Rard | Fresh),
]
"""How a set is drawn again while training; `kind` is `rad` where the file does not say it."""


class Causal(Leaf):
    """Causal weights in time (Wang, Sankaran, Perdikaris, arXiv 2203.07404, equation 3.5 and algorithm 1).

    A point in time window m has the weight exp(-eps * sum over the windows before it of their mean squared residual):
    what comes later counts once what was before is solved.
    """

    kind: Literal["causal"] = "causal"
    windows: Annotated[int, Field(ge=2, le=1000)] = 32
    """Windows of equal length that the time is cut into."""
    eps: PositiveFloat = 1e-2
    """Steepness at the start."""
    factor: Annotated[float, Field(ge=1)] = 10.0
    """By this `eps` grows whenever the smallest weight is above `delta`; 1: it stays."""
    last: PositiveFloat = 100.0
    """It grows no further than this."""
    delta: Fraction = 0.99
    """Where the smallest weight is above this, the residual is small at all times, by the present `eps`."""
    every: PositiveInt = 100
    """Quasi-Newton stages keep the weights for so many iterations."""

    @model_validator(mode="after")
    def _grows(self) -> Causal:
        if self.eps > self.last:
            raise PydanticCustomError(
                "points", "eps ({eps}) must not be above last ({last})", {"eps": self.eps, "last": self.last}
            )
        return self


class Attention(Leaf):
    """Residual-based attention (Anagnostopoulos et al., arXiv 2307.00379, equation 5).

    lambda_i <- gamma * lambda_i + eta * |r_i| / max |r| after every step, and the squared residual of point i has the
    weight lambda_i^2, which stays below (eta / (1 - gamma))^2. All begin with 1.
    """

    kind: Literal["attention"] = "attention"
    gamma: Fraction = 0.999
    """What is kept of the old value."""
    eta: PositiveFloat = 0.01
    """Rate."""
    every: PositiveInt = 100
    """Quasi-Newton stages keep the weights for so many iterations, then take as many updates at once."""


class SelfAdaptive(Leaf):
    """Self-adaptive weights (McClenny and Braga-Neto, arXiv 2009.04544, equations 8 to 12).

    Each point has a lambda that is trained by gradient ascent, lambda_i <- lambda_i + lr/2 * m'(lambda_i) * r_i^2, and
    the weight m(lambda_i). All weights begin with 1 and only grow. Quasi-Newton stages keep them.
    """

    kind: Literal["self_adaptive"] = "self_adaptive"
    lr: PositiveFloat = 5e-3
    """Rate of the ascent."""
    mask: Literal["linear", "square", "sigmoid"] = "square"
    """m: lambda, lambda^2, or a sigmoid that rises from 1 at lambda = 0 to `high`."""
    high: Annotated[float, Field(gt=1)] = 1e3
    """No weight rises above this."""


Pointwise = Annotated[Causal | Attention | SelfAdaptive, Field(discriminator="kind")]


class Points(Leaf):
    """The collocation points of one set (one region of the domain). `200` is short for `{count: 200}`."""

    count: PositiveInt | None = None
    """Number of points, over all workers."""
    path: TablePath | None = None
    """Instead: a `.csv` or `.npz` file with a column per coordinate, whose points are taken as they are."""
    sampler: Literal["uniform", "sobol", "halton", "latin_hypercube", "grid"] = "uniform"
    """How the points are drawn (scipy.stats.qmc for the low-discrepancy ones)."""
    adapt: Adapt | None = None
    """Draw again while training: by the residual (`rad`, `rard`) or not (`fresh`)."""
    pointwise: Pointwise | None = None
    """A weight for each point, which changes while training."""
    chunk: Literal["auto"] | PositiveInt = "auto"
    """Points per pass; must divide the points of a worker. `auto`: as many as a CPU's cache holds, elsewhere all."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"count": data} if isinstance(data, int) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _count_or_file(self) -> Points:
        if (self.count is None) == (self.path is None):
            raise PydanticCustomError(
                "points", "needs either a number of points, `count: 1000`, or a file of them, `path: points.csv`"
            )
        if self.path and (self.adapt or self.sampler != "uniform"):
            raise PydanticCustomError("points", "the points of a file stay as they are; remove `sampler` and `adapt`")
        if isinstance(self.adapt, Rard) and self.count and (self.adapt.capacity or self.count) < self.count:
            raise PydanticCustomError(
                "points",
                "adapt.capacity ({capacity}) is below the points that there are at the start ({count})",
                {"capacity": self.adapt.capacity, "count": self.count},
            )
        return self


class Clip(Leaf):
    """Clipping of the gradient before a first-order optimizer sees it: by value, then by norm."""

    norm: PositiveFloat | None = None
    """The gradient's global 2-norm is scaled down to this where it is larger."""
    value: PositiveFloat | None = None
    """Each of its components is cut to lie between -value and value."""

    @model_validator(mode="after")
    def _clips(self) -> Clip:
        if self.norm is None and self.value is None:
            raise PydanticCustomError("clip", "needs a limit: `norm`, `value` or both")
        return self
