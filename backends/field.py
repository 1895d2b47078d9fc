"""What a residual reads: values and derivatives of the fields by name, coordinates, columns, unknown constants.

`f("u", "u_xx", "x", "kappa")` in the order asked for, `f.d("u", "x", "x")`, `f.laplacian("u")` (over all coordinates
but time), `f.ends("u")` at both ends of a periodic coordinate, and functions through `f.ops`. Everything is one
value per sample. `Field` understands the names; its subclasses say where the numbers come from: the network
(`NetworkField`), a numpy function (`backends.finite_difference`), nowhere yet (`backends.recorder`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.errors import UserError, nearest
from backends.jets import Jet, JetOps, Plan, seed
from backends.names import Index, Name
from backends.regions import Region

if TYPE_CHECKING:
    from backends.networks.network import Network
    from backends.problem import Problem

Array = Any
UNKNOWN = "unknown/"
"""Prefix of the parameters that are the problem's unknown constants."""


class Field:
    """The names; a subclass gives the numbers by `_value`, `_column`, `_unknown`, `_laplacian` and `_split`."""

    def __init__(self, ops: Any, problem: Problem, region: Region, columns: Collection[str]) -> None:
        self.ops = ops
        self._problem, self._region, self._columns = problem, region, columns
        self._vocabulary = problem.vocabulary()

    def __call__(self, *names: str) -> Any:
        """The values of one name, or a tuple of several, [samples] each (unknown constants: 0-d)."""
        return self._each(names, self._read)

    def d(self, field: str, *coords: str) -> Array:
        """A derivative in its plain form: `f.d("u", "x", "x")` is `f("u_xx")`."""
        return self._read(self._vocabulary.derivative(field, coords))

    def laplacian(self, field: str) -> Array:
        """The sum of the second derivatives over all coordinates but time."""
        self._vocabulary.derivative(field, ())
        self._not_at_both_ends(field)
        return self._laplacian(field)

    def ends(self, *names: str) -> Any:
        """(low, high): values at both ends of the periodic coordinate, for the same other coordinates."""
        if not self._region.periodic:
            raise UserError('f.ends needs a term that compares two ends: mark it @residual(x="periodic")')
        return self._each(names, self._read_ends)

    def _each(self, names: Sequence[str], read: Any) -> Any:
        if not names:
            raise UserError("f() needs at least one name")
        values = tuple(read(self._vocabulary.parse(n, self._columns)) for n in names)
        return values[0] if len(values) == 1 else values

    def _read(self, name: Name) -> Array:
        if name.kind == "field":
            self._not_at_both_ends(name.base)
            return self._value(name.base, name.index)
        if name.kind == "unknown":
            return self._unknown(name.base)
        if name.base == self._region.periodic:
            raise UserError(f"{name.base!r} has two values in a periodic term; ask for f.ends({name.base!r})")
        return self._column(name.base)

    def _read_ends(self, name: Name) -> tuple[Array, Array]:
        if name.kind == "field":
            return self._split(self._value(name.base, name.index))
        if name.base == self._region.periodic:
            low, high = self._problem.box()[name.base]
            zero = 0.0 * self._column(name.base)
            return zero + low, zero + high
        value = self._read(name)
        return value, value

    def _not_at_both_ends(self, name: str) -> None:
        if self._region.periodic:
            raise UserError(f"{name!r} has two values in a periodic term; ask for f.ends({name!r})")

    def _value(self, field: str, index: Index) -> Array:
        raise TypeError(f"{type(self).__name__} gives no field values")

    def _column(self, name: str) -> Array:
        raise TypeError(f"{type(self).__name__} gives no columns")

    def _unknown(self, name: str) -> Array:
        raise TypeError(f"{type(self).__name__} gives no unknown constants")

    def _laplacian(self, field: str) -> Array:
        return sum(self._value(field, (c, c)) for c in spatial(self._problem))

    def _split(self, value: Array) -> tuple[Array, Array]:
        """[2 samples] -> the values at the low and at the high end."""
        low, high = self.ops.unstack(self.ops.reshape(value, (2, value.shape[0] // 2)), 0)
        return low, high


def spatial(problem: Problem) -> tuple[str, ...]:
    """The coordinates of a Laplacian: all but time. Raises UserError where there are none."""
    coords = tuple(c for c in problem.coords if c != problem.time)
    if not coords:
        raise UserError("a Laplacian needs a coordinate besides time")
    return coords


@dataclass(frozen=True)
class Representation:
    """How the network stands for the fields: scaled (or periodic) inputs, scaled outputs, and the ansatz."""

    network: Network
    hard: bool = False
    scale_coords: bool = True
    scales: Mapping[str, float] = field(default_factory=dict)
    """Field -> what the network's output is multiplied by; default 1."""

    def inputs(self, problem: Problem) -> int:
        """Features that the network sees."""
        return len(problem.coords) + (len(problem.periodic) if self.hard else 0)

    def fields(
        self, ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array], plan: Plan, problem: Problem
    ) -> dict[str, Jet]:
        """Every field as a Jet [1, samples] in physical units, hard constraints applied."""
        at = seed(plan, ops, {c: columns[c] for c in problem.coords})
        jet_ops = JetOps(ops, plan)
        if self.network.jets:
            out = self.network.apply(jet_ops, params, self._features(jet_ops, at, problem))
        else:
            out = self._nested(ops, params, at, plan, problem)
        fields = {}
        for i, name in enumerate(problem.fields):
            scale = self.scales.get(name, 1.0)
            fields[name] = out[i : i + 1] if scale == 1.0 else out[i : i + 1] * scale
        return ansatz(problem, jet_ops, plan, at, fields, params) if self.hard else fields

    def _features(self, ops: Any, at: Mapping[str, Any], problem: Problem) -> Any:
        """Coordinates on [-1, 1], periodic ones as cos and sin: the derivatives of a Jet carry the scaling along."""
        parts = []
        for c, (low, high) in problem.box().items():
            if self.hard and c in problem.periodic:
                angle = (at[c] - low) * (2.0 * math.pi / (high - low))
                parts += [ops.cos(angle), ops.sin(angle)]
            elif self.scale_coords:
                parts.append((at[c] - 0.5 * (low + high)) * (2.0 / (high - low)))
            else:
                parts.append(at[c])
        return ops.features(parts)

    def _nested(
        self, ops: Any, params: Mapping[str, Array], at: Mapping[str, Jet], plan: Plan, problem: Problem
    ) -> Jet:
        """The channels of a network without Jets, by nested differentiation with respect to physical coordinates."""
        names = list(problem.coords)

        def outputs(points: Array) -> Array:
            rows = {c: points[i : i + 1] for i, c in enumerate(names)}
            return self.network.apply(ops, params, self._features(ops, rows, problem))

        second = [(c, c) for c in plan.laplacian]
        indices = list(dict.fromkeys([*plan.indices, *second]))
        points = ops.concat([at[c].value for c in names], 0)
        found = ops.nested(outputs, points, [tuple(names.index(c) for c in index) for index in indices])
        channels = dict(zip(indices, found, strict=True))
        laplacian = [sum(channels[i] for i in second)] if plan.laplacian else []
        return Jet(plan, [*(channels[i] for i in plan.indices), *laplacian])


def ansatz(
    problem: Problem,
    ops: JetOps,
    plan: Plan,
    at: Mapping[str, Jet],
    fields: Mapping[str, Jet],
    params: Mapping[str, Array],
) -> dict[str, Jet]:
    """The fields after the problem's ansatz (the method marked @hard), where it has one."""
    if not problem.ansatz_name():
        return dict(fields)
    unknowns = {u: ops.ops.reshape(params[UNKNOWN + u], (1, 1)) for u in problem.unknowns}
    given = getattr(problem, problem.ansatz_name())(AnsatzField(ops, problem, {**unknowns, **at, **fields}))
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


def _jet(plan: Plan, value: Any, at: Mapping[str, Jet]) -> Jet:
    """A Jet [1, samples], also where the ansatz returns a constant."""
    return value if isinstance(value, Jet) else next(iter(at.values())) * 0.0 + value


class AnsatzField(Field):
    """What the ansatz reads: the same names as Jets (or as whatever `values` holds), without derivatives."""

    def __init__(self, ops: Any, problem: Problem, values: Mapping[str, Any]) -> None:
        super().__init__(ops, problem, Region(), ())
        self._values = values

    def _value(self, field: str, index: Index) -> Any:
        if index:
            raise UserError(f"an ansatz is made of values, not of derivatives like the one of {field!r}")
        return self._values[field]

    def _column(self, name: str) -> Any:
        return self._values[name]

    def _unknown(self, name: str) -> Any:
        return self._values[name]

    def _laplacian(self, field: str) -> Any:
        raise UserError("an ansatz is made of values, not of derivatives")


class NetworkField(Field):
    """Numbers from the network: one pass with the derivative channels of `plan` serves all terms of a region."""

    def __init__(
        self,
        representation: Representation,
        ops: Any,
        params: Mapping[str, Array],
        columns: Mapping[str, Array],
        plan: Plan,
        problem: Problem,
        region: Region = Region(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(ops, problem, region, columns)
        self._params, self._given, self._plan = params, columns, plan
        points = both_ends(ops, problem, region, columns) if region.periodic else columns
        self._samples = points[next(iter(problem.coords))].shape[0]
        self._fields = representation.fields(ops, params, points, plan, problem)

    def _value(self, field: str, index: Index) -> Array:
        return self._dense(self._fields[field], self._fields[field].at(index))

    def _laplacian(self, field: str) -> Array:
        if not self._plan.laplacian:
            return super()._laplacian(field)
        return self._dense(self._fields[field], self._fields[field].at("laplacian"))

    def _dense(self, jet: Jet, channel: Array | None) -> Array:
        if channel is None:
            return self.ops.zeros((self._samples,), like=jet.value)
        return self.ops.broadcast_to(channel, (1, self._samples))[0]

    def _column(self, name: str) -> Array:
        return self._given[name]

    def _unknown(self, name: str) -> Array:
        return self._params[UNKNOWN + name]


def both_ends(ops: Any, problem: Problem, region: Region, columns: Mapping[str, Array]) -> dict[str, Array]:
    """The samples of a periodic region twice, at the low and at the high end: [2 samples]."""
    points = {c: ops.concat([columns[c], columns[c]], 0) for c in problem.coords}
    c = region.periodic
    low, high = problem.box()[c]
    points[c] = ops.concat([0.0 * columns[c] + low, 0.0 * columns[c] + high], 0)
    return points
