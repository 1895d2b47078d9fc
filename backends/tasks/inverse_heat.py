"""An inverse problem: the diffusivity of the heat equation, from noisy sensors."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns


class InverseHeat(Problem):
    """u_t = kappa u_xx on x in [0, 1], t in [0, 1], u(0, x) = sin(pi x), u = 0 at both ends; kappa is not known.

    It is trained along with the network, from measurements of exp(-kappa pi² t) sin(pi x) at random points.
    """

    kind: Literal["inverse_heat"] = "inverse_heat"
    true_kappa: PositiveFloat = 0.3
    """The diffusivity that the measurements are made with."""
    guess: PositiveFloat = 1.0
    """Where the search for kappa starts."""
    noise: NonNegativeFloat = 0.01
    """Standard deviation of the measurements (the solution's largest value is 1)."""
    measurements: PositiveInt = 100
    """How many points of (t, x) are measured."""
    coords = {"t": (0.0, 1.0), "x": (0.0, 1.0)}
    fields = ("u",)
    time = "t"
    unknowns = {"kappa": "guess"}
    truth = {"kappa": "true_kappa"}

    @residual
    def pde(self, f: Any) -> Any:
        kappa, u_t, u_xx = f("kappa", "u_t", "u_xx")
        return u_t - kappa * u_xx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - f.ops.sin(math.pi * x)

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        return f("u")

    @residual(at="sensors")
    def data(self, f: Any) -> Any:
        u, measured = f("u", "measured")
        return u - measured

    @hard("ic", "bc")
    def ansatz(self, f: Any) -> Any:
        t, x, u = f("t", "x", "u")
        return {"u": f.ops.sin(math.pi * x) + t * x * (1.0 - x) * u}

    def sensors(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Random points and what was measured there."""
        points = {"t": rng.uniform(0, 1, self.measurements), "x": rng.uniform(0, 1, self.measurements)}
        errors = self.noise * rng.standard_normal(self.measurements)
        return {**points, "measured": self.solution(points)["u"] + errors}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        t, x = points["t"], points["x"]
        return {"u": np.exp(-self.true_kappa * math.pi**2 * t) * np.sin(math.pi * x)}
