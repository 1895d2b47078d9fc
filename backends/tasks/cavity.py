"""The lid-driven cavity: steady flow in a square whose lid moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat

from backends.errors import UserError
from backends.pde.problem import Problem, hard, residual
from backends.pde.reference import grid
from backends.pde.task import PdeTask
from backends.task import Parts, Reference
from backends.tasks.cavity_solver import flow

POINTS = 101
"""Of the reference's grid, along each side."""
STEEPNESS = 50.0
"""C of the smooth lid."""
FADING = 10.0
"""The ansatz carries the lid's speed 1 / FADING deep into the fluid."""


class Cavity(Problem):
    """u·grad u + grad p = lap u / Re, div u = 0 on the unit square; u = lid speed, v = 0 at y = 1, walls at rest.

    - `lid: uniform` u = 1, with a jump at the upper corners: the problem of Ghia, Ghia and Shin (1982);
    - `lid: smooth` u = 1 - cosh(C (x - 1/2)) / cosh(C / 2), C = 50, as networks are often given it (jaxpi; Urbán et
      al.): away from the corners the flow is the same to 1e-3;
    - `lid: parabola` u = 4 x (1 - x) (PINNacle's NS2d-C at Re = 100).

    `error/l2` is that of the velocity, against finite differences on two grids (`cavity_solver`, kept on disk once
    computed), which for the uniform lid differ from Ghia's table by 1.2 % at Re 100, 0.8 % at Re 400 and 2.2 % at
    Re 1000, and from Botella and Peyret's spectral values by 3e-5. The pressure has no reference: it is free up to a
    constant.
    """

    kind: Literal["cavity"] = "cavity"
    reynolds: PositiveFloat = 100.0
    """Re."""
    lid: Literal["uniform", "smooth", "parabola"] = "uniform"
    """How fast the lid moves along its length; `constraints: hard` exists for smooth and parabola."""
    coords = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
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
        u, v, x, y = f("u", "v", "x", "y")
        return u - f.ops.where(y >= 1.0, self._lid(f.ops, x), 0.0 * x), v

    @hard("bc")
    def ansatz(self, f: Any) -> Any:
        x, y, u, v = f("x", "y", "u", "v")
        inside = 16.0 * x * (1.0 - x) * y * (1.0 - y)
        carried = self._lid(f.ops, x) * y * f.ops.exp(FADING * (y - 1.0))
        return {"u": carried + inside * u, "v": inside * v}

    def build(self, parts: Parts) -> PdeTask:
        if parts.constraints == "hard" and self.lid == "uniform":
            raise UserError(
                "cavity has an ansatz for `lid: smooth` and `lid: parabola` only: a uniform lid jumps at its corners; "
                "allowed here: soft",
                path="constraints",
            )
        task = super().build(parts)
        return task if task.given else replace(task, given=self._known())

    def _known(self) -> Reference:
        """The velocity on a grid, in full width, without the pressure."""
        axis = np.linspace(0.0, 1.0, POINTS)
        points = grid({"x": axis, "y": axis})
        u, v = flow(self.reynolds, self.speed, self.lid)(points["x"], points["y"])
        return Reference(points, {"u": u, "v": v}, (POINTS, POINTS), ("x", "y"))

    @property
    def speed(self) -> Callable[[Any], Any]:
        """The lid's speed at x [n], in numpy."""
        return lambda x: self._lid(np, x)

    def _lid(self, ops: Any, x: Any) -> Any:
        if self.lid == "parabola":
            return 4.0 * x * (1.0 - x)
        if self.lid == "smooth":
            walls = ops.exp(-STEEPNESS * x) + ops.exp(STEEPNESS * (x - 1.0))
            return 1.0 - walls / (1.0 + math.exp(-STEEPNESS))
        return 1.0 + 0.0 * x
