"""Poisson's equation on an L: a corner that points inwards, conditions built in by a distance, an exact reference."""

import math

import numpy as np

from orchestrator import Problem, hard, residual
from orchestrator.geometry import Rectangle

CORNERS = {(1, 0): (-1, 1), (1, 1): (-1, -1), (-1, 1): (1, -1), (-1, -1): (1, 1), (0, -1): (-1, 1)}
"""The corners that point outwards, and the direction from each into the L."""


class LShape(Problem):
    """-Δu = 1 on [-1, 1]² without the quadrant x > 0, y < 0; u = 0 on the boundary. u_r grows like r^(-1/3).

    The reference knows neither networks nor grids: -r²/4 solves the equation, and harmonic functions with the
    singularities that the corners must have are fitted to r²/4 on the edges (method of particular solutions: Fox,
    Henrici and Moler, SIAM J. Numer. Anal. 4 (1967) 89-102). What is left there, 9e-10, bounds the error everywhere.
    """

    coords = {"x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)
    scales = {"u": 0.15}
    geometry = Rectangle((-1, -1), (1, 1)) - Rectangle((0, -2), (2, 0))

    @residual
    def pde(self, f):
        # Weighted by the distance from the inner corner, where second derivatives of any smooth ansatz grow like 1/r.
        x, y = f("x", "y")
        return f.ops.sqrt(x * x + y * y) * (f.laplacian("u") + 1.0)

    @residual(on="boundary")
    def bc(self, f):
        return f("u")

    @hard("bc")
    def ansatz(self, f):
        return {"u": f.distance() * f("u")}

    def solution(self, points):
        t = 0.5 * (1 - np.cos(math.pi * (np.arange(300) + 0.5) / 300))  # denser towards the corners
        full, one, zero = 2 * t - 1, np.ones(300), np.zeros(300)
        edges = [(one, t), (full, one), (-one, full), (-t, -one), (zero, -t), (t, zero)]
        x, y = (np.concatenate(parts) for parts in zip(*edges, strict=True))
        weights, *_ = np.linalg.lstsq(harmonics(x, y), (x * x + y * y) / 4, rcond=1e-14)
        x, y = points["x"], points["y"]
        return {"u": harmonics(x, y) @ weights - (x * x + y * y) / 4}


def harmonics(x, y):
    """[n, 78]: r^(2k/3) sin(2k θ/3) and z^2m log z for the inner corner, z² log z for the others, polynomials."""
    r, angle = np.hypot(x, y), np.mod(np.arctan2(y, x), 2 * math.pi)  # 0 … 3π/2 in the L
    k = np.arange(1, 41) * 2 / 3
    z = r * np.exp(1j * angle) / 1.5
    log = np.log(np.where(r > 0, r, 1.0)) + 1j * angle
    found = [z**m for m in range(11)] + [z ** (2 * m) * log for m in (1, 2, 3)]
    for (cx, cy), (dx, dy) in CORNERS.items():
        v = (x - cx + 1j * (y - cy)) / (dx + 1j * dy)
        found.append(v**2 * np.log(np.where(v == 0, 1.0, v)))
    pairs = np.stack(found, 1)
    return np.concatenate([(r[:, None] / 1.5) ** k * np.sin(angle[:, None] * k), pairs.real, pairs.imag], 1)
