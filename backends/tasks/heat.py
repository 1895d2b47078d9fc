"""The heat equation on a rod, with fixed, insulated or cooled ends."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from scipy.optimize import brentq

from backends.errors import UserError
from backends.pde.problem import Problem, conserved, hard, residual
from backends.pde.task import PdeTask
from backends.task import Columns, Parts


class Heat(Problem):
    """u_t = a u_xx on x in [0, L], t in [0, 1], with a condition of one of three kinds at both ends.

    - `dirichlet`: u = 0;                       u = exp(-a m² t) sin(m x), m = n pi / L
    - `neumann`: u_n = 0 (insulated);           u = exp(-a m² t) cos(m x), m = n pi / L
    - `robin`: u_n + k (u - ambient) = 0 (Newton's cooling); u = ambient + exp(-a m² t) cos(m (x - L/2)) for odd n,
      sin for even n, where m is the n-th root of the condition.

    The start is one of the rod's own modes; u_n is the derivative along the outward normal. The first kind is DeepXDE's
    demo (a = 0.4, L = 1, n = 1).
    """

    kind: Literal["heat"] = "heat"
    boundary: Literal["dirichlet", "neumann", "robin"] = "dirichlet"
    """The condition at both ends; `constraints: hard` exists for dirichlet."""
    diffusivity: PositiveFloat = 0.4
    """a."""
    length: PositiveFloat = 1.0
    """L."""
    mode: PositiveInt = 1
    """n, half waves along the rod."""
    exchange: PositiveFloat = 2.0
    """k: heat transfer over conductivity, of robin."""
    ambient: float = 0.25
    """Temperature outside, of robin."""
    coords = {"t": (0.0, 1.0), "x": (0.0, "length")}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        u_t, u_xx = f("u_t", "u_xx")
        return u_t - self.diffusivity * u_xx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        return f("u") - f("exact_u")

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        if self.boundary == "dirichlet":
            return f("u")
        if self.boundary == "neumann":
            return f.normal("u")
        return f.normal("u") + self.exchange * (f("u") - self.ambient)

    @conserved(flux="outflow")
    def content(self, f: Any) -> Any:
        return f("u")

    def outflow(self, f: Any) -> Any:
        """Heat that leaves through an end, per time."""
        return -self.diffusivity * f.normal("u")

    @hard("ic", "bc")
    def ansatz(self, f: Any) -> Any:
        t, x, u = f("t", "x", "u")
        s = x / self.length
        return {"u": f.ops.sin(self.mode * math.pi * s) + t * s * (1.0 - s) * u}

    def build(self, parts: Parts) -> PdeTask:
        if parts.constraints == "hard" and self.boundary != "dirichlet":
            raise UserError(
                f"heat has an ansatz for `boundary: dirichlet` only, not for {self.boundary!r}; allowed here: soft",
                path="constraints",
            )
        return super().build(parts)

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        t, x = points["t"], points["x"]
        m = cooled_mode(self.mode, self.exchange, self.length) if self.boundary == "robin" else self._plain_mode
        decay = np.exp(-self.diffusivity * m**2 * t)
        if self.boundary == "robin":
            shape = np.cos if self.mode % 2 else np.sin
            return {"u": self.ambient + decay * shape(m * (x - 0.5 * self.length))}
        return {"u": decay * (np.sin(m * x) if self.boundary == "dirichlet" else np.cos(m * x))}

    @property
    def _plain_mode(self) -> float:
        return self.mode * math.pi / self.length


def cooled_mode(n: int, exchange: float, length: float) -> float:
    """The n-th wave number m of a rod that is cooled at both ends.

    With z = m L/2 in ((n-1) pi/2, n pi/2): z tan z = k L/2 for the even shapes (n odd), z cot z = -k L/2 for the odd
    ones.
    """
    half = 0.5 * exchange * length

    def condition(z: float) -> float:
        return z * math.sin(z) - half * math.cos(z) if n % 2 else z * math.cos(z) + half * math.sin(z)

    z: Any = brentq(condition, 0.5 * (n - 1) * math.pi, 0.5 * n * math.pi, xtol=1e-14)
    return 2.0 * z / length
