"""The wave equation of a string that is plucked in two modes at once."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, conserved, hard, residual
from backends.task import Columns


class Wave(Problem):
    """u_tt = c² u_xx on x in [0, 1], t in [0, 1], u = 0 at both ends, u_t(0, x) = 0.

    u(0, x) = sin(pi x) + sin(4 pi x) / 2, so u = sin(pi x) cos(c pi t) + sin(4 pi x) cos(4 c pi t) / 2. With c = 2 it
    is the problem of Wang, Yu and Perdikaris (arXiv 2007.14527), jaxpi, PINNacle and the RAD paper.
    """

    kind: Literal["wave"] = "wave"
    speed: PositiveFloat = 2.0
    """c."""
    coords = {"t": (0.0, 1.0), "x": (0.0, 1.0)}
    fields = ("u",)
    time = "t"

    @property
    def acceleration_square(self) -> float:
        """Mean square of u_tt, which the yardstick divides by (means of sin² and cos² taken as a half)."""
        first = (self.speed * math.pi) ** 2
        return 0.25 * (first**2 + (0.5 * 16.0 * first) ** 2)

    @residual(scale="acceleration_square")
    def pde(self, f: Any) -> Any:
        u_tt, u_xx = f("u_tt", "u_xx")
        return u_tt - self.speed**2 * u_xx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - self._plucked(f.ops, x)

    @residual(t=0)
    def ic_t(self, f: Any) -> Any:
        return f("u_t")

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        return f("u")

    @conserved
    def energy(self, f: Any) -> Any:
        u_t, u_x = f("u_t", "u_x")
        return 0.5 * (u_t**2 + self.speed**2 * u_x**2)

    @hard("ic", "ic_t", "bc")
    def ansatz(self, f: Any) -> Any:
        """tanh(4 c t)² begins like t² and soon is 1, where t² would ask for a network that falls by a factor of 600."""
        t, x, u = f("t", "x", "u")
        begun = f.ops.tanh(4.0 * self.speed * t)
        return {"u": self._plucked(f.ops, x) + begun * begun * 4.0 * x * (1.0 - x) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        x, angle = math.pi * points["x"], self.speed * math.pi * points["t"]
        return {"u": np.sin(x) * np.cos(angle) + 0.5 * np.sin(4.0 * x) * np.cos(4.0 * angle)}

    def _plucked(self, ops: Any, x: Any) -> Any:
        return ops.sin(math.pi * x) + 0.5 * ops.sin(4.0 * math.pi * x)
