"""The optimizers of an experiment, as stages that run in order: `stages:` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.spec import Fraction, Precision
from backends.stages.custom import CustomOptimizer
from backends.stages.first_order import Adagrad, Adam, AdamW, Lamb, Lion, Muon, Nadam, Radam, RmsProp, Sgd
from backends.stages.stage import AnyStage, FirstOrder


class SecondOrder(AnyStage):
    """What the stages have in common that find the length of their steps themselves."""

    default_precision: ClassVar[Precision] = "float64"
    knob_fields: ClassVar[tuple[str, ...]] = ()

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


class QuasiNewton(SecondOrder):
    """What the stages have in common that learn the curvature from gradients and search along a line."""

    line_search: Annotated[int, Field(ge=2, le=100)] = 20
    """Most evaluations of loss and gradient per iteration."""


class Lbfgs(QuasiNewton):
    """Limited-memory BFGS with a strong-Wolfe search (Nocedal and Wright, 2nd ed., algorithms 7.4 and 3.5)."""

    kind: Literal["lbfgs"] = "lbfgs"
    memory: Annotated[int, Field(ge=1, le=1000)] = 50
    """Pairs of steps and gradient differences that are kept."""


class SsBroyden(QuasiNewton):
    """Self-scaled Broyden (Urban et al., arXiv 2405.04230), float64 only, with a dense inverse Hessian or on a few
    directions of it."""

    kind: Literal["ssbroyden"] = "ssbroyden"
    memory: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Directions on which the inverse Hessian is kept; it is a multiple of 1 on all others. For more than about 3,000
    parameters. Default: on all of them, as a dense matrix."""

    @model_validator(mode="after")
    def _double(self) -> SsBroyden:
        if self.precision == "float32":
            raise PydanticCustomError(
                "precision",
                "ssbroyden needs float64 (in float32 its line search stalls after a few iterations); "
                "remove `precision` here",
            )
        return self


class GaussNewton(SecondOrder):
    """Gauss-Newton on the residuals, float64 only: Levenberg-Marquardt (`step: trust`) or a line search.

    With J the derivative of all residuals, each times the root of weight / points, and g the gradient of the loss,
    a step solves (J'J + damping) p = -g / 2. For a loss of squared residuals this is energy natural gradient descent
    (Mueller and Zeinhofer, arXiv 2302.13163), whose Gram matrix is J'J; with `step: line_search` it is theirs.
    A term of kind `loss` enters by its gradient alone: it has no curvature here.
    """

    knob_fields: ClassVar[tuple[str, ...]] = ("damping", "momentum")
    kind: Literal["gauss_newton"] = "gauss_newton"
    solver: Literal["auto", "dense", "samples", "cg"] = "auto"
    """How the system is solved: `dense` by Cholesky of J'J, `samples` of JJ' (fewer residuals than parameters), `cg`
    by conjugate gradients without a matrix. `auto`: samples where they are fewer, dense up to 5,000 parameters, cg."""
    step: Literal["trust", "line_search"] = "trust"
    """`trust`: the damping follows how well the last step was predicted, and grows until the loss falls (Levenberg and
    Marquardt). `line_search`: the damping stays, and of p, p/2, p/4, … the best step is taken."""
    damping: PositiveFloat = 1e-2
    """Added to the diagonal of J'J; with `trust` what it begins with."""
    momentum: Fraction = 0.0
    """Pulls p towards this share of the last step instead of 0, as SPRING does (arXiv 2401.10190)."""
    trials: Annotated[int, Field(ge=1, le=100)] = 12
    """Most steps tried per iteration."""
    cg_steps: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Most steps of conjugate gradients per system; only `solver: cg` (and `auto`) takes any."""

    @model_validator(mode="after")
    def _double(self) -> GaussNewton:
        if self.precision == "float32":
            raise PydanticCustomError(
                "precision",
                "gauss_newton needs float64 (the squared condition of its system leaves float32 no digits); "
                "remove `precision` here",
            )
        return self


Stage = Annotated[
    Adam
    | AdamW
    | Nadam
    | Radam
    | Lamb
    | Lion
    | Muon
    | RmsProp
    | Adagrad
    | Sgd
    | CustomOptimizer
    | Lbfgs
    | SsBroyden
    | GaussNewton,
    Field(discriminator="kind"),
]
FIRST_ORDER: tuple[type[FirstOrder], ...] = (Adam, AdamW, Nadam, Radam, Lamb, Lion, Muon, RmsProp, Adagrad, Sgd)
"""Ours; the user's own is a `CustomOptimizer`."""
QUASI_NEWTON: tuple[type[QuasiNewton], ...] = (Lbfgs, SsBroyden)
SECOND_ORDER: tuple[type[SecondOrder], ...] = (*QUASI_NEWTON, GaussNewton)
"""Stages that compare losses of the same samples, and find the length of their steps themselves."""
DOUBLE: tuple[type[SecondOrder], ...] = (SsBroyden, GaussNewton)
"""Stages that need float64."""
