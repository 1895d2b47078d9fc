"""The Korteweg-de Vries equation: a wave that breaks up into solitons."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from backends.errors import UserError
from backends.pde.problem import Problem, conserved, hard, residual
from backends.task import Columns
from backends.tasks.spectral import Evolution, etdrk4

POINTS, STEPS = 512, 4000
"""Of the reference's solver."""


class KdV(Problem):
    """u_t + u u_x + d² u_xxx = 0 on x in [-1, 1], periodic, t in [0, 1], u(0, x) = cos(pi x).

    With d = 0.022 it is the experiment of Zabusky and Kruskal, Phys. Rev. Lett. 15 (1965) 240-243, up to t = 1, as in
    jaxpi and PirateNets. Reference: Fourier modes and ETDRK4, off by about 7e-9.
    """

    kind: Literal["kdv"] = "kdv"
    dispersion: PositiveFloat = 0.022
    """d."""
    coords = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
    fields = ("u",)
    time = "t"
    periodic = ("x",)
    reference_grid = {"t": 251, "x": 512}

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_x, u_xxx = f("u", "u_t", "u_x", "u_xxx")
        return u_t + u * u_x + self.dispersion**2 * u_xxx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - f.ops.cos(math.pi * x)

    @residual(x="periodic")
    def bc(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "u_x", "u_xx"))

    @conserved(nodes=128, tolerance=1e-3)
    def mass(self, f: Any) -> Any:
        return f("u")

    @conserved(nodes=128, tolerance=1e-3, by="scale")
    def momentum(self, f: Any) -> Any:
        return f("u") ** 2

    @conserved(nodes=128, tolerance=1e-3, by="scale")
    def energy(self, f: Any) -> Any:
        u, u_x = f("u", "u_x")
        return u**3 / 6.0 - 0.5 * self.dispersion**2 * u_x**2

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        t, x, u = f("t", "x", "u")
        return {"u": f.ops.cos(math.pi * x) + t * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        return {"u": evolution(self.dispersion)(points["t"], points["x"])}


@lru_cache(maxsize=4)
def evolution(dispersion: float, points: int = POINTS, steps: int = STEPS) -> Evolution:
    """The reference solution."""
    found = etdrk4(
        np.cos(math.pi * (-1.0 + 2.0 * np.arange(points) / points)),
        low=-1.0,
        length=2.0,
        end=1.0,
        steps=steps,
        linear=lambda k: 1j * dispersion**2 * k**3,
        nonlinear=lambda u, k: -0.5j * k * np.fft.rfft(u * u),
        every=2,
    )
    if not found.unresolved() < 1e-6:
        raise UserError(f"{points} points do not resolve the solitons at dispersion {dispersion:g}")
    return found
