"""Closed surfaces of triangles in space: distance, side, area, and points on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backends.geometry.shape import Points

BLOCK = 1_500_000
"""Pairs of a point and a triangle in memory at a time."""
Corners = NDArray[np.float64]
"""[triangles, 3, 3]"""


def areas(corners: Corners) -> NDArray[np.float64]:
    """[triangles]"""
    return 0.5 * np.linalg.norm(_cross(corners), axis=1)


def volume(corners: Corners) -> float:
    """Of what the surface encloses: positive where its triangles run counter-clockwise, seen from outside."""
    at = corners - corners.reshape(-1, 3).mean(0)
    return float(np.einsum("ij,ij->", at[:, 0], np.cross(at[:, 1], at[:, 2]))) / 6.0


def scattered(unit: Points, corners: Corners) -> tuple[Points, Points]:
    """[n, 3] numbers in [0, 1) -> points, uniform by area, and normals."""
    size = areas(corners)
    which = np.minimum(np.searchsorted(np.cumsum(size) / size.sum(), unit[:, 0], side="right"), len(size) - 1)
    root, share = np.sqrt(unit[:, 1:2]), unit[:, 2:3]  # Osada et al., ACM TOG 21 (2002) 807, section 4.2
    a, b, c = (corners[which, i] for i in range(3))
    normals = _cross(corners)[which]
    return (1 - root) * a + root * (1 - share) * b + root * share * c, normals / (2 * size[which, None])


def signed_distance(points: Points, corners: Corners) -> NDArray[np.float64]:
    """[n]: to the nearest triangle, negative where the surface winds around the point."""
    parts = np.array_split(points, 1 + len(points) * len(corners) // BLOCK)
    return np.concatenate([np.where(_winding(p, corners) > 0.5, -1.0, 1.0) * _nearest(p, corners) for p in parts])


def _cross(corners: Corners) -> NDArray[np.float64]:
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _winding(points: Points, corners: Corners) -> NDArray[np.float64]:
    """How often the surface goes around: solid angles (van Oosterom and Strackee, IEEE TBME 30 (1983) 125)."""
    a, b, c = (corners[None, :, i] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=2) for v in (a, b, c))
    above = np.einsum("pti,pti->pt", a, np.cross(b, c))
    below = la * lb * lc
    for u, v, length in ((a, b, lc), (b, c, la), (c, a, lb)):
        below += np.einsum("pti,pti->pt", u, v) * length
    return np.arctan2(above, below).sum(1) / (2.0 * math.pi)


def _nearest(points: Points, corners: Corners) -> NDArray[np.float64]:
    """The distance to the plane where the foot is within the triangle, else to its sides."""
    a, b, c = (corners[:, i] for i in range(3))
    normal = _cross(corners)
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    height = np.einsum("pti,ti->pt", points[:, None] - a, normal)
    within = np.ones(height.shape, bool)
    square = np.full(height.shape, np.inf)
    for u, v in ((a, b), (b, c), (c, a)):
        along, out = v - u, points[:, None] - u
        within &= np.einsum("pti,ti->pt", out, np.cross(normal, along)) >= 0
        share = np.clip(np.einsum("pti,ti->pt", out, along) / (along**2).sum(1), 0.0, 1.0)
        square = np.minimum(square, ((out - share[..., None] * along) ** 2).sum(2))
    return np.sqrt(np.where(within, height * height, square).min(axis=1))
