"""What a shape's boundary is made of, as smooth functions: each zero on one wall and positive on the shape's side.

A wall is written against `ops` and coordinates as Jets [1, points], so that derivatives run through it. All are
normalised: of unit slope on the wall itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from backends.errors import UserError
from backends.geometry.csg import Moved
from backends.geometry.polygon import Polygon, Segments
from backends.geometry.primitives import SIDES, Ball, Box, Ellipse
from backends.geometry.segments import Ends
from backends.geometry.shape import Shape

Jets = Sequence[Any]
"""The coordinates."""
Function = Callable[[Any, Jets], Any]
"""(ops, coordinates) -> Jet [1, points]"""
BAND = 1e-6
"""So close to a wall, relative to a shape's size, a point counts as being on it: rounding must not turn its slope."""
MANY = 12
"""A convex polygon of more edges is treated like one that is not convex: products of so many factors are flat."""


@dataclass(frozen=True, eq=False)
class Wall:
    """One smooth piece. What is inside of all walls of a shape is the shape."""

    tags: tuple[str, ...]
    value: Function
    parts: Mapping[str, tuple[Function, Function]] = field(default_factory=dict)
    """Pieces of it with a name of their own, seen from inside and from outside: zero on the piece alone, else
    positive."""


def walls(leaf: Shape) -> tuple[Wall, ...]:
    """The walls of a primitive. Raises UserError where it has no smooth description."""
    for kind, found in _WALLS:
        if isinstance(leaf, kind):
            return found(leaf)
    raise UserError(f"there is no smooth distance to a {type(leaf).__name__}; write its condition as a term (soft)")


def _named(leaf: Shape, *tags: str) -> tuple[str, ...]:
    return tuple(t for t in (leaf.name, *tags) if t)


def _box(box: Box) -> tuple[Wall, ...]:
    found = []
    for axis, (low, high) in enumerate(zip(box.low, box.high, strict=True)):
        sides = SIDES[axis] if box.dimension <= 3 else ("", "")
        found.append(Wall(_named(box, sides[0]), partial(_above, axis, low)))
        found.append(Wall(_named(box, sides[1]), partial(_below, axis, high)))
    return tuple(found)


def _above(axis: int, low: float, ops: Any, x: Jets) -> Any:
    return x[axis] - low


def _below(axis: int, high: float, ops: Any, x: Jets) -> Any:
    return high - x[axis]


def _ball(ball: Ball) -> tuple[Wall, ...]:
    def value(ops: Any, x: Jets) -> Any:
        square = sum((at - c) ** 2 for at, c in zip(x, ball.centre, strict=True))
        return (ball.radius**2 - square) * (0.5 / ball.radius)

    return (Wall(_named(ball), value),)


def _ellipse(ellipse: Ellipse) -> tuple[Wall, ...]:
    """w / sqrt(|grad w|² + (w / b)²) with w the ellipse's equation (Rvachev's normalisation), smooth everywhere."""
    a, b = ellipse.axes

    def value(ops: Any, x: Jets) -> Any:
        u, v = (x[0] - ellipse.centre[0]) * (1 / a), (x[1] - ellipse.centre[1]) * (1 / b)
        w = 0.5 * (1.0 - u * u - v * v)
        slope = u * u * (1 / a**2) + v * v * (1 / b**2)
        return w / ops.sqrt(slope + w * w * (1 / min(a, b) ** 2))

    return (Wall(_named(ellipse), value),)


def _segments(shape: Segments) -> tuple[Wall, ...]:
    start, end = shape.ends
    if isinstance(shape, Polygon) and shape.convex and len(start) <= MANY:
        edges = shape.edges or ("",) * len(start)
        return tuple(Wall(_named(shape, n), partial(_line, *start[i], *end[i])) for i, n in enumerate(edges))
    parts = {}
    for name, rows in shape.groups().items():
        both = partial(_near, start[rows], end[rows], shape.size)
        parts |= {name: (partial(both, 1.0), partial(both, -1.0))} if name else {}
    return (Wall(_named(shape), partial(_within, start, end, shape.size), parts),)


def _line(ax: float, ay: float, bx: float, by: float, ops: Any, x: Jets) -> Any:
    length = float(np.hypot(bx - ax, by - ay))
    return (x[1] - ay) * ((bx - ax) / length) - (x[0] - ax) * ((by - ay) / length)


