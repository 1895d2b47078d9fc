"""The heat equation in a ball of five dimensions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.geometry import Ball
from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

DIMENSIONS = 5


class Heat5D(Problem):
    """u_t = lap u / 5 - |x|²/5 exp(|x|²/2 + t) in the unit ball, u_n = exp(1/2 + t) on its surface, t in [0, 1].

    u = exp(|x|²/2 + t): PINNacle's HNd. The start can be built in.
    """

    kind: Literal["heat_5d"] = "heat_5d"
    coords = {"t": (0.0, 1.0), **{f"x{i}": (-1.0, 1.0) for i in range(1, DIMENSIONS + 1)}}
    geometry = Ball((0.0,) * DIMENSIONS, 1.0)
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        square = f.ops.sum(f.position() ** 2, 0)
        source = -square / DIMENSIONS * f.ops.exp(0.5 * square + f("t"))
        return f("u_t") - f.laplacian("u") / DIMENSIONS - source

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        return f("u") - f.ops.exp(0.5 * f.ops.sum(f.position() ** 2, 0))

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        return f.normal("u") - f.ops.exp(0.5 + f("t"))

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        t, u = f("t", "u")
        return {"u": f.ops.exp(0.5 * f.ops.sum(f.position() ** 2, 0)) + t * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        square = np.sum([points[c] ** 2 for c in self.coords if c != "t"], axis=0)
        return {"u": np.exp(0.5 * square + points["t"])}
