"""The optimizers of an experiment, as stages that run in order: `stages:` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.custom_optimizer import CustomOptimizer
from backends.first_order import Adagrad, Adam, AdamW, Lamb, Lion, Nadam, Radam, RmsProp, Sgd
from backends.spec import Precision
from backends.stage import AnyStage, FirstOrder


class QuasiNewton(AnyStage):
    """What the stages have in common that search along a line."""

    default_precision: ClassVar[Precision] = "float64"
    knob_fields: ClassVar[tuple[str, ...]] = ()

    line_search: Annotated[int, Field(ge=2, le=100)] = 20
    """Most evaluations of loss and gradient per iteration."""
    tolerance: NonNegativeFloat = 0.0
    """The stage ends early when the largest gradient component falls below this. 0: never."""

    @model_validator(mode="before")
    @classmethod
    def _all_digits(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("compute") is not None:
            raise PydanticCustomError(
                "compute",
                "a line search compares losses that differ in their last digits, which `compute: {compute}` does not "
                "have; half precision is for first-order stages, remove `compute` here",
                {"compute": str(data["compute"])},
            )
        return data


class Lbfgs(QuasiNewton):
    """Limited-memory BFGS with a strong-Wolfe search (Nocedal and Wright, 2nd ed., algorithms 7.4 and 3.5)."""

    kind: Literal["lbfgs"] = "lbfgs"
    memory: Annotated[int, Field(ge=1, le=1000)] = 50
    """Pairs of steps and gradient differences that are kept."""


class SsBroyden(QuasiNewton):
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


Stage = Annotated[
    Adam | AdamW | Nadam | Radam | Lamb | Lion | RmsProp | Adagrad | Sgd | CustomOptimizer | Lbfgs | SsBroyden,
    Field(discriminator="kind"),
]
FIRST_ORDER: tuple[type[FirstOrder], ...] = (Adam, AdamW, Nadam, Radam, Lamb, Lion, RmsProp, Adagrad, Sgd)
"""Ours; the user's own is a `CustomOptimizer`."""
QUASI_NEWTON: tuple[type[QuasiNewton], ...] = (Lbfgs, SsBroyden)
