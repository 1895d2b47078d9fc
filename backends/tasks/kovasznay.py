"""Kovasznay's flow: an exact solution of the steady Navier-Stokes equations, behind a grid."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

WAVE = 2.0 * math.pi
LEFT, RIGHT, BOTTOM, TOP = -0.5, 1.0, -0.5, 1.5


class Kovasznay(Problem):
    """u·grad u + grad p = lap u / Re, div u = 0 on x in [-0.5, 1], y in [-0.5, 1.5] (DeepXDE's demo, Re = 20).

    u = 1 - exp(l x) cos(2 pi y), v = l / (2 pi) exp(l x) sin(2 pi y), p = (1 - exp(2 l x)) / 2 with
    l = Re/2 - sqrt(Re²/4 + 4 pi²) (Kovasznay, Proc. Camb. Phil. Soc. 44 (1948) 58-62). The velocity is given on the
    whole boundary (`bc`), the pressure on the outflow x = 1 (`outlet`).
    """

    kind: Literal["kovasznay"] = "kovasznay"
    reynolds: PositiveFloat = 20.0
    """Re."""
    coords = {"x": (LEFT, RIGHT), "y": (BOTTOM, TOP)}
    fields = ("u", "v", "p")

    @residual
    def pde(self, f: Any) -> Any:
        u, v, u_x, u_y, v_x, v_y, p_x, p_y = f("u", "v", "u_x", "u_y", "v_x", "v_y", "p_x", "p_y")
        viscosity = 1.0 / self.reynolds
        return {
            "x": u * u_x + v * u_y + p_x - viscosity * f.laplacian("u"),
            "y": u * v_x + v * v_y + p_y - viscosity * f.laplacian("v"),
            "mass": u_x + v_y,
        }

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        u, v, exact_u, exact_v = f("u", "v", "exact_u", "exact_v")
        return u - exact_u, v - exact_v

    @residual(x="high")
    def outlet(self, f: Any) -> Any:
        return f("p") - f("exact_p")

    @hard("bc", "outlet")
    def ansatz(self, f: Any) -> Any:
        """The boundary's values blended into the inside (Coons' patch), and a network that vanishes there.

        cos(2 pi y) = -1 and sin(2 pi y) = 0 at the bottom and at the top, so little remains of the patch.
        """
        x, y, u, v, p = f("x", "y", "u", "v", "p")
        rate = self._rate(f.ops.sqrt)
        left, right = f.ops.exp(LEFT * rate), f.ops.exp(RIGHT * rate)
        s = (x - LEFT) / (RIGHT - LEFT)
        across = left + (right - left) * s
        inside = (x - LEFT) * (RIGHT - x) * (y - BOTTOM) * (TOP - y)
        return {
            "u": 1.0 - across * (f.ops.cos(WAVE * y) + 1.0) + f.ops.exp(rate * x) + inside * u,
            "v": rate / WAVE * across * f.ops.sin(WAVE * y) + inside * v,
            "p": 0.5 * (1.0 - right * right) + (RIGHT - x) * p,
        }

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        x, y, rate = points["x"], WAVE * points["y"], self._rate(math.sqrt)
        decay = np.exp(rate * x)
        return {
            "u": 1.0 - decay * np.cos(y),
            "v": rate / WAVE * decay * np.sin(y),
            "p": 0.5 * (1.0 - decay * decay),
        }

    def _rate(self, sqrt: Any) -> Any:
        """l, negative: how fast the wake fades."""
        return 0.5 * self.reynolds - sqrt(0.25 * self.reynolds**2 + WAVE**2)
