"""The Helmholtz equation on a square, with a product of sines as its solution."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class Helmholtz(Problem):
    """u_xx + u_yy + k² u = q on the square [low, 1]², u = 0 on its boundary.

    q is such that u = sin(a1 pi x) sin(a2 pi y). Defaults: Wang, Teng and Perdikaris (arXiv 2001.04536):
    k = 1, a1 = 1, a2 = 4 on [-1, 1]². DeepXDE's demo is `k: 12.566370614359172, a1: 4, a2: 4, low: 0` (k = 4 pi).
    """

    kind: Literal["helmholtz"] = "helmholtz"
    k: PositiveFloat = 1.0
    """Wave number."""
    a1: PositiveInt = 1
    """Half waves of the solution per unit length along x."""
    a2: PositiveInt = 4
    """Half waves of the solution per unit length along y."""
    low: float = -1.0
    """Lower corner of the square, a whole number; the upper one is 1."""
    coords = {"x": ("low", 1.0), "y": ("low", 1.0)}
    fields = ("u",)

    @field_validator("low")
    @classmethod
    def _whole(cls, low: float) -> float:
        if not low.is_integer():
            raise PydanticCustomError("low", "must be a whole number, where the solution vanishes")
        return low

    @property
    def source_square(self) -> float:
        """Mean square of q, which the yardstick divides by."""
        return 0.25 * self._factor(self.k) ** 2

    @residual(scale="source_square")
    def pde(self, f: Any) -> Any:
        u, x, y = f("u", "x", "y")
        shape = f.ops.sin(self.a1 * math.pi * x) * f.ops.sin(self.a2 * math.pi * y)
        return f.laplacian("u") + self.k**2 * u - self._factor(self.k) * shape

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f("u")

    @hard("bc")
    def ansatz(self, f: Any) -> Any:
        x, y, u = f("x", "y", "u")
        return {"u": (x - self.low) * (1.0 - x) * (y - self.low) * (1.0 - y) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        return {"u": np.sin(self.a1 * math.pi * points["x"]) * np.sin(self.a2 * math.pi * points["y"])}

    def _factor(self, k: Any) -> Any:
        """q over u."""
        return k**2 - (self.a1**2 + self.a2**2) * math.pi**2
