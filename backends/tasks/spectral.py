"""Periodic equations u_t = L u + N(u) in one space dimension, solved by Fourier modes: references of ours.

Time steps: ETDRK4 of Cox and Matthews, coefficients by contour integrals (Kassam and Trefethen, SIAM J. Sci. Comput. 26
(2005) 1214-1233). The upper third of the modes of N is left out (against aliasing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Modes = NDArray[np.complex128]
NEIGHBOURS = 8
"""Times between which is interpolated: a polynomial of degree 7."""
BLOCK = 4_000_000
"""Numbers per block of an evaluation at scattered points."""


@dataclass(frozen=True)
class Evolution:
    """A periodic solution: Fourier modes [times, modes] at equally spaced times from 0 to `end`."""

    low: float
    length: float
    end: float
    modes: Modes

    def __call__(self, t: Reals, x: Reals) -> Reals:
        """Values at points, [n]: the exact sum of the modes in x, interpolated by a polynomial in t."""
        times, row = np.unique(t, return_inverse=True)
        places, column = np.unique(x, return_inverse=True)
        if len(times) * len(places) <= 4 * len(t):
            return (self._at(times) @ self._waves(places).T).real[row, column]
        out = np.empty_like(x)
        for part in np.array_split(np.arange(len(x)), 1 + len(x) * self.modes.shape[1] // BLOCK):
            out[part] = np.einsum("nk,nk->n", self._at(t[part]), self._waves(x[part])).real
        return out

    def unresolved(self) -> float:
        """Largest of the highest modes that N acts on (its last tenth) at the end, relative to the largest of all."""
        last = np.abs(self.modes[-1])
        return float(last[6 * len(last) // 10 : 2 * len(last) // 3].max() / last.max())

    def _waves(self, x: Reals) -> Modes:
        """[points, modes]; all but the mean (and the highest one) stand for themselves and their conjugates."""
        k = np.arange(self.modes.shape[1])
        share = np.where((k == 0) | (k == k[-1]), 1.0, 2.0)
        return share * np.exp(1j * np.multiply.outer((2.0 * np.pi / self.length) * (x - self.low), k))

    def _at(self, t: Reals) -> Modes:
        """Modes [n, modes] at times, by Lagrange's polynomial through the nearest saved ones."""
        first, weights = lagrange(t * ((len(self.modes) - 1) / self.end), len(self.modes) - 1)
        total = np.zeros((len(t), self.modes.shape[1]), np.complex128)
        for j in range(NEIGHBOURS):
            total += weights[:, j, None] * self.modes[first + j]
        return total


class Coefficients(NamedTuple):
    """Of ETDRK4 steps, a number per mode each: the linear part over a whole step and over half of one, weights of N."""

    full: Modes
    halfway: Modes
    half: Modes
    b1: Modes
    b2: Modes
    b3: Modes

    @classmethod
    def of(cls, c: Modes, h: float) -> Coefficients:
        """For modes that L multiplies by c [any shape], and steps h."""
        z = h * c[..., None] + np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)
        ez = np.exp(z)
        weights = (
            (np.exp(z / 2) - 1) / z,
            (-4 - z + ez * (4 - 3 * z + z**2)) / z**3,
            (2 + z + ez * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + ez * (4 - z)) / z**3,
        )
        return cls(np.exp(h * c), np.exp(h * c / 2), *(h * w.mean(-1) for w in weights))

    def step(self, v: Modes, change: Callable[[Modes], Modes]) -> Modes:
        """The modes one step later. `change`: v -> the modes of N."""
        nv = change(v)
        a = self.halfway * v + self.half * nv
        na = change(a)
        b = self.halfway * v + self.half * na
        nb = change(b)
        nc = change(self.halfway * a + self.half * (2 * nb - nv))
        return self.full * v + self.b1 * nv + 2 * self.b2 * (na + nb) + self.b3 * nc


def lagrange(position: Reals, steps: int) -> tuple[NDArray[np.int64], Reals]:
    """First neighbour [n] and weights [n, NEIGHBOURS] of the polynomial at positions among 0, 1, …, steps."""
    first = np.clip(np.floor(position).astype(np.int64) - NEIGHBOURS // 2 + 1, 0, steps - NEIGHBOURS + 1)
    rest = (position - first)[:, None]
    nodes = np.arange(NEIGHBOURS)
    rows = [np.prod((rest - nodes[nodes != j]) / (j - nodes[nodes != j]), axis=1) for j in nodes]
    return first, np.stack(rows, 1)


def etdrk4(
    start: Reals,
    *,
    low: float,
    length: float,
    end: float,
    steps: int,
    linear: Callable[[Reals], NDArray[Any]],
    nonlinear: Callable[[Reals, Reals], NDArray[Any]],
    every: int = 1,
) -> Evolution:
    """Solve from `start`, the values at n equally spaced points of [low, low + length), n even.

    `linear(k)`: the factor of each mode, for wave numbers k; `nonlinear(u, k)`: the modes of N(u), as `numpy.fft.rfft`
    gives them, for values u at the points. Every `every`-th of the `steps` is kept.
    """
    n, h = len(start), end / steps
    k = 2.0 * np.pi / length * np.arange(n // 2 + 1, dtype=np.float64)
    kept = np.arange(n // 2 + 1) < n / 3
    c = np.asarray(linear(k), np.complex128)
    by = Coefficients.of(c, h)

    def change(v: Modes) -> Modes:
        with np.errstate(over="ignore", invalid="ignore"):  # what blows up is found by `unresolved`
            return nonlinear(np.asarray(np.fft.irfft(v, n), np.float64), k) * kept

    v = np.fft.rfft(start)
    modes = [v]
    for step in range(1, steps + 1):
        v = by.step(v, change)
        if step % every == 0:
            modes.append(v)
    return Evolution(low, length, end, np.array(modes) / n)
