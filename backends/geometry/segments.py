"""Closed sets of straight segments in the plane: what polygons and the outlines of triangle meshes have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.geometry.shape import Points

BLOCK = 4_000_000
"""Numbers in memory at a time, where every point meets every segment."""
Ends = NDArray[np.float64]
"""[segments, 2]"""


def signed_distance(points: Points, start: Ends, end: Ends) -> NDArray[np.float64]:
    """[n]: the distance to the nearest segment, negative where a ray crosses an odd number of them."""
    parts = np.array_split(points, 1 + len(points) * len(start) * 8 // BLOCK)
    return np.concatenate([_block(p, start, end) for p in parts])


def _block(points: Points, start: Ends, end: Ends) -> NDArray[np.float64]:
    x, y = points[:, None, 0], points[:, None, 1]
    along = end - start
    dx, dy = x - start[:, 0], y - start[:, 1]
    share = np.clip((dx * along[:, 0] + dy * along[:, 1]) / (along**2).sum(1), 0.0, 1.0)
    square = (dx - share * along[:, 0]) ** 2 + (dy - share * along[:, 1]) ** 2
    nearest = np.sqrt(square.min(axis=1))
    with np.errstate(all="ignore"):
        # A segment along the ray is never asked: its ends are on one side.
        crossed = ((start[:, 1] > y) != (end[:, 1] > y)) & (dx < dy * along[:, 0] / along[:, 1])
    return np.where(crossed.sum(axis=1) % 2 == 1, -nearest, nearest)


def crossings(start: Ends, end: Ends) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of segments that touch; neighbours in a closed chain may share their common end only."""
    count, found = len(start), []
    slack = 1e-12 * float(np.abs(np.concatenate([start, end]) - start[0]).max()) ** 2
    for i in range(count - 1):
        j = np.arange(i + 1, count)
        a, b, c, d = start[i], end[i], start[j], end[j]
        sides = [_side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b)]
        apart = (np.minimum(c, d) > np.maximum(a, b)).any(1) | (np.maximum(c, d) < np.minimum(a, b)).any(1)
        same = [np.where(np.abs(s) <= slack, 0.0, np.sign(s)) for s in sides]
        touch = ~apart & (same[0] * same[1] <= 0) & (same[2] * same[3] <= 0)
        neighbour = (j == i + 1) | ((i == 0) & (j == count - 1))
        # Neighbours meet in one vertex; they overlap where the second runs back along the first.
        straight = (same[0] == 0) & (same[1] == 0)
        back = ((b - a) * (d - c)).sum(1) < 0
        bad = np.where(neighbour, straight & back, touch)
        found += [(i, int(k)) for k in j[bad]]
    return found


def _side(a: Points, b: Points, c: Points) -> NDArray[np.float64]:
    """Twice the signed area of the triangles a b c."""
    u, v = b - a, c - a
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def area(start: Ends, end: Ends) -> float:
    """Signed area within: positive where the segments run counter-clockwise."""
    return 0.5 * float(np.sum(start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]))


def along(unit: NDArray[np.float64], start: Ends, end: Ends) -> tuple[Points, Points]:
    """[n] numbers in [0, 1) -> points, uniform by length, and normals to the right of the segments' direction."""
    lengths = np.linalg.norm(end - start, axis=1)
    reached = np.cumsum(lengths)
    at = unit * reached[-1]
    which = np.minimum(np.searchsorted(reached, at, side="right"), len(lengths) - 1)
    share = np.clip((at - (reached - lengths)[which]) / lengths[which], 0.0, 1.0)
    points = start[which] + share[:, None] * (end - start)[which]
    direction = ((end - start) / lengths[:, None])[which]
    return points, np.stack([direction[:, 1], -direction[:, 0]], 1)
