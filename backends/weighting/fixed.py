"""Weights that stay what the file says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backends.weighting.strategy import Seen, State, Strategy, Weight, kept


class FixedWeights(Strategy):
    """The weights of the file."""

    kind: Literal["fixed"] = "fixed"
    values: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each term; 1 for terms that are not named. 0 leaves a term out of the loss."""

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """The same weights."""
        return kept(state)
