"""Periodic equations u_t = L u + N(u) in one space dimension, solved by Fourier modes: references of ours.

Time steps: ETDRK4 of Cox and Matthews, coefficients by contour integrals (Kassam and Trefethen, SIAM J. Sci. Comput. 26
(2005) 1214-1233). The upper third of the modes of N is left out (against aliasing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    contour = np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)
    z = h * c[:, None] + contour
    ez = np.exp(z)
    half = h * ((np.exp(z / 2) - 1) / z).mean(1)
    b1 = h * ((-4 - z + ez * (4 - 3 * z + z**2)) / z**3).mean(1)
    b2 = h * ((2 + z + ez * (z - 2)) / z**3).mean(1)
    b3 = h * ((-4 - 3 * z - z**2 + ez * (4 - z)) / z**3).mean(1)
    full, halfway = np.exp(h * c), np.exp(h * c / 2)

    def change(v: Modes) -> Modes:
        with np.errstate(over="ignore", invalid="ignore"):  # what blows up is found by `unresolved`
            return nonlinear(np.asarray(np.fft.irfft(v, n), np.float64), k) * kept

    v = np.fft.rfft(start)
    modes = [v]
    for step in range(1, steps + 1):
        nv = change(v)
        a = halfway * v + half * nv
        na = change(a)
        b = halfway * v + half * na
        nb = change(b)
        nc = change(halfway * a + half * (2 * nb - nv))
        v = full * v + b1 * nv + 2 * b2 * (na + nb) + b3 * nc
        if step % every == 0:
            modes.append(v)
    return Evolution(low, length, end, np.array(modes) / n)
