"""Periodic systems u_t = L u + N(u) of complex fields in one or more space dimensions, by Fourier modes.

References of ours, like `backends.tasks.spectral`, which is for one real field in one dimension. L acts on every mode
by a factor that depends on |k|² alone (any function of the Laplacian), N is a function of the values at one point. Time
steps: ETDRK4 of Cox and Matthews, coefficients by contour integrals (Kassam and Trefethen, SIAM J. Sci. Comput. 26
(2005) 1214-1233). The upper third of the modes of N is left out (against aliasing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from backends.tasks.spectral import NEIGHBOURS, Coefficients, lagrange

Reals = NDArray[np.float64]
Modes = NDArray[np.complex128]
BLOCK = 4_000_000
"""Numbers per block of an evaluation at scattered points."""


@dataclass(frozen=True)
class Evolution:
    """A periodic solution: modes [times, fields, …one axis per dimension] at equally spaced times from 0 to `end`.

    Along each axis lie the wave numbers -m … m. What L turns (its imaginary part) is left out of the interpolation
    in t: short waves of a dispersive equation turn fast.
    """

    low: tuple[float, ...]
    length: tuple[float, ...]
    end: float
    modes: Modes
    """Turned back to t = 0 by `turns`, so that they change slowly."""
    turns: Reals
    """[fields, …] angular velocities."""

    def __call__(self, t: Reals, *places: Reals) -> Modes:
        """Values [fields, n] at points, [n] per coordinate: the exact sum of the modes, interpolated in t."""
        times, row = np.unique(t, return_inverse=True)
        axes = [np.unique(p, return_inverse=True) for p in places]
        out = np.empty((self.modes.shape[1], len(t)), np.complex128)
        if len(times) * np.prod([len(a) for a, _ in axes]) <= 4 * len(t):
            for i, now in enumerate(times):
                here = np.nonzero(row == i)[0]
                values = self._at(np.array([now]))[0]
                for axis, (a, _) in enumerate(axes):
                    values = np.tensordot(values, self._waves(axis, a), axes=([1], [1]))
                out[:, here] = values[(slice(None), *(column[here] for _, column in axes))]
            return out
        for part in np.array_split(np.arange(len(t)), 1 + len(t) * self.modes[0].size // BLOCK):
            values = self._at(t[part])
            for axis, place in enumerate(places):
                values = np.einsum("nfk...,nk->nf...", values, self._waves(axis, place[part]))
            out[:, part] = values.T
        return out

    def unresolved(self) -> float:
        """Largest of the outermost modes, at any time, relative to the largest of all."""
        size, dimensions = np.abs(self.modes), range(2, self.modes.ndim)
        edge = max(float(np.take(size, side, axis).max()) for axis in dimensions for side in (0, -1))
        return edge / float(size.max())

    def _waves(self, axis: int, x: Reals) -> Modes:
        """[points, modes] along one axis."""
        m = self.modes.shape[2 + axis] // 2
        return np.exp(
            1j * np.multiply.outer((2.0 * np.pi / self.length[axis]) * (x - self.low[axis]), range(-m, m + 1))
        )

    def _at(self, t: Reals) -> Modes:
        """Modes [n, fields, …] at times, by Lagrange's polynomial through the nearest saved ones."""
        first, weights = lagrange(t * ((len(self.modes) - 1) / self.end), len(self.modes) - 1)
        total = np.zeros((len(t), *self.modes.shape[1:]), np.complex128)
        for j in range(NEIGHBOURS):
            total += weights[:, j].reshape(-1, *[1] * (total.ndim - 1)) * self.modes[first + j]
        angle = t.reshape(-1, *[1] * (total.ndim - 1)) * self.turns
        return total * np.exp(1j * angle) if self.turns.any() else total


def etdrk4(
    start: NDArray[np.generic],
    *,
    low: Sequence[float],
    length: Sequence[float],
    end: float,
    steps: int,
    linear: Callable[[Reals], Sequence[NDArray[np.generic]]],
    nonlinear: Callable[[Modes], Modes],
    every: int = 1,
) -> Evolution:
    """Solve from `start` [fields, n, …], the values at equally spaced points that begin at `low`; n even.

    `linear(k²)`: the factors of each field's modes, for squares of wave numbers [m]; `nonlinear(u)`: N at the values
    [fields, n, …]. Every `every`-th of the `steps` is kept.
    """
    n, h = start.shape[1:], end / steps
    axes = tuple(range(1, start.ndim))
    k = [np.round(np.fft.fftfreq(m) * m) for m in n]
    square = sum(np.square(2.0 * np.pi / a * k_) for a, k_ in zip(length, np.meshgrid(*k, indexing="ij"), strict=True))
    kept = np.all([np.abs(k_) < m / 3 for m, k_ in zip(n, np.meshgrid(*k, indexing="ij"), strict=True)], axis=0)
    each, back = np.unique(square, return_inverse=True)
    c = np.array([np.asarray(factor, np.complex128) for factor in linear(each)])
    by = Coefficients(*(part[:, back].reshape(start.shape) for part in Coefficients.of(c, h)))

    def change(v: Modes) -> Modes:
        with np.errstate(over="ignore", invalid="ignore"):  # what blows up is found by `unresolved`
            values: Any = fft.ifftn(v, axes=axes)
            return np.asarray(fft.fftn(nonlinear(values), axes=axes)) * kept

    low_ones = [np.argsort(k_)[np.abs(np.sort(k_)) < m / 3] for m, k_ in zip(n, k, strict=True)]
    picked = (slice(None), *np.ix_(*low_ones))
    v = fft.fftn(np.asarray(start, np.complex128), axes=axes) * kept
    turns = np.imag(c)[:, back].reshape(start.shape)[picked]
    modes = [v[picked]]
    for step in range(1, steps + 1):
        v = by.step(v, change)
        if step % every == 0:
            modes.append(v[picked] * np.exp(-1j * step * h * turns))
    return Evolution(tuple(low), tuple(length), end, np.array(modes, np.complex128) / math.prod(n), turns)


def grid(low: Sequence[float], length: Sequence[float], points: int) -> list[Reals]:
    """The coordinates of the solver's points, [points, …] each."""
    axes = [a + size * np.arange(points) / points for a, size in zip(low, length, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))
