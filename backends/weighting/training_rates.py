"""Weights from gradients and training rates together: terms that lag behind get longer gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from backends.weighting.strategy import Adaptive, Seen, State, kept, now

FARTHEST = 300.0
"""Most that the logarithm of a weight moves at once: its exponential is then still a number."""


class GradNorm(Adaptive):
    """GradNorm (Chen, Badrinarayanan, Lee, Rabinovich, arXiv 1711.02257, algorithm 1).

        r_k      = (L_k / L_k(0)) / mean_j (L_j / L_j(0))               relative inverse training rate
        target_k = mean_j (w_j |grad L_j|) * r_k^alpha
        log w_k moves towards log(target_k / |grad L_k|), at most `rate` per update; then the weights are scaled so
        that they add up to the number of terms

    L_k(0) is the loss at the first update. The paper descends on sum_k |w_k |grad L_k| - target_k| by the weights
    themselves, which is a step of fixed sign whose length depends on the unit of the losses; in the logarithm it
    depends on nothing, stays positive, and stops at the target. The gradient is by all parameters (the paper takes the
    last shared layer, to save time). A term that was 0 or less at first counts as falling like the mean. A term
    without a gradient keeps its weight and counts nowhere: beside terms that stand still for good, the others would
    lose all their weight for falling.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses", "grad_norms"})
    kind: Literal["gradnorm"] = "gradnorm"
    alpha: NonNegativeFloat = 1.5
    """How strongly terms are pulled back to a common rate; 0: gradients become equally long. The paper: 0.12 to 1.5."""
    rate: PositiveFloat = 0.2
    """Most that the logarithm of a weight moves in one update."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step; losses to compare with come with the first update."""
        return {**super().init(terms), "first": None}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of every weight towards its target. `seen["losses"]`, `seen["grad_norms"]`: [terms]."""
        losses, norms = (np.asarray(seen[name], dtype=np.float64) for name in ("losses", "grad_norms"))
        alive = norms > 0
        if not np.isfinite(losses).all() or not np.isfinite(norms).all() or not alive.any():
            return kept(state)
        first = np.asarray(state["first"] or losses.tolist())
        after = {**state, "first": first.tolist()}
        weights = now(state)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            fallen = np.where(first > 0, np.maximum(losses, 0.0) / first, np.nan)
            fallen = np.minimum(fallen, 1e300)
            known = fallen[alive & np.isfinite(fallen)]
            mean = known.mean() if known.size else 0.0
            relative = np.where(np.isfinite(fallen), fallen / mean, 1.0) if mean > 0 else np.ones(len(losses))
            lengths = np.log(weights) + np.log(norms)
            largest = lengths[alive].max()
            log_mean = largest + np.log(np.exp(lengths[alive] - largest).mean())
            wanted = log_mean + self.alpha * np.log(np.maximum(relative, 1e-300)) - lengths
        most = min(self.rate, FARTHEST)
        moved = weights * np.exp(np.clip(wanted, -most, most))
        return self.settled(after, np.where(alive, alive.sum() * moved / moved[alive].sum(), weights))
