"""Weights from how each loss term gets on: ReLoBRaLo by ratios of losses, SoftAdapt by their rate of change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from backends import randomness
from backends.spec import Fraction
from backends.weighting.strategy import Adaptive, Seen, State, Vector, kept, now


class ReLoBRaLo(Adaptive):
    """Relative loss balancing with random lookback (Bischof and Kraus, arXiv 2110.09813, section 3.3).

    A term that has fallen less than the others gets more weight:

        balanced(t, s) = K * softmax_i( L_i(t) / (temperature * L_i(s)) )              K terms, so they add up to K
        lambda(t) = alpha * (rho * lambda(t-1) + (1 - rho) * balanced(t, 0)) + (1 - alpha) * balanced(t, t-1)

    rho is 1 with probability `beta`, else 0: now and then the run looks back to its beginning. t counts updates, not
    steps; the paper's 0.999 per step is 0.9 per 100 steps. Weights that started with the sum K keep it, up to the
    bounds. It is made for terms that are not negative: a term that was 0 or less at s counts as unchanged.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    kind: Literal["relobralo"] = "relobralo"
    alpha: Fraction = 0.9
    """Share of the past in the new weights."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that the past is the last weights and not the run's beginning (E[rho] in the paper)."""
    temperature: PositiveFloat = 0.1
    """Small values give nearly all weight to the term that fell least, large ones weigh all alike."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step; losses to compare with come with the first update."""
        return {**super().init(terms), "first": None, "last": None}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """Weights from the losses now, at the last update and at the first one. `seen["losses"]`: [terms]."""
        losses = np.asarray(seen["losses"], dtype=np.float64)
        if not np.isfinite(losses).all():
            return kept(state)
        first, last = state["first"] or losses.tolist(), state["last"]
        after = {**state, "first": first, "last": losses.tolist()}
        if last is None:
            return kept(after)
        old = now(state)
        if randomness.generator(seed, "relobralo", step).random() >= self.beta:
            old = self._balanced(losses, first)
        return self.settled(after, self.alpha * old + (1 - self.alpha) * self._balanced(losses, last))

    def _balanced(self, losses: Vector, then: Sequence[float]) -> Vector:
        past = np.asarray(then)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio = np.where(past > 0, losses / past, 1.0) / self.temperature
        ratio = np.minimum(ratio, 1e300)  # a term that came from almost nothing: infinitely worse is very much worse
        grown = np.exp(ratio - ratio.max())
        return len(losses) * grown / grown.sum()


class SoftAdapt(Adaptive):
    """Weights from the rate of change of each term (Heydari, Thompson, Mehmood, arXiv 1912.12355).

        s_i = L_i(t) - L_i(t-1)                                t counts updates: the change over `every` steps
        s_i = s_i / sum_j |s_j|                                where `normalized`
        lambda_i = K * v_i exp(beta s_i) / sum_j v_j exp(beta s_j)        v_i = L_i(t) where `loss_weighted`, else 1

    K terms: the paper's weights add up to 1, ours to K (up to the bounds), so that equal ones are 1. beta > 0 favours
    the term that falls slowest, beta < 0 the one that falls fastest. With `loss_weighted` a term below 0 counts as 0,
    and where no term is above 0 all weights stay.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    kind: Literal["softadapt"] = "softadapt"
    beta: float = 0.1
    """Sharpness: 0 weighs all alike; the paper's choice is 0.1."""
    normalized: bool = True
    """Divide the changes by the sum of their sizes: without it weights depend on the unit of the losses."""
    loss_weighted: bool = False
    """Multiply by the losses, so that a small term that falls slowly does not get all the weight."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step; losses to compare with come with the first update."""
        return {**super().init(terms), "last": None}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """Weights from the losses now and at the last update. `seen["losses"]`: [terms]."""
        losses = np.asarray(seen["losses"], dtype=np.float64)
        if not np.isfinite(losses).all():
            return kept(state)
        after, last = {**state, "last": losses.tolist()}, state["last"]
        if last is None:
            return kept(after)
        shares = np.maximum(losses, 0.0) if self.loss_weighted else np.ones(len(losses))
        if not shares.any():
            return kept(after)
        with np.errstate(over="ignore", divide="ignore"):
            change = np.clip(losses - np.asarray(last), -1e300, 1e300)
            if self.normalized:
                change = change / (np.abs(change).max() or 1.0)  # twice, for the sum of huge changes has no number
                change = change / (np.abs(change).sum() or 1.0)
            rate = np.clip(self.beta * change, -1e300, 1e300) + np.log(shares)
        grown = np.exp(rate - rate.max())
        return self.settled(after, len(losses) * grown / grown.sum())
