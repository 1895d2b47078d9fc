"""The terms of laws: integrals by quadrature at several times, parities at mirror images.

One value per sample: I(t) - I(start), in the units of the integral, less what lies within the tolerance. A value
within it has no loss and no gradient, and the loss leaves zero smoothly: max(|d| - tolerance, 0) keeps the sign of d.
A law that the data and the equation satisfy already is zero at their optimum, with a gradient of zero: it does not
move it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backends.blame import blamed
from backends.errors import UserError
from backends.laws.marks import EQUALS, TOLERANCE, Law
from backends.laws.nodes import FLUX, Nodes, over_space
from backends.laws.quadrature import WEIGHT, refuse_geometry
from backends.laws.reductions import Densities, each
from backends.ops import NumpyOps
from backends.pde.recorder import Recording, record
from backends.pde.regions import Region, draw
from backends.randomness import generator
from backends.task import Columns, Term

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Array = Any
BOUNDARY = Region(on="boundary")


@dataclass(frozen=True)
class LawSet:
    """The laws that share one set of samples."""

    laws: Mapping[str, Law]
    """By the name of the method."""
    flux: Recording | None = None
    """What flows out through the walls, where a law says so."""

    @property
    def signature(self) -> Hashable:
        """What shapes a program."""
        shapes = tuple((name, law.kind, law.equals is None, law.flux, law.mirror) for name, law in self.laws.items())
        return shapes, None if self.flux is None else self.flux.plan

    def values(
        self,
        ops: Any,
        problem: Problem,
        recording: Recording,
        columns: Mapping[str, Array],
        densities: Densities,
        constants: Mapping[str, Array],
    ) -> dict[str, Any]:
        """Every term of the set: [samples], or a tuple of such for a vector law."""
        nodes = nodes_of(recording)
        if nodes.kind == "mirror":
            found = densities(recording, nodes.flat(ops, problem, columns))
            off: Mapping[str, Any] = {n: each(_parity(ops, self._law(n)), value) for n, value in found.items()}
        else:
            off = self.deviations(ops, problem, recording, columns, densities, constants)
        out = {}
        for name, value in off.items():
            tolerance = constants[TOLERANCE + _method(name)]
            out[name] = each(lambda x, at=tolerance: beyond(ops, x, at), value)
        return out

    def deviations(
        self,
        ops: Any,
        problem: Problem,
        recording: Recording,
        columns: Mapping[str, Array],
        densities: Densities,
        constants: Mapping[str, Array],
    ) -> dict[str, Any]:
        """How far every integral is from what it must be, [samples] each."""
        nodes, weights = nodes_of(recording), columns[WEIGHT]
        points = nodes.flat(ops, problem, columns)
        samples, per_sample = weights.shape
        if any(law.equals is None for law in self.laws.values()):
            start = nodes.at_start(ops, problem, columns)
            points = {c: ops.concat([points[c], start[c]], 0) for c in points}
        inside = densities(recording, points)
        left = self._left(ops, problem, nodes, columns, densities)
        out = {}
        for name, value in inside.items():
            law = self._law(name)
            wanted = None if law.equals is None else constants[EQUALS + _method(name)]

            def deviation(x: Array, wanted: Array | None = wanted) -> Array:
                now = ops.sum(ops.reshape(x[: samples * per_sample], (samples, per_sample)) * weights, 1)
                if wanted is not None:
                    return now - wanted
                begun = x[samples * per_sample :]
                if begun.shape[0] == per_sample:
                    return now - ops.sum(begun * weights[0])
                return now - ops.sum(ops.reshape(begun, (samples, per_sample)) * weights, 1)

            out[name] = each(deviation, value)
            if law.flux:
                out[name] = _added(out[name], left[law.flux + name.removeprefix(_method(name))])
        return out

    def _left(
        self, ops: Any, problem: Problem, nodes: Nodes, columns: Mapping[str, Array], densities: Densities
    ) -> dict[str, Any]:
        """What has flown out since the start, [samples], by method (and part)."""
        if self.flux is None:
            return {}
        weights = columns[FLUX + WEIGHT]
        found = densities(self.flux, nodes.on_walls(ops, problem, columns))
        return {
            name: each(lambda x: ops.sum(ops.reshape(x, weights.shape) * weights, 1), value)
            for name, value in found.items()
        }

    def _law(self, term: str) -> Law:
        return self.laws[_method(term)]


def beyond(ops: Any, x: Array, tolerance: Array) -> Array:
    """What of x lies beyond ±tolerance, with its sign: zero in between."""
    zero = 0.0 * x
    return ops.maximum(x - tolerance, zero) + ops.minimum(x + tolerance, zero)


def nodes_of(recording: Recording) -> Nodes:
    """The nodes of the region of a recording."""
    assert recording.region.nodes is not None
    return recording.region.nodes


def law_sets(problem: Problem, laws: Mapping[str, Law]) -> tuple[dict[str, Recording], dict[str, LawSet]]:
    """(recordings, laws) by batch. Raises UserError, with file and line, where a method is no density."""
    shared: dict[Region, dict[str, Law]] = {}
    for name, law in laws.items():
        refuse_geometry(problem, "the nodes of a law", f"conserve.{name}")
        nodes = Nodes("mirror", mirror=law.mirror[0]) if law.mirror[0] else _integral(problem, law)
        shared.setdefault(Region(nodes=nodes), {})[name] = law
    found, sets = {}, {}
    for region, members in shared.items():
        columns = draw(problem, region, (), 3, "uniform", generator(0, "fixed points", region.name))
        nodes = region.nodes
        assert nodes is not None
        recording = _recorded(problem, region, tuple(members), nodes.flat(NumpyOps(), problem, columns))
        flux = None
        if nodes.flux:
            walls = nodes.on_walls(NumpyOps(), problem, columns)
            flux = _recorded(problem, BOUNDARY, tuple(dict.fromkeys(law.flux for law in members.values())), walls)
            _same_parts(problem, members, recording, flux)
            recording = _with_constants(recording, flux)
        found[region.name], sets[region.name] = recording, LawSet(members, flux)
    return found, sets


def law_terms(problem: Problem, laws: Mapping[str, Law], found: Mapping[str, Recording]) -> tuple[Term, ...]:
    """The terms of the laws."""
    out = []
    for batch, recording in found.items():
        for method, names in recording.terms.items():
            scale = laws[method].scale
            size = 1.0 if scale is None else problem.number(scale)
            out += [Term(n, "residual", batch, size, counted=scale is not None) for n in names]
    return tuple(out)


def _integral(problem: Problem, law: Law) -> Nodes:
    return over_space(problem, law.nodes, flux=bool(law.flux))


def _recorded(problem: Problem, region: Region, methods: tuple[str, ...], columns: Columns) -> Recording:
    recording = record(problem, region, methods, {c: v[:3] for c, v in columns.items()})
    for method in methods:
        with blamed(problem, method):
            if recording.reduced:
                raise UserError("a density has one value per point; the integral is taken of it")
            if recording.exact:
                raise UserError("a law is about the fields, not about the reference solution (exact_…)")
    return recording


def _with_constants(recording: Recording, flux: Recording) -> Recording:
    return replace(recording, constants=recording.constants | flux.constants)


def _same_parts(problem: Problem, laws: Mapping[str, Law], inside: Recording, flux: Recording) -> None:
    for method, law in laws.items():
        parts = [n.removeprefix(method) for n in inside.terms[method]]
        flows = [n.removeprefix(law.flux) for n in flux.terms[law.flux]]
        if parts != flows:
            with blamed(problem, law.flux):
                raise UserError(f"returns {flows or 'one part'}, and the density {method} has the parts {parts}")


def _parity(ops: Any, law: Law) -> Callable[[Array], Array]:
    """The part of the other parity."""

    def wrong(x: Array) -> Array:
        here, there = ops.unstack(ops.reshape(x, (2, x.shape[0] // 2)), 0)
        return 0.5 * (here + there) if law.mirror[1] == "odd" else 0.5 * (here - there)

    return wrong


def _method(term: str) -> str:
    return term.partition("/")[0]


def _added(x: Any, y: Any) -> Any:
    return tuple(a + b for a, b in zip(x, y, strict=True)) if isinstance(x, tuple) else x + y
