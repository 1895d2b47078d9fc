"""The Allen-Cahn equation: phases that separate behind thin fronts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.errors import UserError
from backends.pde.problem import Problem, residual
from backends.task import Columns
from backends.tasks.spectral import Evolution, etdrk4

POINTS = 4096
"""Of the reference's solver."""


class AllenCahn(Problem):
    """u_t = d u_xx + r (u - u³) on x in [-1, 1], periodic, t in [0, 1], u(0, x) = x² cos(pi x).

    With d = 1e-4 and r = 5 it is the problem of Raissi, Perdikaris and Karniadakis (2019), jaxpi and PirateNets.
    (DeepXDE's demo has d = 1e-3 and u = -1 at both ends: another problem.) Reference: Fourier modes and ETDRK4, off by
    about 3e-7. The initial state has a kink at x = ±1, which no periodic ansatz can have: `constraints: hard` builds in
    the periodicity alone, and the start stays a term.
    """

    kind: Literal["allen_cahn"] = "allen_cahn"
    diffusivity: PositiveFloat = 1e-4
    """d; the fronts are sqrt(d / r) wide."""
    rate: PositiveFloat = 5.0
    """r."""
    coords = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
    fields = ("u",)
    time = "t"
    periodic = ("x",)
    reference_grid = {"t": 201, "x": 512}

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_xx = f("u", "u_t", "u_xx")
        return u_t - self.diffusivity * u_xx - self.rate * (u - u * u * u)

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - x * x * f.ops.cos(math.pi * x)

    @residual(x="periodic")
    def bc(self, f: Any) -> Any:
        u, u_x = f.ends("u", "u_x")
        return u[1] - u[0], u_x[1] - u_x[0]

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        t, x = points["t"], points["x"]
        return {"u": np.where(t == 0, _start(x), evolution(self.diffusivity, self.rate)(t, x))}


def _start(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * x * np.cos(math.pi * x)


@lru_cache(maxsize=4)
def evolution(diffusivity: float, rate: float, points: int = POINTS, steps: int = 0) -> Evolution:
    """The reference solution. `steps`: default 200 per unit of the rate, at least 1000."""
    steps = steps or 200 * max(5, math.ceil(rate))
    found = etdrk4(
        _start(-1.0 + 2.0 * np.arange(points) / points),
        low=-1.0,
        length=2.0,
        end=1.0,
        steps=steps,
        linear=lambda k: rate - diffusivity * k**2,
        nonlinear=lambda u, _: -rate * np.fft.rfft(u * u * u),
    )
    if not found.unresolved() < 1e-6:
        raise UserError(f"{points} points do not resolve the fronts at diffusivity {diffusivity:g} and rate {rate:g}")
    return found
