"""An inverse problem: the three parameters of Lorenz' system, from a few points of one trajectory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from scipy.integrate import solve_ivp

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

START = {"x": -8.0, "y": 7.0, "z": 27.0}


class Lorenz(Problem):
    """x' = s (y - x), y' = x (r - z) - y, z' = x y - b z, t in [0, 3], from (-8, 7, 27); s, r, b are not known.

    DeepXDE's demo: true values 10, 15, 8/3, guesses 1, 25 measurements without noise, here at equal distances in time.
    Reference: an eighth-order Runge-Kutta method, off by about 1e-10.
    """

    kind: Literal["lorenz"] = "lorenz"
    true_sigma: PositiveFloat = 10.0
    """s that the measurements are made with."""
    true_rho: PositiveFloat = 15.0
    """r that the measurements are made with."""
    true_beta: PositiveFloat = 8.0 / 3.0
    """b that the measurements are made with."""
    guess: PositiveFloat = 1.0
    """Where the search for each of the three starts."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of the measurements (the solution is of the order of 10)."""
    measurements: PositiveInt = 25
    """At how many times x, y and z are measured."""
    coords = {"t": (0.0, 3.0)}
    fields = ("x", "y", "z")
    time = "t"
    scales = {"x": 10.0, "y": 10.0, "z": 10.0}
    unknowns = {"sigma": "guess", "rho": "guess", "beta": "guess"}
    truth = {"sigma": "true_sigma", "rho": "true_rho", "beta": "true_beta"}
    reference_grid = {"t": 1000}

    @residual(scale=1e4)
    def pde(self, f: Any) -> Any:
        x, y, z, x_t, y_t, z_t = f("x", "y", "z", "x_t", "y_t", "z_t")
        sigma, rho, beta = f("sigma", "rho", "beta")
        return {"x": x_t - sigma * (y - x), "y": y_t - x * (rho - z) + y, "z": z_t - x * y + beta * z}

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        return tuple(f(name) - value for name, value in START.items())

    @residual(at="trajectory")
    def data(self, f: Any) -> Any:
        return tuple(f(name) - f(f"measured_{name}") for name in START)

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        """tanh(10 t) begins like t and soon is 1, so that the network is as large as what it stands for."""
        begun = f.ops.tanh(10.0 * f("t"))
        return {name: value + begun * f(name) for name, value in START.items()}

    def trajectory(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Equally spaced times and what was measured then."""
        points = {"t": np.linspace(0.0, 3.0, self.measurements)}
        known = self.solution(points)
        errors = self.noise * rng.standard_normal((3, self.measurements))
        return {**points, **{f"measured_{n}": known[n] + e for n, e in zip(START, errors, strict=True)}}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        values = trajectory(self.true_sigma, self.true_rho, self.true_beta)(points["t"])
        return dict(zip(START, values, strict=True))


@lru_cache(maxsize=4)
def trajectory(sigma: float, rho: float, beta: float) -> Any:
    """The reference solution: times [n] -> [3, n]."""

    def change(t: float, state: Any) -> list[float]:
        x, y, z = state
        return [sigma * (y - x), x * (rho - z) - y, x * y - beta * z]

    return solve_ivp(
        change, (0.0, 3.0), list(START.values()), method="DOP853", rtol=1e-12, atol=1e-12, max_step=0.01,
        dense_output=True,
    ).sol  # fmt: skip
