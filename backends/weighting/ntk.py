"""Weights from the neural tangent kernel: every term learns at the same average rate."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from backends.protocol import KERNEL
from backends.spec import Fraction
from backends.weighting.strategy import Adaptive, Seen, State, kept, now, ratio


class NtkWeights(Adaptive):
    """Weights by the traces of the neural tangent kernel (Wang, Yu, Perdikaris, arXiv 2007.14527, algorithm 1).

        lambda_k = mean_j t_j / t_k              t_k = mean over samples of |grad r_k|^2 = trace(K_kk) / N_k

    r_k is the residual of term k at one sample and grad its gradient by all parameters, so t_k is the mean eigenvalue
    of the term's kernel: how fast its residuals shrink under gradient flow. The paper has the sum of the traces in
    place of their mean; with the mean (as in the authors' later code, arXiv 2308.08468) equal kernels have the weight
    1. The trace is exact on `samples` samples of each batch, evenly spaced, so fixed where the points are. Smoothed by
    a moving average. Terms that are no residuals have no kernel: they are refused. A term whose trace is exactly 0
    keeps its weight and does not count in the mean.
    """

    residuals_only: ClassVar[bool] = True
    kind: Literal["ntk"] = "ntk"
    alpha: Fraction = 0.9
    """Share of the old weight in the new one."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Samples of each batch that the trace is taken over; a gradient for each of them."""

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The statistic, with its number of samples."""
        return frozenset({f"{KERNEL}{self.samples}"})

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average towards equal rates. `seen["ntk/<samples>"]`: [terms]."""
        traces = np.asarray(seen[f"{KERNEL}{self.samples}"], dtype=np.float64)
        alive = traces > 0
        if not np.isfinite(traces).all() or not alive.any():
            return kept(state)
        with np.errstate(over="ignore"):
            mean = traces[alive].mean()
        return self.averaged(state, ratio(mean, traces, now(state)), self.alpha)
