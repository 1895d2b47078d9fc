"""Residuals taken apart by scale: a term for each band of wave numbers along some coordinates.

A sample is a line (or a plane) of nodes along the coordinates of `along`, at random values of the others. On it the
residual is expanded in orthonormal modes, r = sum_m c_m phi_m: cosines and sines where the coordinate is periodic,
Legendre polynomials on Gauss nodes elsewhere. Band k is the vector of c_m sqrt(share_k(m)), and since the shares of a
mode add up to one, so do the mean squares of the bands: with weights of 1 they are the mean square of the residual on
its nodes (Parseval), in its units. A residual of zero is zero in every band.

Bands are octaves, the last one from half the number of modes on. With `coupling` c a mode near the border of two bands
counts for both: its share passes from one to the other over c octaves (a Littlewood-Paley partition of unity), so that
weights of neighbouring scales act on each other's modes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from backends.errors import UserError, nearest
from backends.laws.nodes import Nodes
from backends.laws.quadrature import Axis, axes, refuse_geometry
from backends.laws.reductions import Densities
from backends.ops import NumpyOps
from backends.pde.domain import spatial
from backends.pde.recorder import Recording, record
from backends.pde.regions import Region, draw
from backends.randomness import generator
from backends.spec import Leaf
from backends.task import Term, parts_of

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Array = Any
Numbers = NDArray[np.float64]
SMALLEST = 1e-12
"""A share below this is none."""


class Bands(Leaf):
    """How one residual is taken apart. `pde: 4` is short for `{bands: 4}`."""

    bands: Annotated[int, Field(ge=2, le=16)] = 3
    """Terms `pde/band0` (the largest scales), `pde/band1`, …, in place of the one term."""
    along: tuple[str, ...] = ()
    """The coordinates that scales are meant along; default: all but time (and parameters)."""
    nodes: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Nodes along each of them; default: 64, 16 or 8 for one, two or three."""
    coupling: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Octaves over which a mode's share passes from one band to the next. 0: every mode belongs to one band."""


