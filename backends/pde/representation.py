"""How a network stands for the fields of a problem: scaling, periodic features, and the ansatz of hard constraints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.derivatives.inputs import Inputs
from backends.derivatives.jets import Jet, JetOps, Plan
from backends.errors import UserError, nearest
from backends.geometry.sampling import remains_of
from backends.geometry.smooth import distance
from backends.names import Index
from backends.networks.network import under
from backends.pde import parameters
from backends.pde.domain import odd
from backends.pde.field import UNKNOWN, Field, spatial
from backends.pde.regions import Region

if TYPE_CHECKING:
    from backends.geometry.shape import Shape
    from backends.networks.network import Network
    from backends.pde.problem import Problem

Array = Any


@dataclass(frozen=True)
class Representation:
    """How the network stands for the fields: scaled (or periodic) inputs, scaled outputs, and the ansatz."""

    network: Network
    hard: bool = False
    scale_coords: bool = True
    scales: Mapping[str, float] = field(default_factory=dict)
    """Field -> what the network's output is multiplied by; default 1."""

    def init(self, problem: Problem, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Initial parameters: of one network for the fields that depend on all coordinates, and under `<field>/` of one
        for those that depend on the same few (`Problem.depends`)."""
        found = {}
        for part in parts_of(problem):
            made = self.network.init(rng, self.inputs(problem, part.coords), len(part.fields))
            found |= {part.prefix + name: value for name, value in made.items()}
        return found

    def inputs(self, problem: Problem, coords: Sequence[str]) -> int:
        """Features that the network of these coordinates sees."""
        return len(coords) + (len(set(problem.periodic) & set(coords)) if self.hard else 0)

    def fields(
        self,
        ops: Any,
        params: Mapping[str, Array],
        columns: Mapping[str, Array],
        plan: Plan,
        problem: Problem,
        directions: Array | None = None,
    ) -> dict[str, Jet]:
        """Every field as a Jet [1, samples] in physical units, hard constraints applied.

        directions: [directions, spatial coordinates, samples] that `plan.laplacian` runs along, where it is estimated.
        """
        along = spatial(problem) if directions is not None else ()
        at = Inputs(plan, ops, columns, tuple(problem.coords), along, directions)
        jet_ops = JetOps(ops, plan)
        if self.network.jets:
            out = self._outputs(jet_ops, params, at.together, problem)
        else:
            out = self._nested(ops, params, at, problem)
        fields = {}
        for i, name in enumerate(problem.fields):
            scale = self.scales.get(name, 1.0)
            fields[name] = out[i : i + 1] if scale == 1.0 else out[i : i + 1] * scale
            if self.hard:
                for c in odd(problem, name):
                    fields[name] = fields[name] * _centred(at[c], *problem.box()[c])
        return ansatz(problem, jet_ops, plan, at, fields, params) if self.hard else fields

    def _outputs(
        self, ops: Any, params: Mapping[str, Array], together: Callable[[Sequence[str]], Any], problem: Problem
    ) -> Any:
        """The network's outputs [fields, samples]."""
        parts, found = parts_of(problem), {}
        for part in parts:
            own = under(part.prefix, params) if part.prefix else params
            out = self.network.apply(ops, own, self._features(ops, together, problem, part.coords))
            if len(parts) == 1:
                return out
            found |= {name: out[i : i + 1] for i, name in enumerate(part.fields)}
        return ops.features([found[name] for name in problem.fields])

    def _features(
        self, ops: Any, together: Callable[[Sequence[str]], Any], problem: Problem, coords: Sequence[str]
    ) -> Any:
        """Coordinates on [-1, 1], periodic ones as cos and sin: the derivatives of a Jet carry the scaling along.

        Neighbours on the same interval are treated as one block: a hundred coordinates cost no more text than one.
        """
        parts = []
        for (low, high), kind, names in self._blocks(problem, coords):
            block = together(names)
            if kind == "log":
                middle, reach = 0.5 * math.log(low * high), 0.5 * math.log(high / low)
                parts.append((ops.log(block) - middle) * (1.0 / reach))
            elif kind == "mirrored":
                across = _centred(block, low, high)
                parts.append(2.0 * (across * across) - 1.0)
            elif kind:
                angle = (block - low) * (2.0 * math.pi / (high - low))
                parts += [ops.cos(angle), ops.sin(angle)]
            elif self.scale_coords:
                parts.append(_centred(block, low, high))
            else:
                parts.append(block)
        return parts[0] if len(parts) == 1 else ops.features(parts)

    def _blocks(
        self, problem: Problem, coords: Sequence[str]
    ) -> Iterator[tuple[tuple[float, float], str, tuple[str, ...]]]:
        """(interval, treatment, coordinates) of neighbours that are treated alike. Periodic ones are by themselves."""
        box, kinds = {c: bounds for c, bounds in problem.box().items() if c in coords}, dict.fromkeys(coords, "")
        if self.hard:
            kinds |= {c: f"periodic {c}" for c in problem.periodic} | dict.fromkeys(problem.symmetry, "mirrored")
        if self.scale_coords:
            kinds |= {c: "log" for c, scale in parameters.parameters(problem).items() if scale == "log"}
        for (bounds, kind), names in itertools.groupby(box, lambda c: (box[c], kinds[c])):
            yield bounds, kind, tuple(names)

    def _nested(self, ops: Any, params: Mapping[str, Array], at: Inputs, problem: Problem) -> Jet:
        """The channels of a network without Jets, by nested differentiation with respect to physical coordinates.

        A direction v is a coordinate s of its own, of value 0, along which the point moves: x + s v.
        """
        plan, names = at.plan, list(problem.coords)
        order = [*names, *(plan.laplacian if at.directions is not None else ())]

        def outputs(points: Array) -> Array:
            where = at.moved({s: points[i : i + 1] for i, s in enumerate(order)})
            return self._outputs(ops, params, lambda some: ops.concat([where[c] for c in some], 0), problem)

        second = [(c, c) for c in plan.laplacian]
        indices = list(dict.fromkeys([*plan.indices, *second]))
        points = at.together(names).value
        if len(order) > len(names):
            points = ops.concat([points, ops.zeros((len(order) - len(names), points.shape[1]), like=points)], 0)
        found = ops.nested(outputs, points, [tuple(order.index(c) for c in index) for index in indices])
        channels = dict(zip(indices, found, strict=True))
        laplacian = [sum(channels[i] for i in second)] if plan.laplacian else []
        return Jet(plan, [*(channels[i] for i in plan.indices), *laplacian])


@dataclass(frozen=True)
class Part:
    """Fields that depend on the same coordinates: one network."""

    prefix: str
    """Of its parameters: empty for the fields that depend on all coordinates, else the first field and a slash."""
    coords: tuple[str, ...]
    fields: tuple[str, ...]


def parts_of(problem: Problem) -> tuple[Part, ...]:
    """The networks of a problem, in the order of the fields."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in problem.fields:
        wanted = problem.depends.get(name, tuple(problem.coords))
        found.setdefault(tuple(c for c in problem.coords if c in wanted), []).append(name)
    whole = tuple(problem.coords)
    return tuple(Part("" if c == whole else f"{names[0]}/", c, tuple(names)) for c, names in found.items())


def _centred(x: Any, low: float, high: float) -> Any:
    """[low, high] -> [-1, 1]"""
    return (x - 0.5 * (low + high)) * (2.0 / (high - low))


def ansatz(
    problem: Problem,
    ops: JetOps,
    plan: Plan,
    at: Inputs,
    fields: Mapping[str, Jet],
    params: Mapping[str, Array],
) -> dict[str, Jet]:
    """The fields after the problem's ansatz (the method marked @hard), where it has one."""
    if not problem.ansatz_name():
        return dict(fields)
    problem = parameters.at(problem, at)
    unknowns = {u: ops.ops.reshape(params[UNKNOWN + u], (1, 1)) for u in problem.unknowns}
    given = getattr(problem, problem.ansatz_name())(AnsatzField(ops, problem, {**unknowns, **fields}, at))
    return {**fields, **{name: _jet(plan, value, at) for name, value in replaced(problem, given).items()}}


def replaced(problem: Problem, given: Any) -> Mapping[str, Any]:
    """What an ansatz returned, checked."""
    where = f"{type(problem).__name__}.{problem.ansatz_name()}"
    if not isinstance(given, Mapping) or not given:
        raise UserError(f'{where} must return {{field: value}}, for example {{"{problem.fields[0]}": …}}')
    for name in given:
        if name not in problem.fields:
            raise UserError(f"{where} returns {name!r}, which is no field{nearest(name, problem.fields)}")
    return given


def _jet(plan: Plan, value: Any, at: Inputs) -> Jet:
    """A Jet [1, samples], also where the ansatz returns a constant."""
    return value if isinstance(value, Jet) else next(iter(at.values())) * 0.0 + value


class AnsatzField(Field):
    """What the ansatz reads: the same names as Jets (or as whatever `values` holds), without derivatives.

    Coordinates come from `at`, where it is given.
    """

    def __init__(self, ops: Any, problem: Problem, values: Mapping[str, Any], at: Inputs | None = None) -> None:
        super().__init__(ops, problem, Region(), ())
        self._values, self._at = values, at

    def _value(self, field: str, index: Index) -> Any:
        if index:
            raise UserError(f"an ansatz is made of values, not of derivatives like the one of {field!r}")
        return self._values[field]

    def _column(self, name: str) -> Any:
        return self._values[name] if self._at is None else self._at[name]

    def _unknown(self, name: str) -> Any:
        return self._values[name]

    def _together(self, coords: Sequence[str]) -> Any:
        return self._at.together(coords) if self._at else super()._together(coords)

    def _laplacian(self, field: str) -> Any:
        raise UserError("an ansatz is made of values, not of derivatives")

    def _distance(self, shape: Shape, part: str, normalised: bool) -> Any:
        at = [self._column(c) for c in spatial(self._problem)]
        if isinstance(at[0], Jet):
            return distance(shape, part, self.ops, at, normalised)
        remains_of(shape, part)
        return at[0] * 0.0 + 1.0  # a dry run, where nobody looks at the numbers
