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


class Points(Leaf):
    """The collocation points of one set (one region of the domain). `200` is short for `{count: 200}`."""

    count: PositiveInt | None = None
    """Number of points, over all workers."""
    path: TablePath | None = None
    """Instead: a `.csv` or `.npz` file with a column per coordinate, whose points are taken as they are."""
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

    @model_validator(mode="after")
    def _count_or_file(self) -> Points:
        if (self.count is None) == (self.path is None):
            raise PydanticCustomError(
                "points", "needs either a number of points, `count: 1000`, or a file of them, `path: points.csv`"
            )
        if self.path and (self.adapt or self.sampler != "uniform"):
            raise PydanticCustomError("points", "the points of a file stay as they are; remove `sampler` and `adapt`")
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
