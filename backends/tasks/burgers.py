"""The viscous Burgers equation, with its exact solution by Cole and Hopf."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

SPACING, MARGIN = 0.15, 6.5
"""Of the quadrature's nodes, and how far they reach beyond the integrand's maxima; in units of the Gaussian."""
BLOCK = 2_000_000
"""Numbers per block of the quadrature: 16 MB."""


class Burgers(Problem):
    """u_t + u u_x = nu u_xx on x in [-1, 1], t in [0, 1], with u(0, x) = -sin(pi x) and u(t, -1) = u(t, 1) = 0.

    A wave that steepens to a front of width 2 nu at x = 0. Statement and parameters as in Raissi, Perdikaris and
    Karniadakis (2019).
    """

    kind: Literal["burgers"] = "burgers"
    nu: PositiveFloat = 0.01 / math.pi
    """Viscosity."""
    coords = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
    fields = ("u",)
    time = "t"
    reference_grid = {"t": 100, "x": 256}

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_x, u_xx = f("u", "u_t", "u_x", "u_xx")
        return u_t + u * u_x - self.nu * u_xx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u + f.ops.sin(math.pi * x)

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        return f("u")

    @hard("ic", "bc")
    def ansatz(self, f: Any) -> Any:
        t, x, u = f("t", "x", "u")
        return {"u": -f.ops.sin(math.pi * x) + t * (1.0 - x * x) * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        """Cole-Hopf: a quotient of two integrals over a Gaussian, by the trapezoidal rule.

        u = -∫ sin(pi y) F(y) exp(-z²) dz / ∫ F(y) exp(-z²) dz with y = x - sqrt(4 nu t) z and
        F(y) = exp(-cos(pi y) / (2 pi nu)) (Basdevant et al., Comput. Fluids 14 (1986) 23-41, equation 2).
        Gauss-Hermite nodes, the usual choice, do not reach the maxima of F at small nu (error 0.03 with 150 nodes at
        nu = 5e-4); on an analytic integrand the trapezoidal rule converges as fast, and its nodes reach everywhere.
        """
        t, x = points["t"], points["x"]
        reach = math.sqrt(float(np.max(t, initial=0.0)) / (4.0 * self.nu)) + MARGIN  # |x - y| <= t, for |u| <= 1
        z = np.linspace(-reach, reach, 2 * math.ceil(reach / SPACING) + 1)
        u = np.empty_like(x)
        for rows in np.array_split(np.arange(len(x)), 1 + len(x) * len(z) // BLOCK):
            y = x[rows, None] - np.sqrt(4.0 * self.nu * t[rows])[:, None] * z
            exponent = -z * z - np.cos(math.pi * y) / (2.0 * math.pi * self.nu)
            weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
            u[rows] = -np.sum(np.sin(math.pi * y) * weights, axis=1) / np.sum(weights, axis=1)
        return {"u": u}
