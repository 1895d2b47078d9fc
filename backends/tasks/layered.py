"""Two media that meet: a rod of two metals, and a string of two speeds, each half with a field of its own.

Both halves are folded onto one interval: x is the distance from the interface, `left` and `right` are the solution at
-x and at +x. Each is smooth, so networks can be accurate, and what holds at the interface is a term at x = 0.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat
from scipy.optimize import brentq

from backends.pde.problem import Problem, hard, residual
from backends.task import Columns

MODES = {1: 1.0, 2: 0.5, 3: 0.25}
"""Number of the mode -> its amplitude at the start."""


class HeatLayers(Problem):
    """u_t = (a u_x)_x on a rod [-1, 1] with a = a1 left of 0 and a2 right of it, u = 0 at both ends, t in [0, 1].

    At the interface temperature and flux are continuous, the slope is not. The start is a sum of the rod's first three
    modes, amplitudes 1, 1/2, 1/4, whose solution is known: multiples of sin(m1 (1 - x)) and sin(m2 (1 - x)) at
    distances x from the interface, mi = sqrt(l / ai), with rates l that are the roots of
    sqrt(a1) cos m1 sin m2 + sqrt(a2) sin m1 cos m2 = 0.
    """

    kind: Literal["heat_layers"] = "heat_layers"
    left_diffusivity: PositiveFloat = 0.1
    """a1."""
    right_diffusivity: PositiveFloat = 1.0
    """a2."""
    coords = {"t": (0.0, 1.0), "x": (0.0, 1.0)}
    fields = ("left", "right")
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        left_t, left_xx, right_t, right_xx = f("left_t", "left_xx", "right_t", "right_xx")
        return {
            "left": left_t - self.left_diffusivity * left_xx,
            "right": right_t - self.right_diffusivity * right_xx,
        }

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        return f("left") - f("exact_left"), f("right") - f("exact_right")

    @residual(x="low")
    def interface(self, f: Any) -> Any:
        """Temperatures agree, and what leaves one half enters the other."""
        left, right, left_x, right_x = f("left", "right", "left_x", "right_x")
        return {
            "temperature": left - right,
            "flux": self.left_diffusivity * left_x + self.right_diffusivity * right_x,
        }

    @residual(x="high")
    def bc(self, f: Any) -> Any:
        return f("left", "right")

    @hard("bc")
    def ansatz(self, f: Any) -> Any:
        x, left, right = f("x", "left", "right")
        return {"left": (1.0 - x) * left, "right": (1.0 - x) * right}

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        t, x = points["t"], points["x"]
        a1, a2 = self.left_diffusivity, self.right_diffusivity
        left, right = np.zeros_like(x), np.zeros_like(x)
        for n, amplitude in MODES.items():
            rate = decay_rate(a1, a2, n)
            m1, m2 = math.sqrt(rate / a1), math.sqrt(rate / a2)
            share = amplitude * np.exp(-rate * t)
            left += share * np.sin(m1 * (1.0 - x)) / math.hypot(math.sin(m1), math.sqrt(a1) * math.cos(m1))
            sign = 1.0 if n % 2 else -1.0
            right += sign * share * np.sin(m2 * (1.0 - x)) / math.hypot(math.sin(m2), math.sqrt(a2) * math.cos(m2))
        return {"left": left, "right": right}


@lru_cache(maxsize=64)
def decay_rate(a1: float, a2: float, n: int) -> float:
    """The rate of the n-th mode, n = 1, 2, …

    With w = sqrt(l), p = 1 / sqrt(a1), q = 1 / sqrt(a2) the condition is a difference of two angles, p w and -q w, each
    on its own ellipse; the sum of the angles rises with w and is n pi at the n-th root.
    """
    p, q = 1.0 / math.sqrt(a1), 1.0 / math.sqrt(a2)

    def angle(phase: float, weight: float) -> float:
        """The angle of (weight cos, sin), continued beyond pi."""
        turns = math.floor((phase + math.pi) / (2.0 * math.pi))
        rest = phase - 2.0 * math.pi * turns
        return math.atan2(math.sin(rest), weight * math.cos(rest)) + 2.0 * math.pi * turns

    def condition(w: float) -> float:
        return angle(p * w, math.sqrt(a1)) + angle(q * w, math.sqrt(a2)) - n * math.pi

    w: Any = brentq(condition, 0.0, n * math.pi / min(p, q) + math.pi, xtol=1e-14)
    return float(w) ** 2


class WaveLayers(Problem):
    """u_tt = c² u_xx on [-1, 1], c = c1 left of 0 and c2 right of it: a pulse is reflected and transmitted at 0.

    u and u_x are continuous. A pulse g(t - x/c1), g(s) = exp(-((s - t0) / w)²), comes from the left; left of 0
    u = g(t - x/c1) + R g(t + x/c1), right of it u = T g(t - x/c2), with R = (c2 - c1) / (c2 + c1) and
    T = 2 c2 / (c1 + c2) (d'Alembert). Its values are given at both ends, its start and velocity at t = 0.
    """

    kind: Literal["wave_layers"] = "wave_layers"
    left_speed: PositiveFloat = 1.0
    """c1."""
    right_speed: PositiveFloat = 2.0
    """c2."""
    width: PositiveFloat = 0.15
    """w, a time."""
    arrival: PositiveFloat = 0.5
    """t0: when the pulse is at the interface."""
    coords = {"t": (0.0, 1.0), "x": (0.0, 1.0)}
    fields = ("left", "right")
    time = "t"

    @property
    def acceleration_square(self) -> float:
        """The square of g's largest acceleration, 2 / w², times the share of the domain where there is one."""
        return 4.0 / self.width**3

    @residual(scale="acceleration_square")
    def pde(self, f: Any) -> Any:
        left_tt, left_xx, right_tt, right_xx = f("left_tt", "left_xx", "right_tt", "right_xx")
        return {"left": left_tt - self.left_speed**2 * left_xx, "right": right_tt - self.right_speed**2 * right_xx}

    @residual(t=0)
    def ic(self, f: Any) -> Any:
        left, right, x = f("left", "right", "x")
        start = self._halves(f.ops, 0.0 * x, x)
        return left - start[0], right - start[1]

    @residual(t=0)
    def ic_t(self, f: Any) -> Any:
        left_t, right_t, x = f("left_t", "right_t", "x")
        velocity = self._velocities(f.ops, x)
        return left_t - velocity[0], right_t - velocity[1]

    @residual(x="low")
    def interface(self, f: Any) -> Any:
        left, right, left_x, right_x = f("left", "right", "left_x", "right_x")
        return {"value": left - right, "slope": left_x + right_x}

    @residual(x="high")
    def bc(self, f: Any) -> Any:
        left, right, t = f("left", "right", "t")
        ends = self._halves(f.ops, t, 1.0 + 0.0 * t)
        return left - ends[0], right - ends[1]

    @hard("ic", "ic_t", "bc")
    def ansatz(self, f: Any) -> Any:
        """Start and velocity, the ends blended in, and a network that begins like t² and vanishes at the ends."""
        t, x, left, right = f("t", "x", "left", "right")
        begun = f.ops.tanh(t / self.width)
        out = {}
        for i, (name, raw) in enumerate((("left", left), ("right", right))):

            def begin(x: Any, i: int = i) -> Any:
                return self._halves(f.ops, 0.0 * t, x)[i] + t * self._velocities(f.ops, x)[i]

            end = self._halves(f.ops, t, 1.0)[i] - begin(1.0)
            out[name] = begin(x) + x * x * end + begun * begun * (1.0 - x) * raw
        return out

    def solution(self, points: Columns) -> dict[str, NDArray[np.float64]]:
        left, right = self._halves(np, points["t"], points["x"])
        return {"left": left, "right": right}

    def _halves(self, ops: Any, t: Any, x: Any) -> tuple[Any, Any]:
        """(left, right) at the distance x."""
        c1, c2 = self.left_speed, self.right_speed
        back, through = (c2 - c1) / (c2 + c1), 2.0 * c2 / (c1 + c2)
        g = self._pulse
        return g(ops, t + x / c1) + back * g(ops, t - x / c1), through * g(ops, t - x / c2)

    def _velocities(self, ops: Any, x: Any) -> tuple[Any, Any]:
        """Their rates at t = 0."""
        c1, c2 = self.left_speed, self.right_speed
        back, through = (c2 - c1) / (c2 + c1), 2.0 * c2 / (c1 + c2)
        return self._rate(ops, x / c1) + back * self._rate(ops, -x / c1), through * self._rate(ops, -x / c2)

    def _pulse(self, ops: Any, s: Any) -> Any:
        z = (s - self.arrival) / self.width
        return ops.exp(-z * z)

    def _rate(self, ops: Any, s: Any) -> Any:
        return -2.0 * (s - self.arrival) / self.width**2 * self._pulse(ops, s)
