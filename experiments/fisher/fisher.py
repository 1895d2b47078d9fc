"""Fisher-KPP, u_t = D u_xx + r u (1 - u): a travelling front, as a user writes a problem of their own."""

import math

import numpy as np
from pydantic import PositiveFloat

from orchestrator import Problem, residual


class Fisher(Problem):
    """The front u = (1 + exp(sqrt(r/6D) x - 5/6 r t))^-2 (Ablowitz and Zeppetella, 1979) is exact."""

    D: PositiveFloat = 0.05
    r: PositiveFloat = 1.0
    coords = {"t": (0, 2), "x": (-2, 4)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        u, u_t, u_xx = f("u", "u_t", "u_xx")
        return u_t - self.D * u_xx - self.r * u * (1 - u)

    @residual(t=0)
    def ic(self, f):
        u, start = f("u", "exact_u")
        return u - start

    @residual(x="ends")
    def bc(self, f):
        u, wall = f("u", "exact_u")
        return u - wall

    def solution(self, points):
        front = math.sqrt(self.r / (6 * self.D)) * points["x"] - 5 / 6 * self.r * points["t"]
        return {"u": (0.5 * (1 - np.tanh(front / 2))) ** 2}
