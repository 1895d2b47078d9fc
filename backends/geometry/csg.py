"""Moved shapes, and unions, intersections and differences of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.geometry.shape import Patch, Points, Primitive, Shape, Vector


@dataclass(frozen=True)
class Moved(Primitive):
    """A primitive, turned, then scaled, then shifted: x -> factor matrix x + offset."""

    shape: Shape
    matrix: tuple[Vector, ...]
    offset: Vector
    factor: float = 1.0
    _: KW_ONLY
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.shape.name)

    @property
    def dimension(self) -> int:
        return self.shape.dimension

    @property
    def volume(self) -> float | None:
        whole = self.shape.volume
        return None if whole is None else whole * self.factor**self.dimension

    def bounds(self) -> tuple[Vector, Vector]:
        low, high = map(np.array, self.shape.bounds())
        matrix = np.array(self.matrix)
        middle = self.factor * matrix @ (0.5 * (low + high)) + np.array(self.offset)
        reach = self.factor * np.abs(matrix) @ (0.5 * (high - low))
        return tuple((middle - reach).tolist()), tuple((middle + reach).tolist())

    def back(self, points: Points) -> Points:
        """Where points would be, had the shape not been moved."""
        return (points - np.array(self.offset)) @ np.array(self.matrix) / self.factor

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        return self.factor * self.shape.signed_distance(self.back(points))

    def patches(self) -> tuple[Patch, ...]:
        return tuple(self._patch(p) for p in self.shape.named(self.name).patches())

    def _patch(self, patch: Patch) -> Patch:
        turned, offset = np.array(self.matrix).T, np.array(self.offset)

        def place(unit: Points) -> tuple[Points, Points]:
            points, normals = patch.place(unit)
            return self.factor * (points @ turned) + offset, normals @ turned

        return replace(patch, measure=patch.measure * self.factor ** (self.dimension - 1), place=place, leaf=self)


@dataclass(frozen=True)
class Combined(Shape):
    """Two shapes as one; its boundary is what is left of both, with normals that point out of the whole."""

    kind: Literal["union", "intersection", "difference"]
    left: Shape
    right: Shape

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Combinations have none: their primitives have."""
        return ""

    @property
    def dimension(self) -> int:
        return self.left.dimension

    @property
    def volume(self) -> None:
        return None

    @cached_property
    def _bounds(self) -> tuple[Vector, Vector]:
        a, b = self.left.bounds(), self.right.bounds()
        if self.kind == "difference":
            return a
        outer, inner = (min, max) if self.kind == "union" else (max, min)
        low = tuple(outer(x, y) for x, y in zip(a[0], b[0], strict=True))
        return low, tuple(inner(x, y) for x, y in zip(a[1], b[1], strict=True))

    def bounds(self) -> tuple[Vector, Vector]:
        return self._bounds

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        a, b = self.left.signed_distance(points), self.right.signed_distance(points)
        if self.kind == "union":
            return np.minimum(a, b)
        return np.maximum(a, b if self.kind == "intersection" else -b)

    def patches(self) -> tuple[Patch, ...]:
        return (*self.left.patches(), *self.right.patches())

    def leaves(self) -> tuple[Shape, ...]:
        return (*self.left.leaves(), *self.right.leaves())

    def moved(self, matrix: Sequence[Sequence[float]], offset: Sequence[float], factor: float = 1.0) -> Combined:
        left, right = (s.moved(matrix, offset, factor) for s in (self.left, self.right))
        return Combined(self.kind, left, right)

    def named(self, name: str) -> Combined:
        return Combined(self.kind, self.left.named(name), self.right.named(name))
