"""Poisson's equation on the unit square, with a product of sines as its solution."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class Poisson(Problem):
    """-(u_xx + u_yy) = 2 (k pi)² sin(k pi x) sin(k pi y) on the unit square, u = 0 on its boundary.

    The solution is sin(k pi x) sin(k pi y); k = 4 is the usual test of a multi-modal solution.
    """

    kind: Literal["poisson"] = "poisson"
    k: PositiveInt = 4
    """Half waves along each side."""
    coords = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    fields = ("u",)

    @property
    def source_square(self) -> float:
        """Mean square of the right-hand side, which the yardstick divides by."""
        return (self.k * math.pi) ** 4

    @residual(scale="source_square")
    def pde(self, f: Any) -> Any:
        x, y = f("x", "y")
        wave = self.k * math.pi
        return f.laplacian("u") + 2.0 * wave**2 * f.ops.sin(wave * x) * f.ops.sin(wave * y)

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f("u")

    @hard("bc")
    def ansatz(self, f: Any) -> Any:
        x, y, u = f("x", "y", "u")
        return {"u": x * (1.0 - x) * y * (1.0 - y) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        wave = self.k * math.pi
        return {"u": np.sin(wave * points["x"]) * np.sin(wave * points["y"])}
