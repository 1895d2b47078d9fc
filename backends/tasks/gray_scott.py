"""The Gray-Scott equations: two substances that react and diffuse into patterns."""

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
from backends.tasks.spectral_nd import Evolution, etdrk4, grid
from backends.tasks.stored import stored

POINTS, STEP, SAVED = 192, 1e-3, 50
"""Of the reference's solver: points along each axis, time step, and how many times are kept."""
LOW, LENGTH = (-1.0, -1.0), (2.0, 2.0)


class GrayScott(Problem):
    """u_t = 0.2 lap u + 40 (1 - u) - 1000 u v², v_t = 0.1 lap v - 100 v + 1000 u v² on [-1, 1]², periodic.

    u(0) = 1 - exp(-10 ((x + 0.05)² + (y + 0.02)²)), v(0) = exp(-10 ((x - 0.05)² + (y - 0.02)²)), t in [0, end]: the
    problem of jaxpi, PirateNets, jaxpi2 and Scale-PINN (PINNacle's has other constants). They take t to 2 in
    windows, or to 0.5 in one piece: name `end` with every number. Reference: Fourier modes and ETDRK4, 192 x 192
    points, off by about 4e-6, kept on disk once computed. The start is 1e-4 at the edges, so its periodic continuation
    has a kink there: `constraints: hard` builds in the periodicity alone.
    """

    kind: Literal["gray_scott"] = "gray_scott"
    end: PositiveFloat = 0.5
    """Last time."""
    diffusivity_u: PositiveFloat = 0.2
    """Of the food u."""
    diffusivity_v: PositiveFloat = 0.1
    """Of the eater v."""
    feed: PositiveFloat = 40.0
    """How fast u is fed."""
    kill: PositiveFloat = 100.0
    """How fast v decays."""
    reaction: PositiveFloat = 1000.0
    """How fast u becomes v."""
    coords = {"t": (0.0, "end"), "x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    fields = ("u", "v")
    time = "t"
    periodic = ("x", "y")
    reference_grid = {"t": 11, "x": 64, "y": 64}

    @property
    def feed_square(self) -> float:
        """Square of the feed, which the yardstick divides by."""
        return self.feed**2

    @residual(scale="feed_square")
    def pde(self, f: Any) -> Any:
        u, v, u_t, v_t = f("u", "v", "u_t", "v_t")
        eaten = self.reaction * u * v * v
        return {
            "u": u_t - self.diffusivity_u * f.laplacian("u") - self.feed * (1.0 - u) + eaten,
            "v": v_t - self.diffusivity_v * f.laplacian("v") + self.kill * v - eaten,
        }

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        u, v = f("u", "v")
        start_u, start_v = _start(f.ops, *f("x", "y"))
        return u - start_u, v - start_v

    @residual(x="periodic")
    def bc_x(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "v", "u_x", "v_x"))

    @residual(y="periodic")
    def bc_y(self, f: Any) -> Any:
        return tuple(high - low for low, high in f.ends("u", "v", "u_y", "v_y"))

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        t, x, y = points["t"], points["x"], points["y"]
        found = evolution(self.end, self.diffusivity_u, self.diffusivity_v, self.feed, self.kill, self.reaction)
        values = found(t, x, y).real
        return {n: np.where(t == 0, s, v) for n, s, v in zip("uv", _start(np, x, y), values, strict=True)}


def _start(ops: Any, x: Any, y: Any) -> tuple[Any, Any]:
    def bell(x: Any, y: Any) -> Any:
        return ops.exp(-10.0 * (x * x + y * y))

    return 1.0 - bell(x + 0.05, y + 0.02), bell(x - 0.05, y - 0.02)


@lru_cache(maxsize=2)
def evolution(
    end: float,
    diffusivity_u: float,
    diffusivity_v: float,
    feed: float,
    kill: float,
    reaction: float,
    points: int = POINTS,
    step: float = STEP,
) -> Evolution:
    """The reference solution."""

    def nonlinear(values: NDArray[np.complex128]) -> NDArray[np.complex128]:
        u, v = values.real
        eaten = reaction * u * v * v
        return np.array([feed - eaten, eaten], np.complex128)

    def compute() -> dict[str, NDArray[Any]]:
        every = math.ceil(end / (SAVED * step))
        found = etdrk4(
            np.array(_start(np, *grid(LOW, LENGTH, points))),
            low=LOW,
            length=LENGTH,
            end=end,
            steps=SAVED * every,
            linear=lambda square: [-feed - diffusivity_u * square, -kill - diffusivity_v * square],
            nonlinear=nonlinear,
            every=every,
        )
        if not found.unresolved() < 1e-4:
            raise UserError(f"{points} points do not resolve the pattern at diffusivity {diffusivity_v:g}")
        return {"modes": found.modes.astype(np.complex64), "turns": found.turns}

    settings = {"end": end, "u": diffusivity_u, "v": diffusivity_v, "feed": feed, "kill": kill, "reaction": reaction}
    return Evolution(LOW, LENGTH, end, **stored("gray_scott", {**settings, "points": points, "step": step}, compute))
