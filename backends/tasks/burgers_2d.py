"""Burgers' equations in the plane, with Fletcher's exact solution: a front that crosses the square."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class Burgers2D(Problem):
    """u_t + u u_x + v u_y = lap u / Re, v_t + u v_x + v v_y = lap v / Re on the unit square, t in [0, 1].

    u = 3/4 - s/4, v = 3/4 + s/4 with s = 1 / (1 + exp(Re (4 y - 4 x - t) / 32)), a front of width 8 / Re (Fletcher,
    Int. J. Numer. Meth. Fluids 3 (1983) 213-216). Velocities are given at t = 0 and on the boundary. (Burgers2d-C of
    PINNacle starts from random modes that are known as a file only.)
    """

    kind: Literal["burgers_2d"] = "burgers_2d"
    reynolds: PositiveFloat = 100.0
    """Re."""
    coords = {"t": (0.0, 1.0), "x": (0.0, 1.0), "y": (0.0, 1.0)}
    fields = ("u", "v")
    time = "t"
    reference_grid = {"t": 11, "x": 64, "y": 64}

    @residual
    def pde(self, f: Any) -> Any:
        u, v, u_t, v_t, u_x, u_y, v_x, v_y = f("u", "v", "u_t", "v_t", "u_x", "u_y", "v_x", "v_y")
        viscosity = 1.0 / self.reynolds
        return {
            "u": u_t + u * u_x + v * u_y - viscosity * f.laplacian("u"),
            "v": v_t + u * v_x + v * v_y - viscosity * f.laplacian("v"),
        }

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, v, exact_u, exact_v = f("u", "v", "exact_u", "exact_v")
        return u - exact_u, v - exact_v

    @residual(on="boundary")
    def bc(self, f: Any) -> Any:
        u, v, exact_u, exact_v = f("u", "v", "exact_u", "exact_v")
        return u - exact_u, v - exact_v

    @hard("ic", "bc")
    def ansatz(self, f: Any) -> Any:
        """What is given at the start and on the walls, blended into the inside (Coons' patch), and a network that
        vanishes there."""
        t, x, y, u, v = f("t", "x", "y", "u", "v")

        def front(t: Any, x: Any, y: Any) -> Any:
            return 0.25 * self._front(f.ops, t, x, y)

        given = front(0.0, x, y) + patch(lambda x, y: front(t, x, y) - front(0.0, x, y), x, y)
        inside = t * x * (1.0 - x) * y * (1.0 - y)
        return {"u": 0.75 - given + inside * u, "v": 0.75 + given + inside * v}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        quarter = 0.25 * self._front(np, points["t"], points["x"], points["y"])
        return {"u": 0.75 - quarter, "v": 0.75 + quarter}

    def _front(self, ops: Any, t: Any, x: Any, y: Any) -> Any:
        """1 / (1 + exp(z)) = (1 - tanh(z / 2)) / 2"""
        return 0.5 - 0.5 * ops.tanh(self.reynolds / 64.0 * (4.0 * y - 4.0 * x - t))


def patch(g: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """Coons' patch: a function on the unit square with the values of g on its four sides, and nothing else of g."""
    sides = (1.0 - x) * g(0.0, y) + x * g(1.0, y) + (1.0 - y) * g(x, 0.0) + y * g(x, 1.0)
    corners = (1.0 - x) * ((1.0 - y) * g(0.0, 0.0) + y * g(0.0, 1.0)) + x * ((1.0 - y) * g(1.0, 0.0) + y * g(1.0, 1.0))
    return sides - corners
