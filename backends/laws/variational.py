"""Variational fields: a mean and a log-variance from the network, a divergence from a prior as a loss term.

    class Membrane(Problem):
        fields = ("u", "log_var")                    # u(x) ~ N(u, exp(log_var)) at every point
        @residual
        def pde(self, f): ...                        # of the mean: exact for equations that are linear in u
        @loss(at="sensors")
        def data(self, f):
            return expected_misfit(f.ops, f("u"), f("log_var"), f("seen"), noise=self.noise)
        @loss(at="sensors")
        def kl(self, f):
            return kl_normal(f.ops, f("u"), f("log_var"), prior_std=self.spread)

Both are in nats: every length, temperature or field is divided by one of its own kind before it is squared or its
logarithm is taken, so that the balance of data and prior does not depend on units. Kingma and Welling, arXiv 1312.6114,
appendix B.
"""

from __future__ import annotations

import math
from typing import Any

Array = Any


def kl_normal(ops: Any, mean: Array, log_var: Array, *, prior_mean: Any = 0.0, prior_std: Any = 1.0) -> Array:
    """KL(N(mean, exp(log_var)) || N(prior_mean, prior_std²)) in nats, one value per sample:

        ½ (σ²/p² + (μ - m)²/p² - 1 - ln(σ²/p²))

    mean, prior_mean, prior_std in the units of the field, log_var = ln σ² with σ in the same units. It is zero where
    both are the same, never negative, and does not change with the units (σ² and p² change alike).
    """
    log_prior = 2.0 * (math.log(prior_std) if isinstance(prior_std, int | float) else ops.log(prior_std))
    relative = log_var - log_prior
    shift = (mean - prior_mean) / prior_std
    return 0.5 * (ops.exp(relative) + shift * shift - 1.0 - relative)


def expected_misfit(ops: Any, mean: Array, log_var: Array, seen: Array, *, noise: Any) -> Array:
    """E[(seen - u)²] / (2 noise²) in nats, for u ~ N(mean, exp(log_var)): ((seen - μ)² + σ²) / (2 noise²).

    `noise`: the standard deviation of the measurements, in the units of the field. With `kl_normal` on the same points
    and weights of 1 the sum is the negative evidence bound, whose minimum is the posterior among normal ones.
    """
    off = (seen - mean) / noise
    return 0.5 * (off * off + ops.exp(log_var) / (noise * noise))
