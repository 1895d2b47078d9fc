"""Diffusion with a source that feeds five modes at once."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

MODES = {1: 1.0, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4, 8: 1 / 8}
"""Wave number -> amplitude at t = 0."""


class DiffusionReaction(Problem):
    """u_t = d u_xx + R(t, x) on x in [-pi, pi], t in [0, 1], u = 0 at both ends.

    The source R = exp(-t) sum_k a_k (d k² - 1) sin(k x) makes u = exp(-t) sum_k a_k sin(k x), with a_k = 1/k for
    k = 1, 2, 3, 4, 8. With d = 1 it is DeepXDE's demo, R = exp(-t) (3/2 sin 2x + 8/3 sin 3x + 15/4 sin 4x +
    63/8 sin 8x).
    """

    kind: Literal["diffusion_reaction"] = "diffusion_reaction"
    diffusivity: PositiveFloat = 1.0
    """d."""
    coords = {"t": (0.0, 1.0), "x": (-math.pi, math.pi)}
    fields = ("u",)
    time = "t"

    @property
    def source_square(self) -> float:
        """Mean square of R, which the yardstick divides by."""
        waves = sum((a * (self.diffusivity * k**2 - 1.0)) ** 2 for k, a in MODES.items())
        return 0.25 * (1.0 - math.exp(-2.0)) * waves

    @residual(scale="source_square")
    def pde(self, f: Any) -> Any:
        t, x, u_t, u_xx = f("t", "x", "u_t", "u_xx")
        source = sum(a * (self.diffusivity * k**2 - 1.0) * f.ops.sin(k * x) for k, a in MODES.items())
        return u_t - self.diffusivity * u_xx - f.ops.exp(-t) * source

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - _start(f.ops, x)

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        return f("u")

    @hard("ic", "bc")
    def ansatz(self, f: Any) -> Any:
        t, x, u = f("t", "x", "u")
        return {"u": _start(f.ops, x) + t * (math.pi**2 - x * x) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        return {"u": np.exp(-points["t"]) * _start(np, points["x"])}


def _start(ops: Any, x: Any) -> Any:
    return sum(a * ops.sin(k * x) for k, a in MODES.items())
