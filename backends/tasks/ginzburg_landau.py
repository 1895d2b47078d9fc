"""The complex Ginzburg-Landau equation in the plane: spirals that grow out of one."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.errors import UserError
from backends.pde.problem import Problem, hard, residual
from backends.task import Columns
from backends.tasks.spectral_nd import Evolution, etdrk4, grid
from backends.tasks.stored import stored

POINTS, STEP, SAVED = 192, 2e-3, 50
"""Of the reference's solver: points along each axis, time step, and how many times are kept."""
LOW, LENGTH = (-1.0, -1.0), (2.0, 2.0)


class GinzburgLandau(Problem):
    """A_t = e lap A + k A - k (1 + 1.5 i) |A|² A on [-1, 1]², periodic, t in [0, end], A = u + i v.

    A(0, x, y) = (10 y + 10 i x) exp(-25 (x² + y²)); e = 0.004, k = 10, end = 1: the problem of jaxpi and PirateNets
    (jaxpi2 stops at 0.8). Reference: Fourier modes and ETDRK4, 192 x 192 points, kept on disk once computed.
    """

    kind: Literal["ginzburg_landau"] = "ginzburg_landau"
    end: PositiveFloat = 1.0
    """Last time."""
    diffusivity: PositiveFloat = 0.004
    """e."""
    rate: PositiveFloat = 10.0
    """k."""
    dispersion: float = 1.5
    """How much faster large amplitudes turn."""
    coords = {"t": (0.0, "end"), "x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    fields = ("u", "v")
    time = "t"
    periodic = ("x", "y")
    reference_grid = {"t": 11, "x": 64, "y": 64}

    @property
    def rate_square(self) -> float:
        """k², which the yardstick divides by."""
        return self.rate**2

    @residual(scale="rate_square")
    def pde(self, f: Any) -> Any:
        u, v, u_t, v_t = f("u", "v", "u_t", "v_t")
        square = u * u + v * v
        return {
            "u": u_t - self.diffusivity * f.laplacian("u") - self.rate * (u - square * (u - self.dispersion * v)),
            "v": v_t - self.diffusivity * f.laplacian("v") - self.rate * (v - square * (v + self.dispersion * u)),
        }

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, v = f("u", "v")
        real, imaginary = _start(f.ops, *f("x", "y"))
        return u - real, v - imaginary

    @residual(x="periodic")
    def bc_x(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "v", "u_x", "v_x"))

    @residual(y="periodic")
    def bc_y(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "v", "u_y", "v_y"))

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        """tanh(k t) begins like k t and soon is 1: what is left to the network is of order one everywhere."""
        t, u, v = f("t", "u", "v")
        real, imaginary = _start(f.ops, *f("x", "y"))
        begun = f.ops.tanh(self.rate * t)
        return {"u": real + begun * u, "v": imaginary + begun * v}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        found = evolution(self.end, self.diffusivity, self.rate, self.dispersion)
        (a,) = found(points["t"], points["x"], points["y"])
        return {"u": a.real, "v": a.imag}


def _start(ops: Any, x: Any, y: Any) -> tuple[Any, Any]:
    bell = 10.0 * ops.exp(-25.0 * (x * x + y * y))
    return y * bell, x * bell


@lru_cache(maxsize=2)
def evolution(
    end: float, diffusivity: float, rate: float, dispersion: float, points: int = POINTS, step: float = STEP
) -> Evolution:
    """The reference solution."""

    def compute() -> dict[str, NDArray[Any]]:
        real, imaginary = _start(np, *grid(LOW, LENGTH, points))
        every = math.ceil(end / (SAVED * step))
        found = etdrk4(
            (real + 1j * imaginary)[None],
            low=LOW,
            length=LENGTH,
            end=end,
            steps=SAVED * every,
            linear=lambda square: [rate - diffusivity * square],
            nonlinear=lambda a: -rate * (1.0 + 1j * dispersion) * (a.real**2 + a.imag**2) * a,
            every=every,
        )
        if not found.unresolved() < 1e-4:
            raise UserError(f"{points} points do not resolve the spirals at diffusivity {diffusivity:g}")
        return {"modes": found.modes.astype(np.complex64), "turns": found.turns}

    settings = {"end": end, "diffusivity": diffusivity, "rate": rate, "dispersion": dispersion, "points": points}
    return Evolution(LOW, LENGTH, end, **stored("ginzburg_landau", {**settings, "step": step}, compute))
