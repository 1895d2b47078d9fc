"""Boxes, balls and ellipses: exact signed distances, and boundaries that are sampled uniformly by area."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.geometry.shape import Patch, Points, Primitive, Vector, positive, vector

SIDES = (("left", "right"), ("bottom", "top"), ("back", "front"))
"""What the lower and the upper side along each of the first three axes is called."""
ARC_NODES = 4096
"""Of the table that turns an ellipse's arc length into its angle."""


@dataclass(frozen=True)
class Box(Primitive):
    """Everything between two corners, in any number of dimensions.

    Its sides are parts of the boundary by themselves: `left`, `right`, `bottom`, `top`, `back`, `front`.
    """

    low: Vector
    high: Vector
    _: KW_ONLY
    name: str = ""

    def __post_init__(self) -> None:
        low = vector(self.low, None, "the lower corner")
        high = vector(self.high, len(low), "the upper corner")
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise UserError(f"{type(self).__name__}: the lower corner {low} must lie below the upper one {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def dimension(self) -> int:
        return len(self.low)

    @property
    def volume(self) -> float:
        return math.prod(b - a for a, b in zip(self.low, self.high, strict=True))

    def bounds(self) -> tuple[Vector, Vector]:
        return self.low, self.high

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        over = np.maximum(np.array(self.low) - points, points - np.array(self.high))
        return np.linalg.norm(np.maximum(over, 0.0), axis=1) + np.minimum(over.max(axis=1), 0.0)

    def patches(self) -> tuple[Patch, ...]:
        return tuple(self._side(axis, upper) for axis in range(self.dimension) for upper in (0, 1))

    def _side(self, axis: int, upper: int) -> Patch:
        low, high = np.array(self.low), np.array(self.high)
        free = [i for i in range(self.dimension) if i != axis]

        def place(unit: Points) -> tuple[Points, Points]:
            points = np.empty((len(unit), self.dimension))
            points[:, free] = low[free] + (high - low)[free] * unit
            points[:, axis] = (low, high)[upper][axis]
            normals = np.zeros_like(points)
            normals[:, axis] = 2.0 * upper - 1.0
            return points, normals

        sides = [SIDES[axis][upper]] if self.dimension <= 3 else []
        return Patch(self._tags(*sides), math.prod((high - low)[free]), len(free), place, self)


class Rectangle(Box):
    """A box in two dimensions: `Rectangle((0, 0), (2, 1))`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimension != 2:
            raise UserError(f"a Rectangle has two axes, not {self.dimension}; a Box has any number")


class Interval(Box):
    """A box in one dimension: `Interval(0, 1)`; its ends are `left` and `right`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimension != 1:
            raise UserError(f"an Interval has one axis, not {self.dimension}")


@dataclass(frozen=True)
class Ball(Primitive):
    """Everything within `radius` of `centre`, in two or more dimensions."""

    centre: Vector
    radius: float
    _: KW_ONLY
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", vector(self.centre, None, "the centre"))
        object.__setattr__(self, "radius", positive(self.radius, "a radius"))
        if self.dimension < 2:
            raise UserError("a ball has two or more axes; in one dimension take Interval(low, high)")

    @property
    def dimension(self) -> int:
        return len(self.centre)

    @property
    def volume(self) -> float:
        d = self.dimension
        return math.pi ** (d / 2) / math.gamma(d / 2 + 1) * self.radius**d

    def bounds(self) -> tuple[Vector, Vector]:
        return tuple(c - self.radius for c in self.centre), tuple(c + self.radius for c in self.centre)

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        return np.linalg.norm(points - np.array(self.centre), axis=1) - self.radius

    def patches(self) -> tuple[Patch, ...]:
        area = self.dimension * self.volume / self.radius
        free = self.dimension if self.dimension > 3 else self.dimension - 1

        def place(unit: Points) -> tuple[Points, Points]:
            normals = directions(unit, self.dimension)
            return np.array(self.centre) + self.radius * normals, normals

        return (Patch(self._tags(), area, free, place, self),)


class Disk(Ball):
    """A ball in two dimensions: `Disk((0, 0), 1)`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimension != 2:
            raise UserError(f"a Disk has two axes, not {self.dimension}; a Ball has any number")


def directions(unit: Points, dimension: int) -> Points:
    """Unit vectors, uniform on the sphere: by the angle, by Archimedes' theorem, or by normalised Gaussians."""
    if dimension > 3:
        from scipy.special import ndtri

        gauss = ndtri(np.clip(unit, 1e-15, 1 - 1e-15))
        return gauss / np.linalg.norm(gauss, axis=1, keepdims=True)
    angle = 2.0 * math.pi * unit[:, 0]
    if dimension == 2:
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    height = 2.0 * unit[:, 1] - 1.0
    across = np.sqrt(np.maximum(1.0 - height * height, 0.0))
    return np.stack([across * np.cos(angle), across * np.sin(angle), height], 1)


@dataclass(frozen=True)
class Ellipse(Primitive):
    """An ellipse with half axes `axes` along x and y; turn it with `rotated`."""

    centre: Vector
    axes: Vector
    _: KW_ONLY
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", vector(self.centre, 2, "the centre"))
        axes: Any = vector(self.axes, 2, "the half axes")
        object.__setattr__(self, "axes", tuple(positive(a, "a half axis") for a in axes))

    @property
    def dimension(self) -> int:
        return 2

    @property
    def volume(self) -> float:
        return math.pi * self.axes[0] * self.axes[1]

    def bounds(self) -> tuple[Vector, Vector]:
        pairs = list(zip(self.centre, self.axes, strict=True))
        return tuple(c - a for c, a in pairs), tuple(c + a for c, a in pairs)

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        """By bisection for the foot of the perpendicular (Eberly, "Distance from a point to an ellipse", 2013)."""
        across = np.abs(points - np.array(self.centre))
        long, short = (0, 1) if self.axes[0] >= self.axes[1] else (1, 0)
        a, b = self.axes[long], self.axes[short]
        if a == b:
            return np.hypot(across[:, 0], across[:, 1]) - a
        y0, y1 = across[:, long], across[:, short]
        # The foot is (a² y0 / (s + a² - b²), b² y1 / s) for the largest root s of the ellipse's equation there.
        apart = a * a - b * b
        lower, upper = b * y1, np.hypot(a * y0, b * y1)
        with np.errstate(all="ignore"):
            for _ in range(100):
                s = 0.5 * (lower + upper)
                beyond = (a * y0 / (s + apart)) ** 2 + (b * y1 / s) ** 2 > 1.0
                lower, upper = np.where(beyond, s, lower), np.where(beyond, upper, s)
            foot0 = np.minimum(a * a * y0 / (0.5 * (lower + upper) + apart), a)
            foot1 = b * b * y1 / (0.5 * (lower + upper))
        axis = y1 <= 1e-14 * b  # s is too small for the bisection
        foot0 = np.where(axis, np.minimum(a * a * y0 / apart, a), foot0)
        foot1 = np.where(axis, b * np.sqrt(np.maximum(1.0 - (foot0 / a) ** 2, 0.0)), foot1)
        inside = (y0 / a) ** 2 + (y1 / b) ** 2 < 1.0
        return np.hypot(y0 - foot0, y1 - foot1) * np.where(inside, -1.0, 1.0)

    def patches(self) -> tuple[Patch, ...]:
        a, b = self.axes
        nodes = np.linspace(0.0, 2.0 * math.pi, ARC_NODES + 1)
        middle = 0.5 * (nodes[1:] + nodes[:-1])
        # Midpoint rule of a periodic integrand: exact to rounding unless the ellipse is a needle.
        length = np.concatenate([[0.0], np.cumsum(np.hypot(a * np.sin(middle), b * np.cos(middle)))])
        length *= 2.0 * math.pi / ARC_NODES

        def place(unit: Points) -> tuple[Points, Points]:
            angle = np.interp(unit[:, 0] * length[-1], length, nodes)
            cos, sin = np.cos(angle), np.sin(angle)
            normals = np.stack([b * cos, a * sin], 1)
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            return np.array(self.centre) + np.stack([a * cos, b * sin], 1), normals

        return (Patch(self._tags(), float(length[-1]), 1, place, self),)
