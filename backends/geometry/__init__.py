"""Shapes of domains: primitives, polygons, meshes, and what unions, intersections and differences make of them."""

from backends.geometry.csg import Combined, Moved
from backends.geometry.polygon import Polygon, Triangle
from backends.geometry.primitives import Ball, Box, Disk, Ellipse, Interval, Rectangle
from backends.geometry.sampling import inside, on_boundary, parts, volume
from backends.geometry.shape import Shape

__all__ = [
    "Ball",
    "Box",
    "Combined",
    "Disk",
    "Ellipse",
    "Interval",
    "Moved",
    "Polygon",
    "Rectangle",
    "Shape",
    "Triangle",
    "inside",
    "on_boundary",
    "parts",
    "volume",
]
