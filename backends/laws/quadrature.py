"""Quadrature over coordinates of the domain: Gauss-Legendre, and the trapezoidal rule where a coordinate is periodic.

A sample of a region with `nodes` is a point of the other coordinates (a time) with all nodes of these: its columns are
[samples, nodes], and one value per sample is an integral, or a line of values that is split into bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.pde import domain

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Rule = Literal["gauss", "trapezoidal"]
Numbers = NDArray[np.float64]
USUAL = {1: 64, 2: 16, 3: 8}
"""Nodes per coordinate by the number of coordinates that are integrated over; 4 beyond."""
WEIGHT = "weight_"
"""Column of the quadrature weights: a name that no term can ask for, since no field ends in an underscore."""


@dataclass(frozen=True)
class Axis:
    """One coordinate with its nodes."""

    coord: str
    count: int
    rule: Rule

    def on(self, low: float, high: float) -> tuple[Numbers, Numbers]:
        """(nodes, weights) on an interval, [count] each; the weights add up to its length.

        Gauss-Legendre is exact for polynomials up to degree 2 count - 1, the trapezoidal rule for trigonometric ones of
        the period up to count - 1 waves.
        """
        if self.rule == "trapezoidal":
            return low + (high - low) * np.arange(self.count) / self.count, np.full(
                self.count, (high - low) / self.count
            )
        nodes, weights = np.polynomial.legendre.leggauss(self.count)
        return low + 0.5 * (high - low) * (nodes + 1.0), 0.5 * (high - low) * weights


def axes(problem: Problem, coords: Sequence[str], count: int | None) -> tuple[Axis, ...]:
    """The axes of some coordinates, `count` nodes each (None: as many as usual)."""
    usual = USUAL.get(len(coords), 4)
    return tuple(Axis(c, count or usual, "trapezoidal" if c in periodic(problem) else "gauss") for c in coords)


def refuse_geometry(problem: Problem, what: str, path: str) -> None:
    """Raises UserError where the domain is no box."""
    if domain.shape_of(problem) is not None:
        raise UserError(f"{what} fill a box, and this problem has a geometry of its own; remove this", path=path)


def periodic(problem: Problem) -> frozenset[str]:
    """Coordinates that the problem says are periodic: in its ansatz, or by a term that compares both ends."""
    compared = {mark.region.periodic for mark in problem.declared().values()}
    return frozenset(problem.periodic) | frozenset(c for c in compared if c)


def product(problem: Problem, of: Sequence[Axis]) -> tuple[dict[str, Numbers], Numbers]:
    """({coordinate: [nodes]}, weights [nodes]) of the tensor product, the last axis running fastest.

    Without an axis: one node of weight 1, so that the integral over no coordinates is the value itself.
    """
    box: Mapping[str, tuple[float, float]] = problem.box()
    rules = [axis.on(*box[axis.coord]) for axis in of]
    grids = np.meshgrid(*(nodes for nodes, _ in rules), indexing="ij")
    weights = np.ones(())
    for _, weight in rules:
        weights = np.multiply.outer(weights, weight)
    return {axis.coord: grid.reshape(-1) for axis, grid in zip(of, grids, strict=True)}, weights.reshape(-1)


def over_time(of: Axis, start: float, times: Numbers) -> tuple[Numbers, Numbers]:
    """(nodes, weights), [samples, count] each, of the integrals from `start` to every one of `times` [samples]."""
    nodes, weights = of.on(0.0, 1.0)
    span = (times - start)[:, None]
    return start + span * nodes, span * weights