def _within(start: Ends, end: Ends, size: float, ops: Any, x: Jets) -> Any:
    """The distance to all segments, positive within: where a ray crosses an odd number of them."""
    near = _near(start, end, size, 1.0, ops, x)
    like = x[0].value
    run, rise = (end - start).T
    slope = np.where(rise == 0, 0.0, run / np.where(rise == 0, 1.0, rise))
    ax, ay, by, slopes = (ops.astype(v[:, None], like) for v in (start[:, 0], start[:, 1], end[:, 1], slope))
    crossed = ((ay > x[1].value) ^ (by > x[1].value)) & (like < ax + (x[1].value - ay) * slopes)
    count = ops.sum(ops.astype(crossed, like), 0)[None]
    odd = ops.cos(np.pi * count) < 0.0
    return ops.where(odd | (near.value < BAND * size), near, -near)


def _near(start: Ends, end: Ends, size: float, side: float, ops: Any, x: Jets) -> Any:
    """Trimmed lines joined by R-equivalence (Sukumar and Srivastava, arXiv 2104.08426, equations 4, 5 and 10).

    `side`: 1 where points on the line count as left of it, hence inside; -1 where they count as outside.
    """
    small = (1e-12 * size) ** 2
    middle = 0.5 * (start.min(0) + start.max(0))
    u, v = x[0] - float(middle[0]), x[1] - float(middle[1])
    a, b = start - middle, end - middle
    length = np.linalg.norm(b - a, axis=1)
    centre = 0.5 * (a + b)
    nx, ny = ((a - b)[:, 1] / length, (b - a)[:, 0] / length)  # to the left: inwards
    line = np.stack([nx, ny, np.zeros_like(nx)], 1)
    circle = np.stack([2 * centre[:, 0] / length, 2 * centre[:, 1] / length, -1 / length], 1)
    shift = -(nx * a[:, 0] + ny * a[:, 1])
    rest = (0.25 * length**2 - (centre**2).sum(1)) / length
    like = x[0].value
    features = ops.features([u, v, u * u + v * v])
    f = ops.matmul(ops.astype(line, like), features) + ops.astype(shift[:, None], like)
    t = ops.matmul(ops.astype(circle, like), features) + ops.astype(rest[:, None], like)
    return joined(ops, trimmed(ops, f * side, t, small, BAND * size), len(a), small)


def trimmed(ops: Any, f: Any, t: Any, small: float, band: float) -> Any:
    """About |f| where t >= 0, and about the distance to that piece's ends elsewhere (equation 5).

    Where t > 0, (sqrt(t² + f⁴) - t) / 2 = f⁴ / (2 (sqrt(t² + f⁴) + t)), and f is drawn out of the root: its slope on
    the piece itself is then the normal, not 0/0. Points beyond it by no more than `band` count as points on it.
    """
    square = f * f
    root = ops.sqrt(t * t + square * square + small * small)
    size = ops.where(f < -band, -f, f)
    on = t > 0.0
    ratio = square * size / (2.0 * (root + ops.where(on, t, -t)))
    beyond = 0.5 * (root - t)
    return ops.where(on, size * ops.sqrt(1.0 + ratio * ratio), ops.sqrt(square + beyond * beyond + small))


def joined(ops: Any, h: Any, units: int, small: float) -> Any:
    """R-equivalence over the units of h: 1 / h = sum of 1 / h_i (equation 10 with m = 1), in pairs."""
    while units > 1:
        half = units // 2
        a, b = h[:half], h[half : 2 * half]
        pairs = a * b / (a + b + small)
        h = ops.features([pairs, h[2 * half :]]) if units % 2 else pairs
        units = half + units % 2
    return h


def _moved(leaf: Moved) -> tuple[Wall, ...]:
    def back(function: Function) -> Function:
        def value(ops: Any, x: Jets) -> Any:
            shifted = [at - o for at, o in zip(x, leaf.offset, strict=True)]
            columns = zip(*leaf.matrix, strict=True)
            at = [sum(s * (m / leaf.factor) for s, m in zip(shifted, c, strict=True) if m) for c in columns]
            return function(ops, at) * leaf.factor

        return value

    inner = walls(leaf.shape.named(leaf.name))
    return tuple(Wall(w.tags, back(w.value), {n: (back(f), back(g)) for n, (f, g) in w.parts.items()}) for w in inner)


_WALLS: tuple[tuple[type, Callable[[Any], tuple[Wall, ...]]], ...] = (
    (Box, _box),
    (Ball, _ball),
    (Ellipse, _ellipse),
    (Segments, _segments),
    (Moved, _moved),
)