def _short(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {k: {"bands": v} if isinstance(v, int) and not isinstance(v, bool) else v for k, v in data.items()}


Multiscale = Annotated[dict[str, Bands], BeforeValidator(_short)]
"""Residual -> its bands."""


@dataclass(frozen=True, eq=False)
class BandSet:
    """The bands of one residual: how values at nodes become the terms of a sample."""

    spec: Bands
    axes: tuple[Axis, ...]
    term: str

    @property
    def signature(self) -> Hashable:
        """What shapes a program."""
        return self.spec.model_dump_json(), self.axes, self.term

    def filters(self) -> list[Numbers]:
        """Per band [modes, nodes]: what the values at the nodes of a sample are multiplied by."""
        modes, waves = _modes(self.axes)
        shares = partition(waves, self.spec.bands, self.spec.coupling)
        return [np.sqrt(share[share > SMALLEST])[:, None] * modes[share > SMALLEST] for share in shares]

    def values(
        self,
        ops: Any,
        problem: Problem,
        recording: Recording,
        columns: Mapping[str, Array],
        densities: Densities,
        constants: Mapping[str, Array],
    ) -> dict[str, Any]:
        """Every band as a vector residual, one entry per mode; the parts of a vector residual one after the other."""
        nodes = recording.region.nodes
        assert nodes is not None
        (found,) = densities(_as_marked(recording), nodes.flat(ops, problem, columns)).values()
        samples = columns[nodes.axes[0].coord].shape[0]
        parts = [ops.reshape(p, (samples, nodes.size)) for p in parts_of(found)]
        out = {}
        for name, matrix in zip(recording.names, self.filters(), strict=True):
            rows = []
            for part in parts:
                filtered = ops.matmul(part, ops.astype(np.ascontiguousarray(matrix.T), part))
                rows += ops.unstack(filtered, 1)
            out[name] = tuple(rows)
        return out


def band_sets(
    problem: Problem, asked: Mapping[str, Bands], found: Mapping[str, Recording], terms: Sequence[Term]
) -> tuple[dict[str, Recording], dict[str, BandSet], tuple[Term, ...]]:
    """(recordings of lines, their bands, all terms) where the file takes residuals apart.

    The residual itself stays a term of the evaluation. Raises UserError.
    """
    recordings: dict[str, Recording] = {}
    sets: dict[str, BandSet] = {}
    out = list(terms)
    for name, spec in asked.items():
        path = f"multiscale.{name}"
        method = _method(problem, name, found, terms, path)
        region, axes_ = _region(problem, spec, path)
        nodes = region.nodes
        assert nodes is not None
        columns = draw(
            problem, region, found["interior"].exact, 3, "uniform", generator(0, "fixed points", region.name)
        )
        flat = nodes.flat(NumpyOps(), problem, columns)
        recording = record(problem, region, (method,), {c: v[:3] for c, v in flat.items()})
        if recording.terms[method] != (name,):
            raise UserError(f"{method} returns several residuals; only a method with one can be taken apart", path=path)
        if recording.reduced or recording.exact:
            what = "reduces itself" if recording.reduced else "reads the reference solution"
            raise UserError(f"the term {name!r} {what}, so it can't be taken apart", path=path)
        batch = f"{name} on {region.name}"
        bands = tuple(f"{name}/band{k}" for k in range(spec.bands))
        recordings[batch] = replace(recording, terms={name: bands})
        sets[batch] = BandSet(spec, axes_, name)
        at = next(i for i, t in enumerate(out) if t.name == name)
        whole = out[at]
        out[at : at + 1] = [
            replace(whole, trained=False),
            *(replace(whole, name=band, batch=batch, counted=False) for band in bands),
        ]
    return recordings, sets, tuple(out)


def partition(waves: Numbers, bands: int, coupling: float) -> list[Numbers]:
    """[bands][modes]: the share of each mode, by its number of half waves; those of one mode add up to 1.

    Borders lie at 1/2, 1/4, … of the largest number; a mode's share rises over `coupling` octaves around a border.
    """
    top = float(waves.max()) + 1.0
    octaves = np.log2((waves + 1.0) / (top + 1.0))
    above = [np.ones_like(waves, np.float64)]
    for border in range(-(bands - 1), 0):
        if coupling == 0:
            above.append((octaves >= border).astype(np.float64))
        else:
            s = np.clip((octaves - border) / coupling + 0.5, 0.0, 1.0)
            above.append(s * s * (3.0 - 2.0 * s))
    above.append(np.zeros_like(waves, np.float64))
    return [a - b for a, b in itertools.pairwise(above)]


def _modes(of: Sequence[Axis]) -> tuple[Numbers, Numbers]:
    """([modes, nodes], half waves [modes]) of the tensor product: orthonormal in the mean over the domain, so that the
    mean square of a function is the sum of the squares of its coefficients."""
    modes, waves = np.ones((1, 1)), np.zeros(1)
    for axis in of:
        one, numbers = _fourier(axis.count) if axis.rule == "trapezoidal" else _legendre(axis.count)
        modes = np.einsum("ab,cd->acbd", modes, one).reshape(len(modes) * len(one), -1)
        waves = np.maximum.outer(waves, numbers).reshape(-1)
    return modes, waves


def _legendre(count: int) -> tuple[Numbers, Numbers]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    values = np.polynomial.legendre.legvander(nodes, count - 1).T * np.sqrt(2.0 * np.arange(count) + 1.0)[:, None]
    return values * 0.5 * weights, np.arange(count, dtype=np.float64)


def _fourier(count: int) -> tuple[Numbers, Numbers]:
    angle = 2.0 * math.pi * np.arange(count) / count
    rows, waves = [np.ones(count)], [0.0]
    for k in range(1, count // 2 + 1):
        alone = 2 * k == count  # its sine vanishes on the nodes
        rows.append((1.0 if alone else math.sqrt(2.0)) * np.cos(k * angle))
        waves.append(2.0 * k)
        if not alone:
            rows.append(math.sqrt(2.0) * np.sin(k * angle))
            waves.append(2.0 * k)
    return np.stack(rows) / count, np.array(waves)


def _as_marked(recording: Recording) -> Recording:
    """The recording under the name of its method."""
    (name,) = recording.terms
    return replace(recording, terms={name: (name,)})


def _method(problem: Problem, name: str, found: Mapping[str, Recording], terms: Sequence[Term], path: str) -> str:
    inside = [t.name for t in terms if t.batch == "interior" and t.kind == "residual"]
    if name not in inside:
        raise UserError(f"there is no residual {name!r} inside the domain{nearest(name, inside)}", path=path)
    return next(m for m, names in found["interior"].terms.items() if name in names)


def _region(problem: Problem, spec: Bands, path: str) -> tuple[Region, tuple[Axis, ...]]:
    for c in spec.along:
        if c not in problem.coords or c == problem.time:
            known = spatial(problem)
            raise UserError(f"{c!r} is no coordinate of space{nearest(c, known)}", path=f"{path}.along")
    refuse_geometry(problem, "the nodes of lines", path)
    along = spec.along or spatial(problem)
    if not along:
        raise UserError("scales are meant along a coordinate of space, and there is none; remove this", path=path)
    if len(set(along)) < len(along):
        raise UserError("names a coordinate twice", path=f"{path}.along")
    chosen = axes(problem, along, spec.nodes)
    modes = max(a.count for a in chosen)
    if modes < 2**spec.bands:
        raise UserError(
            f"{spec.bands} octaves need at least {2**spec.bands} nodes along a coordinate, not {modes}; take more "
            "nodes or fewer bands",
            path=f"{path}.nodes" if spec.nodes else f"{path}.bands",
        )
    return Region(nodes=Nodes("lines", chosen)), chosen
