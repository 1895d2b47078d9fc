"""Shapes for problems of one's own: `from orchestrator.geometry import Disk, Rectangle`."""

from backends.geometry import (
    Ball,
    Box,
    Disk,
    Ellipse,
    Interval,
    Polygon,
    Rectangle,
    Shape,
    Triangle,
    inside,
    on_boundary,
    parts,
    volume,
)

__all__ = [
    "Ball",
    "Box",
    "Disk",
    "Ellipse",
    "Interval",
    "Polygon",
    "Rectangle",
    "Shape",
    "Triangle",
    "inside",
    "on_boundary",
    "parts",
    "volume",
]
