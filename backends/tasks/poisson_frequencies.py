"""Poisson's equation with a solution of many frequencies at once."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class PoissonFrequencies(Problem):
    """-lap u = (2/n) sum_i (w_i pi)² sin(w_i pi x) sin(w_i pi y) on the unit square, u = 0 on its boundary.

    u = (1/n) sum_i sin(w_i pi x) sin(w_i pi y) with w_i = 2^i, i = 1 … n: the multi-scale Laplacian problem of Dolean,
    Heinlein, Mishra and Moseley (arXiv 2306.05486). All waves are of one size in u, while in the source the shortest
    one outweighs the longest by 4^(n - 1).
    """

    kind: Literal["poisson_frequencies"] = "poisson_frequencies"
    frequencies: Annotated[int, Field(ge=1, le=8)] = 3
    """n."""
    coords = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    fields = ("u",)

    @property
    def source_square(self) -> float:
        """Mean square of the right-hand side, which the yardstick divides by."""
        return sum((w * math.pi) ** 4 for w in self._waves) / len(self._waves) ** 2

    @residual(scale="source_square")
    def pde(self, f: Any) -> Any:
        x, y = f("x", "y")
        source = sum(
            2.0 * (w * math.pi) ** 2 * f.ops.sin(w * math.pi * x) * f.ops.sin(w * math.pi * y) for w in self._waves
        )
        return f.laplacian("u") + source / len(self._waves)

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f("u")

    @hard("bc")
    def ansatz(self, f: Any) -> Any:
        x, y, u = f("x", "y", "u")
        return {"u": 16.0 * x * (1.0 - x) * y * (1.0 - y) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        x, y = math.pi * points["x"], math.pi * points["y"]
        return {"u": np.mean([np.sin(w * x) * np.sin(w * y) for w in self._waves], axis=0)}

    @property
    def _waves(self) -> list[int]:
        return [2**i for i in range(1, self.frequencies + 1)]
