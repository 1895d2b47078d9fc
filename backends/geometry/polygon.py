"""Polygons: any simple one, convex or not; one that crosses itself is refused, with the edges' numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.geometry.segments import Ends, along, area, crossings, signed_distance
from backends.geometry.shape import Patch, Points, Primitive, Vector, vector


@dataclass(frozen=True)
class Segments(Primitive):
    """Root of shapes in the plane within straight segments that run counter-clockwise (holes: clockwise)."""

    @property
    def dimension(self) -> int:
        return 2

    @property
    @abstractmethod
    def ends(self) -> tuple[Ends, Ends]:
        """[segments, 2]: where each starts, and where it ends."""

    @abstractmethod
    def groups(self) -> dict[str, list[int]]:
        """Name of a part of the boundary (or empty) -> its segments."""

    @property
    def volume(self) -> float:
        return area(*self.ends)

    def bounds(self) -> tuple[Vector, Vector]:
        start, _ = self.ends
        return tuple(start.min(0).tolist()), tuple(start.max(0).tolist())

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        return signed_distance(np.asarray(points, np.float64), *self.ends)

    def patches(self) -> tuple[Patch, ...]:
        return tuple(self._patch(name, rows) for name, rows in self.groups().items())

    def _patch(self, name: str, rows: list[int]) -> Patch:
        start, end = (e[rows] for e in self.ends)
        measure = float(np.linalg.norm(end - start, axis=1).sum())
        return Patch(self._tags(name), measure, 1, lambda unit: along(unit[:, 0], start, end), self)


@dataclass(frozen=True)
class Polygon(Segments):
    """What is within a closed chain of corners `[(x, y), …]`, in either sense; the last one joins the first.

    `edges` may name them: the first runs from the first corner to the second, and so on.
    """

    corners: tuple[Vector, ...]
    _: KW_ONLY
    edges: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        corners = tuple(vector(c, 2, "a corner") for c in _listed(self.corners))
        names = (self.edges,) if isinstance(self.edges, str) else tuple(map(str, self.edges))
        if len(corners) > 3 and corners[0] == corners[-1]:
            corners = corners[:-1]  # files close their chains
        if len(corners) < 3:
            raise UserError(f"a polygon has three corners or more, not {len(corners)}")
        if names and len(names) != len(corners):
            raise UserError(f"a polygon of {len(corners)} edges can't have {len(names)} names of edges")
        start = np.array(corners)
        end = np.roll(start, -1, 0)
        for i in np.flatnonzero((start == end).all(1)):
            raise UserError(f"corner {i + 1} of the polygon, {_at(start[i])}, is there twice in a row")
        found = crossings(start, end)
        if found:
            i, j = found[0]
            more = f" (and {len(found) - 1} more pairs)" if len(found) > 1 else ""
            raise UserError(
                f"the polygon crosses itself: edge {i + 1} from {_at(start[i])} to {_at(end[i])} and edge {j + 1} "
                f"from {_at(start[j])} to {_at(end[j])} touch{more}; edges are counted from 1, in the order given"
            )
        if area(start, end) < 0:  # counter-clockwise: edge i now joins what were corners n - 1 - i and n - 2 - i
            corners, names = corners[::-1], (*names[-2::-1], *names[-1:])
        object.__setattr__(self, "corners", corners)
        object.__setattr__(self, "edges", names)

    @cached_property
    def ends(self) -> tuple[Ends, Ends]:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        start = np.array(self.corners)
        return start, np.roll(start, -1, 0)

    def groups(self) -> dict[str, list[int]]:
        names = self.edges or ("",) * len(self.corners)
        return {name: [i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)}

    @cached_property
    def convex(self) -> bool:
        """Whether no corner points inwards."""
        start, end = self.ends
        u = end - start
        v = np.roll(u, -1, 0)
        return bool((u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0] >= 0).all())


class Triangle(Polygon):
    """A polygon of three corners: `Triangle([(0, 0), (1, 0), (0, 1)])`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.corners) != 3:
            raise UserError(f"a triangle has three corners, not {len(self.corners)}")


def _listed(corners: Any) -> Sequence[Any]:
    try:
        return list(corners)
    except TypeError:
        raise UserError(f"a polygon needs its corners, [(x, y), …], not {corners!r}") from None


def _at(corner: NDArray[np.float64]) -> str:
    return f"({corner[0]:g}, {corner[1]:g})"
