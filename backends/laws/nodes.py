"""Samples that stand for many points: a time with all quadrature nodes of space, or a point and its mirror image.

Such a set keeps the rule of one value per sample: its columns are [samples, nodes] where a coordinate has nodes and
[samples] elsewhere; `flat` makes the points of which the fields are evaluated, [samples * nodes].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.laws.quadrature import WEIGHT, Axis, axes, over_time, periodic, product
from backends.names import NORMAL
from backends.pde.domain import spatial
from backends.points.samplers import Sampler, sample_box
from backends.task import Columns

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Array = Any
FLUX = "flux_"
"""Prefix of the columns of the nodes on the walls between the start and the sample's time."""
TIMES = 16
"""Nodes in time of what flows out."""


@dataclass(frozen=True)
class Nodes:
    """What one sample stands for."""

    kind: Literal["integral", "lines", "mirror"]
    axes: tuple[Axis, ...] = ()
    """The coordinates that have nodes; a sample has a value of all others."""
    flux: bool = False
    """Whether the samples have nodes on the walls as well."""
    mirror: str = ""
    """The coordinate that is mirrored."""

    @property
    def name(self) -> str:
        """`integral(x=64)`, `lines(x=64)`, `mirror(x)`: of the batch."""
        inner = self.mirror or ",".join(f"{a.coord}={a.count}" for a in self.axes)
        return f"{self.kind}({inner})" + ("+flux" if self.flux else "")

    @property
    def size(self) -> int:
        """Points per sample."""
        if self.kind == "mirror":
            return 2
        return math.prod(a.count for a in self.axes) + (2 * len(self.axes) * TIMES if self.flux else 0)

    def free(self, problem: Problem) -> dict[str, tuple[float, float]]:
        """The coordinates of a sample, with their bounds."""
        held = {a.coord for a in self.axes}
        return {c: bounds for c, bounds in problem.box().items() if c not in held}

    def draw(self, problem: Problem, count: int, sampler: Sampler, rng: np.random.Generator) -> Columns:
        """`count` samples (all alike, where nothing is free) with their nodes and weights."""
        free = self.free(problem)
        return self.around(problem, sample_box(free, count, sampler, rng) if free else {}, count)

    def around(self, problem: Problem, samples: Columns, count: int = 1) -> Columns:
        """The columns of samples with these values of the free coordinates, [samples] each; `count`: how many there are
        where nothing is free."""
        if self.kind == "mirror":
            return samples
        columns = dict(samples)
        rows = len(next(iter(columns.values()))) if columns else count
        nodes, weights = product(problem, self.axes)
        for c, values in (*nodes.items(), (WEIGHT, weights)):
            columns[c] = np.tile(values, (rows, 1))
        columns = {c: columns[c] for c in (*problem.coords, WEIGHT)}
        return {**columns, **_walls(problem, self.axes, columns)} if self.flux else columns

    def flat(self, ops: Any, problem: Problem, columns: Mapping[str, Array]) -> dict[str, Array]:
        """The points of all samples, sample by sample: {coordinate: [samples * nodes]}; of a mirror first all points,
        then all images."""
        if self.kind == "mirror":
            low, high = problem.box()[self.mirror]
            image = {c: low + high - columns[c] if c == self.mirror else columns[c] for c in problem.coords}
            return {c: ops.concat([columns[c], image[c]], 0) for c in problem.coords}
        return flattened(ops, {c: columns[c] for c in problem.coords}, columns[WEIGHT].shape)

    def at_start(self, ops: Any, problem: Problem, columns: Mapping[str, Array]) -> dict[str, Array]:
        """The nodes at the start of time: {coordinate: [nodes]}, or [samples * nodes] where samples differ in more than
        their time (parameters of the equation)."""
        start, _ = problem.box()[problem.time]
        if set(self.free(problem)) > {problem.time}:
            begun = {c: 0.0 * x + start if c == problem.time else x for c, x in columns.items() if c in problem.coords}
            return flattened(ops, begun, columns[WEIGHT].shape)
        row = {c: columns[c][0] for c in problem.coords if c != problem.time}
        return {c: row[c] if c in row else 0.0 * columns[WEIGHT][0] + start for c in problem.coords}

    def on_walls(self, ops: Any, problem: Problem, columns: Mapping[str, Array]) -> dict[str, Array]:
        """The nodes on the walls, with their outward normals: {name: [samples * nodes]}."""
        names = [*problem.coords, *(NORMAL + c for c in spatial(problem))]
        shape = columns[FLUX + WEIGHT].shape
        return flattened(ops, {n: columns[FLUX + n] for n in names}, shape)


def over_space(problem: Problem, count: int | None, *, flux: bool = False) -> Nodes:
    """An integral over all coordinates but time."""
    return Nodes("integral", axes(problem, spatial(problem), count), flux)


def flattened(ops: Any, columns: Mapping[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Columns [samples] or [samples, nodes] as [samples * nodes]."""
    size = (shape[0] * shape[1],)
    out = {}
    for name, x in columns.items():
        wide = x if x.ndim == 2 else ops.broadcast_to(ops.reshape(x, (shape[0], 1)), shape)
        out[name] = ops.reshape(wide, size)
    return out


def _walls(problem: Problem, of: tuple[Axis, ...], samples: Columns) -> Columns:
    """Nodes on every wall that is not periodic, at times from the start to each sample's: `flux_<name>`, [samples,
    nodes], with the weights of the integral over time and area."""
    box, times = problem.box(), samples[problem.time]
    parts: list[dict[str, NDArray[np.float64]]] = []
    for axis in of:
        if axis.coord in periodic(problem):
            continue
        nodes, weights = product(problem, [a for a in of if a is not axis])
        for end, normal in zip(box[axis.coord], (-1.0, 1.0), strict=True):
            at = {**nodes, axis.coord: np.full(len(weights), end)}
            outward = {NORMAL + a.coord: np.full(len(weights), normal if a is axis else 0.0) for a in of}
            parts.append({**at, **outward, WEIGHT: weights})
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    seconds, spans = over_time(Axis(problem.time, TIMES, "gauss"), box[problem.time][0], times)
    wide = (len(times), TIMES, len(joined[WEIGHT]))
    weights = np.broadcast_to(spans[:, :, None] * joined.pop(WEIGHT), wide)
    columns = {name: np.broadcast_to(values, wide) for name, values in joined.items()}
    aside = [c for c in problem.coords if c not in {problem.time, *(a.coord for a in of)}]
    columns |= {c: np.broadcast_to(samples[c][:, None, None], wide) for c in aside}
    columns |= {problem.time: np.broadcast_to(seconds[:, :, None], wide), WEIGHT: weights}
    return {FLUX + name: np.ascontiguousarray(v.reshape(len(times), -1)) for name, v in columns.items()}
