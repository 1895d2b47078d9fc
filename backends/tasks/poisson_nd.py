"""Poisson's equation in 5 and in 100 dimensions."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, residual
from backends.task import Columns


class Poisson5D(Problem):
    """lap u + (w pi)² sum_i s(w pi x_i) = 0 on [0, 1]^5, u = sum_i s(w pi x_i) given on its boundary.

    Three published versions: `shape: sin, waves: 0.5` PINNacle's PNd; `shape: sin, waves: 1` energy natural gradient
    descent (arXiv 2302.13163); `shape: cos, waves: 1` KFAC and SPRING (arXiv 2405.15603, 2505.12149). There is no
    ansatz on purpose: what blends the boundary's values of a sum over coordinates into the inside is the solution.
    """

    kind: Literal["poisson_5d"] = "poisson_5d"
    shape: Literal["sin", "cos"] = "sin"
    """s."""
    waves: PositiveFloat = 0.5
    """w: half waves along each edge."""
    coords = {f"x{i}": (0.0, 1.0) for i in range(1, 6)}
    fields = ("u",)

    @property
    def source_square(self) -> float:
        """Mean square of the right-hand side, which the yardstick divides by (the mean of s² taken as a half)."""
        mean = 5.0 * 2.0 / math.pi if self.shape == "sin" else 0.0
        return (self.waves * math.pi) ** 4 * (mean**2 + 5.0 * 0.5)

    @residual(scale="source_square")
    def pde(self, f: Any) -> Any:
        return f.laplacian("u") + (self.waves * math.pi) ** 2 * self._sum(f)

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f("u") - self._sum(f)

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        wave = getattr(np, self.shape)
        return {"u": np.sum([wave(self.waves * math.pi * points[c]) for c in self.coords], axis=0)}

    def _sum(self, f: Any) -> Any:
        wave = getattr(f.ops, self.shape)
        return sum(wave(self.waves * math.pi * f(c)) for c in self.coords)


class Poisson100D(Problem):
    """-lap u = -200 on [0, 1]^100, u = |x|² on its boundary, so u = |x|² (KFAC and SPRING, arXiv 2405.15603).

    u lies around 33 with a standard deviation of 3: a constant has an error of 0.089, so less than that is learnt.
    `derivatives: {laplacian: {kind: sparse}}` estimates the Laplacian from a few of its hundred terms.
    """

    kind: Literal["poisson_100d"] = "poisson_100d"
    coords = {f"x{i}": (0.0, 1.0) for i in range(1, 101)}
    fields = ("u",)
    scales = {"u": 100.0 / 3.0}

    @residual(scale=200.0**2)
    def pde(self, f: Any) -> Any:
        return f.laplacian("u") - 200.0

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f("u") - f.ops.sum(f.position() ** 2, 0)

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        return {"u": np.sum([points[c] ** 2 for c in self.coords], axis=0)}
