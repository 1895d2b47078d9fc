"""How a network stands for the fields of a problem: scaling, periodic features, and the ansatz of hard constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.errors import UserError, nearest
from backends.field import UNKNOWN, Field
from backends.jets import Jet, JetOps, Plan, seed
from backends.names import Index
from backends.regions import Region

if TYPE_CHECKING:
    from backends.networks.network import Network
    from backends.problem import Problem

Array = Any


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
