"""The Kuramoto-Sivashinsky equation: fronts that become chaotic."""

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
from backends.tasks.spectral import Evolution, etdrk4

POINTS, STEP = 512, 2e-4
"""Of the reference's solver."""


class KuramotoSivashinsky(Problem):
    """u_t + a u u_x + b u_xx + c u_xxxx = 0 on x in [0, 2 pi], periodic, t in [0, end], u(0, x) = cos x (1 + sin x).

    a = 100/16, b = 100/16², c = 100/16⁴, as in jaxpi, jaxpi2, Scale-PINN and PINNacle. They stop at different times,
    which is most of the difference between their errors: name `end` with every number. Default: 0.1, the ablation study
    of jaxpi. Reference: Fourier modes and ETDRK4; its errors grow like the solution's own instabilities, from 1e-10 at
    t = 0.1 to about 1e-6 at t = 1.
    """

    kind: Literal["kuramoto_sivashinsky"] = "kuramoto_sivashinsky"
    end: PositiveFloat = 0.1
    """Last time. Published results are for 0.1, 0.35, 0.4 and 1."""
    steepening: PositiveFloat = 100.0 / 16.0
    """a."""
    growth: PositiveFloat = 100.0 / 16.0**2
    """b, which feeds the long waves."""
    damping: PositiveFloat = 100.0 / 16.0**4
    """c, which damps the short ones."""
    coords = {"t": (0.0, "end"), "x": (0.0, 2.0 * math.pi)}
    fields = ("u",)
    time = "t"
    periodic = ("x",)
    reference_grid = {"t": 51, "x": 512}

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_x, u_xx, u_xxxx = f("u", "u_t", "u_x", "u_xx", "u_xxxx")
        return u_t + self.steepening * u * u_x + self.growth * u_xx + self.damping * u_xxxx

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, x = f("u", "x")
        return u - _start(f.ops, x)

    @residual(x="periodic")
    def bc(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "u_x", "u_xx", "u_xxx"))

    @hard("ic")
    def ansatz(self, f: Any) -> Any:
        """The rest of the solution grows like a t, so the network's part is of order one."""
        t, x, u = f("t", "x", "u")
        return {"u": _start(f.ops, x) + self.steepening * t * u}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        found = evolution(self.end, self.steepening, self.growth, self.damping)
        return {"u": found(points["t"], points["x"])}


def _start(ops: Any, x: Any) -> Any:
    return ops.cos(x) * (1.0 + ops.sin(x))


@lru_cache(maxsize=4)
def evolution(
    end: float, steepening: float, growth: float, damping: float, points: int = POINTS, step: float = STEP
) -> Evolution:
    """The reference solution."""
    found = etdrk4(
        _start(np, 2.0 * math.pi * np.arange(points) / points),
        low=0.0,
        length=2.0 * math.pi,
        end=end,
        steps=max(20, math.ceil(end / step)),
        linear=lambda k: growth * k**2 - damping * k**4,
        nonlinear=lambda u, k: -0.5j * steepening * k * np.fft.rfft(u * u),
    )
    if not found.unresolved() < 1e-6:
        raise UserError(f"{points} points do not resolve the fronts at damping {damping:g}")
    return found
