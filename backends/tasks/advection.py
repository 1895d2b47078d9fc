"""Linear advection around a circle: simple to write, and hard to train when the speed is high."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class Advection(Problem):
    """u_t + c u_x = 0 on x in [0, 2 pi], periodic, t in [0, T], u(0, x) = sin x, so u = sin(x - c t).

    c = 30, T = 1 is the failure that Krishnapriyan et al. (arXiv 2109.01050) describe, c = 100 the version of jaxpi;
    c = 50, T = 2 that of jaxpi2.
    """

    kind: Literal["advection"] = "advection"
    speed: PositiveFloat = 30.0
    """c."""
    end: PositiveFloat = 1.0
    """T."""
    coords = {"t": (0.0, "end"), "x": (0.0, 2.0 * math.pi)}
    fields = ("u",)
    time = "t"
    periodic = ("x",)

    @property
    def rate_square(self) -> float:
        """Mean square of u_t, which the yardstick divides by."""
        return 0.5 * self.speed**2

    @residual(scale="rate_square")
    def pde(self, f: Any) -> Any:
        u_t, u_x = f("u_t", "u_x")
        return u_t + self.speed * u_x

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - f.ops.sin(x)

    @residual(x="periodic")
    def bc(self, f: Any) -> Any:
        low, high = f.ends("u")
        return high - low

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        """tanh(c t) begins like t and soon is 1: what is left to the network is of order one everywhere."""
        t, x, u = f("t", "x", "u")
        return {"u": f.ops.sin(x) + f.ops.tanh(self.speed * t) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        return {"u": np.sin(points["x"] - self.speed * points["t"])}
