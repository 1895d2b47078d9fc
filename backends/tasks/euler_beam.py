"""Euler's beam: clamped at one end, free at the other, bent by an even load."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class EulerBeam(Problem):
    """u_xxxx + q = 0 on x in [0, 1], u(0) = u_x(0) = 0, u_xx(1) = u_xxx(1) = 0 (DeepXDE's demo: q = 1).

    u = -q (x⁴/24 - x³/6 + x²/4). The clamp can be built in; the free end stays a term, for which the ansatz takes no
    derivatives.
    """

    kind: Literal["euler_beam"] = "euler_beam"
    load: float = 1.0
    """q: load over bending stiffness."""
    coords = {"x": (0.0, 1.0)}
    fields = ("u",)

    @residual
    def pde(self, f: Any) -> Any:
        return f("u_xxxx") + self.load

    @residual(x="low")
    def clamped(self, f: Any) -> Any:
        return f("u", "u_x")

    @residual(x="high")
    def free(self, f: Any) -> Any:
        return f("u_xx", "u_xxx")

    @hard("clamped")
    def ansatz(self, f: Any) -> Any:
        x, u = f("x", "u")
        return {"u": x * x * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        x = points["x"]
        return {"u": -self.load * x**2 * (x**2 / 24.0 - x / 6.0 + 0.25)}
