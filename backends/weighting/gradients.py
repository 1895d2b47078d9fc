"""Weights from the size of each term's gradient: equal norms, annealing by maximum and mean, inverse Dirichlet.

In all three a term whose gradient is exactly 0 keeps its weight (it has nothing to balance) and sets no scale.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from backends.spec import Fraction
from backends.weighting.strategy import Adaptive, Seen, State, kept, now, ratio


class GradientNorms(Adaptive):
    """Weights that make the gradients of all terms equally long (Wang et al., arXiv 2308.08468, algorithm 1).

    lambda_i = mean_j |grad L_j| / |grad L_i|, smoothed by a moving average. The paper has the sum in place of the
    mean; with the mean (as in the authors' code) equal gradients have the weight 1, and the lengths of the weighted
    gradients add up to those of the unweighted ones. A term whose gradient is exactly 0 keeps its weight and does
    not count in the mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_norms"})
    kind: Literal["gradient_norms"] = "gradient_norms"
    alpha: Fraction = 0.9
    """Share of the old weight in the new one."""

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average towards the balanced weights. `seen["grad_norms"]`: [terms]."""
        norms = np.asarray(seen["grad_norms"], dtype=np.float64)
        alive = norms > 0
        if not np.isfinite(norms).all() or not alive.any():
            return kept(state)
        with np.errstate(over="ignore"):
            mean = norms[alive].mean()
        return self.averaged(state, ratio(mean, norms, now(state)), self.alpha)


class LearningRateAnnealing(Adaptive):
    """Learning-rate annealing of the terms against one of them (Wang, Teng, Perdikaris, arXiv 2001.04536, alg. 1).

        target_i = max |grad L_r| / mean |grad L_i|                                          for every i but r
        lambda_i = alpha * lambda_i + (1 - alpha) * target_i

    r is the residual of the equation, whose weight stays; maximum and mean are over the components of the gradient.
    The paper writes the moving average with the shares the other way round; 0.9 of the old is what its authors' code
    does. A term whose gradient is exactly 0 keeps its weight; where that of r is 0 all weights stay.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_max", "grad_mean_abs"})
    kind: Literal["annealing"] = "annealing"
    alpha: Fraction = 0.9
    """Share of the old weight in the new one."""
    reference: str | None = None
    """The term that the others are measured by; its weight stays. null: the first one (`pde` of an equation)."""

    def named(self) -> dict[str, str]:
        """The terms of `values`, and the reference."""
        return super().named() | ({} if self.reference is None else {"weights.reference": self.reference})

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average. `seen["grad_max"]`, `seen["grad_mean_abs"]`: [terms]."""
        largest, mean = (np.asarray(seen[name], dtype=np.float64) for name in ("grad_max", "grad_mean_abs"))
        r = list(state["weights"]).index(self.reference) if self.reference is not None else 0
        if not np.isfinite(largest).all() or not np.isfinite(mean).all() or not largest[r] > 0:
            return kept(state)
        old = now(state)
        target = ratio(largest[r], mean, old)
        target[r] = old[r]
        return self.averaged(state, target, self.alpha)


class InverseDirichlet(Adaptive):
    """Weights that give all gradients the same spread (inverse Dirichlet: Maddu et al., arXiv 2107.00940).

        target_i = max_j std(grad L_j) / std(grad L_i)
        lambda_i = alpha * lambda_i + (1 - alpha) * target_i

    std is over the components of the gradient; the paper's alpha is 0.5. A term whose gradient has no spread keeps
    its weight.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_std"})
    kind: Literal["inverse_dirichlet"] = "inverse_dirichlet"
    alpha: Fraction = 0.5
    """Share of the old weight in the new one."""

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average. `seen["grad_std"]`: [terms]."""
        spread = np.asarray(seen["grad_std"], dtype=np.float64)
        if not np.isfinite(spread).all() or not (spread > 0).any():
            return kept(state)
        return self.averaged(state, ratio(spread.max(), spread, now(state)), self.alpha)
