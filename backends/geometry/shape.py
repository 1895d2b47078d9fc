"""What every shape says about itself: signed distance, bounds, and the patches that its boundary is made of.

    plate = Rectangle((-1, -1), (1, 1)) - Disk((0, 0), 0.3, name="hole")

Shapes are frozen, hashable and combine by `|` (union), `&` (intersection) and `-` (difference); `shifted`, `rotated`
and `scaled` give moved copies. Axes are numbered: a problem's coordinates in space, in their order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError

if TYPE_CHECKING:
    from backends.geometry.csg import Combined

Points = NDArray[np.float64]
"""[n, dimension]"""
Vector = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of a shape's own boundary, and how a point on it follows from uniform numbers."""

    tags: tuple[str, ...]
    """What `on=` may call it."""
    measure: float
    """Length, area, …; 1 for an end of an interval."""
    free: int
    """Uniform numbers per point."""
    place: Callable[[Points], tuple[Points, Points]]
    """[n, free] in [0, 1) -> points and the shape's own outward normals, uniform by measure."""
    leaf: Shape
    """The primitive that it belongs to."""


class Shape(ABC):
    """A closed set of points. Distances are negative inside."""

    name: str

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Number of axes."""

    @property
    @abstractmethod
    def volume(self) -> float | None:
        """Length, area, volume; None where it has to be estimated (`backends.geometry.volume`)."""

    @abstractmethod
    def bounds(self) -> tuple[Vector, Vector]:
        """The lowest and the highest coordinates of a box around it, along the axes."""

    @abstractmethod
    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        """[n]: negative inside, positive outside. Exact for primitives, a lower bound in combinations."""

    @abstractmethod
    def patches(self) -> tuple[Patch, ...]:
        """The boundary of every primitive in it, whole; `backends.geometry.sampling` keeps what is on the outside."""

    @abstractmethod
    def leaves(self) -> tuple[Shape, ...]:
        """The primitives that it is made of."""

    @abstractmethod
    def moved(self, matrix: Sequence[Sequence[float]], offset: Sequence[float], factor: float = 1.0) -> Shape:
        """The image under x -> factor matrix x + offset; `matrix` is orthogonal."""

    @abstractmethod
    def named(self, name: str) -> Shape:
        """The same, with its boundary called `name` where it has no name yet."""

    def contains(self, points: Points, slack: float = 0.0) -> NDArray[np.bool_]:
        """[n]: whether points are inside, or outside by no more than `slack`."""
        return self.signed_distance(np.asarray(points, np.float64)) <= slack

    @property
    def size(self) -> float:
        """The longest side of the bounding box."""
        low, high = self.bounds()
        return max(h - l for l, h in zip(low, high, strict=True))  # noqa: E741

    def normals(self, points: Points) -> Points:
        """Unit gradients of the distance by central differences: outward normals at points on the boundary."""
        step = 1e-6 * self.size
        columns = []
        for axis in range(self.dimension):
            aside = np.zeros(self.dimension)
            aside[axis] = step
            columns.append(self.signed_distance(points + aside) - self.signed_distance(points - aside))
        found = np.stack(columns, 1)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)

    def __or__(self, other: Shape) -> Combined:
        return _combined("union", self, other)

    def __and__(self, other: Shape) -> Combined:
        return _combined("intersection", self, other)

    def __sub__(self, other: Shape) -> Combined:
        return _combined("difference", self, other)

    def shifted(self, *by: float) -> Shape:
        """Moved by so much along each axis."""
        return self.moved(np.eye(self.dimension).tolist(), vector(by, self.dimension, "shifted"))

    def scaled(self, factor: float, about: Sequence[float] | None = None) -> Shape:
        """`factor` times as large, seen from the point `about` (default: the origin)."""
        if not (math.isfinite(factor) and factor > 0):
            raise UserError(f"a shape is scaled by a factor above 0, not by {factor}")
        centre = np.array(about or [0.0] * self.dimension)
        return self.moved(np.eye(self.dimension).tolist(), list(centre * (1.0 - factor)), factor)

    def rotated(self, angle: float, about: Sequence[float] | None = None, axis: Sequence[float] | None = None) -> Shape:
        """Turned by `angle` (radians, counter-clockwise) about a point (default: the origin), in 3-D about `axis`."""
        matrix = _rotation(self.dimension, angle, axis)
        centre = np.array(about or [0.0] * self.dimension)
        return self.moved(matrix.tolist(), list(centre - matrix @ centre))


def _combined(kind: Any, left: Shape, right: Any) -> Combined:
    from backends.geometry.csg import Combined

    if not isinstance(right, Shape):
        raise UserError(f"a shape is combined with a shape, not with {right!r}")
    if left.dimension != right.dimension:
        raise UserError(f"a shape in {left.dimension} dimensions can't be combined with one in {right.dimension}")
    return Combined(kind, left, right)


def _rotation(dimension: int, angle: float, axis: Sequence[float] | None) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    if dimension == 2 and axis is None:
        return np.array([[cos, -sin], [sin, cos]])
    if dimension != 3 or axis is None:
        raise UserError("shapes are rotated in two dimensions, or in three about `axis=(x, y, z)`")
    x, y, z = np.array(vector(axis, 3, "axis")) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sin * cross + (1 - cos) * cross @ cross  # Rodrigues


def vector(values: Any, dimension: int | None, what: str) -> Vector:
    """Finite numbers as a tuple. Raises UserError where they are not, or are not `dimension` many."""
    try:
        found = tuple(float(v) for v in ([values] if isinstance(values, int | float) else values))
    except (TypeError, ValueError):
        raise UserError(f"{what} must be numbers, one per axis, not {values!r}") from None
    if not found or not all(map(math.isfinite, found)):
        raise UserError(f"{what} must be finite numbers, one per axis, not {values!r}")
    if dimension is not None and len(found) != dimension:
        raise UserError(f"{what} must be {dimension} numbers, one per axis, not {values!r}")
    return found


def positive(value: Any, what: str) -> float:
    """A finite number above 0. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise UserError(f"{what} must be a number above 0, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class Primitive(Shape):
    """A shape that is not combined of others."""

    def leaves(self) -> tuple[Shape, ...]:
        return (self,)

    def named(self, name: str) -> Shape:
        return self if self.name else replace(self, name=name)  # pyright: ignore[reportCallIssue]

    def moved(self, matrix: Sequence[Sequence[float]], offset: Sequence[float], factor: float = 1.0) -> Shape:
        from backends.geometry.csg import Moved

        rows = tuple(tuple(map(float, row)) for row in matrix)
        return Moved(self, rows, tuple(map(float, offset)), factor)

    def _tags(self, *more: str) -> tuple[str, ...]:
        return tuple(t for t in (self.name, *more) if t)
