"""Constraints with tolerances: weights that grow while a term is violated and fall once it is within its tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.weighting.strategy import Adaptive, Seen, State, kept, now

ENOUGH = 0.25
"""A violation that is more than this share of the last one has not fallen enough, and its penalty grows."""


class DualAscent(Adaptive):
    """Minimise some terms subject to tolerances on others (method of multipliers: Nocedal and Wright, Numerical
    Optimization, chapter 17; for networks: Basir and Senocak, arXiv 2109.14860).

        minimise sum of w_k L_k over the objective terms     subject to     L_k <= tolerance_k for the constraints
        w_k = clip(w_k + rho_k (L_k - tolerance_k), low, high)                          every `every` steps

    The terms of `tolerances` are the constraints; all others are the objective and keep their weight of `values`. A
    constraint's weight is its multiplier: it grows in proportion to the violation and falls again within the
    tolerance. rho_k begins with `rho` and is multiplied by `growth`, up to `rho_high`, at each update whose violation
    is more than a quarter of the last one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    kind: Literal["dual_ascent"] = "dual_ascent"
    tolerances: Annotated[dict[str, Annotated[NonNegativeFloat, Field(strict=True)]], Field(min_length=1)]
    """The constraints, each with the loss (mean square of a residual) that is good enough: `{bc: 1e-5}`."""
    rho: PositiveFloat = 1.0
    """Weight that an update adds per unit of violation."""
    growth: Annotated[float, Field(ge=1)] = 1.0
    """Factor by which rho grows while the violation does not fall; 1: never."""
    rho_high: PositiveFloat = 1e4
    """rho grows no further than this."""

    @model_validator(mode="after")
    def _grows(self) -> DualAscent:
        if self.rho > self.rho_high:
            raise PydanticCustomError(
                "bounds",
                "rho ({rho}) must not be above rho_high ({high})",
                {"rho": self.rho, "high": self.rho_high, "path": "weights.rho"},
            )
        return self

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step, and rho and the last violation of each constraint."""
        constraints = [term for term in terms if term in self.tolerances]
        return {**super().init(terms), "rho": dict.fromkeys(constraints, self.rho), "last": {}}

    def named(self) -> dict[str, str]:
        """The terms of `values` and of `tolerances`."""
        return super().named() | {f"weights.tolerances.{term}": term for term in self.tolerances}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the ascent. `seen["losses"]`: [terms]."""
        losses = np.asarray(seen["losses"], dtype=np.float64)
        if not np.isfinite(losses).all():
            return kept(state)
        rho, last = dict(state["rho"]), dict(state["last"])
        weights = now(state)
        for i, term in enumerate(state["weights"]):
            if term not in rho:
                continue
            violation = float(losses[i]) - self.tolerances[term]
            if term in last and violation > ENOUGH * max(last[term], 0.0):
                rho[term] = min(rho[term] * self.growth, self.rho_high)
            with np.errstate(over="ignore"):
                weights[i] += rho[term] * violation
            last[term] = violation
        constrained = [term in rho for term in state["weights"]]
        held = np.where(constrained, np.clip(weights, self.low, self.high), now(state))
        return self.settled({**state, "rho": rho, "last": last}, held)
