"""What all weightings have in common: values of the file, plain JSON as state, and bounds that no weight leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Period
from backends.spec import Leaf

State = dict[str, Any]
Vector = NDArray[np.float64]
Seen = Mapping[str, Vector]
"""What a strategy needs, by name, one value per trained term in order: `losses`, or a statistic of `Backend.probe`."""
# strict: a dict's values are not seen by the Leaf's own check, and `true` is no weight.
Weight = Annotated[float, Field(ge=0, strict=True)]


class Strategy(Leaf):
    """Root of the weightings: the weights that the file gives."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What `update` must be shown: `losses`, or statistics of `Backend.probe`."""
    residuals_only: ClassVar[bool] = False
    """Whether it is defined for residuals alone, not for terms that enter the loss as they are."""
    values: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each term at the start; 1 for terms that are not named."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step."""
        return {"weights": {term: float(self.values.get(term, 1.0)) for term in terms}}

    def trained(self, terms: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Parameters that the weighting has beside those of the task, by name; empty for most."""
        return {}

    def named(self) -> dict[str, str]:
        """Every term that the file names, by the path where it does."""
        return {f"weights.values.{term}": term for term in self.values}


class Adaptive(Strategy):
    """Root of the strategies that set weights anew every so many steps."""

    every: Period = 100
    """Optimizer steps (or `1 epoch`) between updates."""
    low: PositiveFloat = 1e-3
    """No weight falls below this."""
    high: PositiveFloat = 1e3
    """No weight rises above this."""

    @model_validator(mode="after")
    def _bounded(self) -> Adaptive:
        if self.low >= self.high:
            raise PydanticCustomError(
                "bounds",
                "low ({low}) must be below high ({high})",
                {"low": self.low, "high": self.high, "path": "weights.low"},
            )
        for name, value in self.values.items():
            if not self.low <= value <= self.high:
                raise PydanticCustomError(
                    "bounds",
                    "'{name}' starts at {value}, not between `low` ({low}) and `high` ({high}); change one of them",
                    {
                        "name": name,
                        "value": value,
                        "low": self.low,
                        "high": self.high,
                        "path": f"weights.values.{name}",
                    },
                )
        return self

    def settled(self, state: State, weights: Vector) -> tuple[State, dict[str, float]]:
        """The state with new weights, within the bounds."""
        named = dict(zip(state["weights"], np.clip(weights, self.low, self.high).tolist(), strict=True))
        return {**state, "weights": named}, dict(named)

    def averaged(self, state: State, target: Vector, alpha: float) -> tuple[State, dict[str, float]]:
        """One step of the moving average: `alpha` of the old weights and the rest of `target`, within the bounds."""
        return self.settled(state, alpha * now(state) + (1 - alpha) * np.clip(target, self.low, self.high))


def now(state: State) -> Vector:
    """The present weights, in order."""
    return np.fromiter(state["weights"].values(), dtype=np.float64, count=len(state["weights"]))


def kept(state: State) -> tuple[State, dict[str, float]]:
    """Nothing changes."""
    return state, dict(state["weights"])


def ratio(scale: float, sizes: Vector, old: Vector) -> Vector:
    """scale / sizes; the old weight where a size is 0."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(sizes > 0, scale / sizes, old)
