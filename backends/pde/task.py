"""A PDE problem as a task that backends train: terms, points, the yardstick.

`build(problem, parts)` runs the problem's terms once in numpy (`backends.pde.recorder`), checks the file's points
against them, and returns the task.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends import pointwise
from backends.data import Observations, Solution
from backends.derivatives.estimator import EstimatedLaplacian
from backends.derivatives.jets import Plan
from backends.errors import UserError, nearest
from backends.laws.projection import Projection
from backends.laws.reductions import Reduction
from backends.pde.adapt import Pointwise
from backends.pde.build import (
    Sets,
    check_ansatz,
    check_smooth,
    constants_of,
    recordings,
    representation,
    sets,
    terms_of,
)
from backends.pde.domain import shape_of
from backends.pde.estimate import VARIANCE, Estimator, Look, estimator, kinds, with_numbers
from backends.pde.extras import extended
from backends.pde.field import UNKNOWN, NetworkField, spatial
from backends.pde.given import observing, solution_in
from backends.pde.given_points import domain_of
from backends.pde.pictures import pictures
from backends.pde.recorder import Recording, evaluate
from backends.pde.reference import reference
from backends.pde.regions import Region, draw, faces
from backends.pde.representation import Representation
from backends.pde.value_pass import evaluated_together, value_batches
from backends.points.feed import PointFeed
from backends.randomness import generator
from backends.spec import structure
from backends.task import Batches, Context, Parts, Picture, Predict, Reference, Term

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Array = Any
RESIDUAL = "residual/"
"""`predict` also knows `residual/pde`: the values of a term, raw, at any points."""


@dataclass(frozen=True, eq=False)
class PdeTask:
    """A `backends.task.Task`: the batches are the problem's regions."""

    problem: Problem
    representation: Representation
    recordings: Mapping[str, Recording]
    terms: tuple[Term, ...]
    constants: Mapping[str, float]
    sets: Sets
    given: Reference | None = None
    """The solution in the user's file, which goes before the problem's own."""
    estimate: Estimator | None = None
    """Of Laplacians in training; None: exact."""
    reductions: Mapping[str, Reduction] = field(default_factory=dict)
    """Of the batches whose samples stand for many points: how the values there become one per sample."""
    projection: Projection | None = None
    """The laws that predictions are made to fulfil."""

    @property
    def unknowns(self) -> dict[str, float]:
        """The first guess of every constant that is trained."""
        return {name: self.problem.number(guess) for name, guess in self.problem.unknowns.items()}

    @property
    def signature(self) -> tuple[Hashable, ...] | None:
        """Everything that shapes a program (constants do not); None where own code keeps more than fields."""
        r = self.representation
        problem, network = structure(self.problem, self.constants), structure(r.network)
        if problem is None or network is None:
            return None
        plans = tuple((batch, recording.plan) for batch, recording in self.recordings.items())
        weights = tuple(w.signature for w in self.pointwise.values())
        scaling = (r.hard, r.scale_coords, tuple(sorted(r.scales.items())), shape_of(self.problem))
        chunks = tuple(sorted(self.sets.chunks.items()))
        reductions = tuple((batch, r.signature) for batch, r in self.reductions.items())
        return problem, network, scaling, plans, self.terms, chunks, self.estimate, weights, reductions

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.problem.fields)

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """The network's parameters and `unknown/<name>`, 0-d, at their first guess."""
        unknowns = {UNKNOWN + u: np.array(v, np.float64) for u, v in self.unknowns.items()}
        return {**self.representation.init(self.problem, rng), **unknowns}

    def aux(self) -> dict[str, NDArray[Any]]:
        return self.representation.network.aux() | pointwise.initial(self.pointwise)

    @cached_property
    def pointwise(self) -> Pointwise:
        """Batch -> the weights of its single points (`backends.pointwise`)."""
        return self.sets.pointwise(self.recordings, self.terms)

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Mapping[str, Array]:
        if batch in context.shared:
            return context.shared[batch]
        recording, look = self.recordings[batch], self._look(ops, params, batch, columns, context)
        if self.estimate and recording.laplacians and batch not in self.reductions:
            return self.estimate.values(ops, look, columns, recording, context)
        return look(recording.plan, None)

    @cached_property
    def together(self) -> tuple[str, ...]:
        """Batches that one pass can serve (`backends.pde.value_pass`)."""
        return value_batches(self.representation, self.recordings, self.reductions)

    def per_sample_together(
        self, ops: Any, params: Mapping[str, Array], batches: Mapping[str, Mapping[str, Array]], context: Context
    ) -> Mapping[str, Mapping[str, Array]]:
        """`per_sample` of several batches of `together`, by one pass through the network."""
        return evaluated_together(*self._bound(context), self.recordings, ops, params, batches)

    @property
    def estimated(self) -> Mapping[str, tuple[str, ...]]:
        """Batch -> its terms with an estimated Laplacian, whose `variance/<term>` `predict` knows."""
        names = self.estimate.terms if self.estimate else ()
        found = {b: tuple(t for t in r.names if t in names) for b, r in self.recordings.items()}
        return {batch: terms for batch, terms in found.items() if terms}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> Mapping[str, Array]:
        """Fields, derivatives (`u_x`), coordinates, unknowns, terms as `residual/<term>`, and of estimated ones
        `variance/<term>`; [samples] each."""
        missing = [c for c in self.problem.coords if c not in columns]
        if missing:
            raise UserError(f"predict: the coordinate {missing[0]!r} is missing; given: {', '.join(columns)}")
        values: dict[str, Array] = {}
        plain = [n for n in names if not n.startswith((RESIDUAL, VARIANCE))]
        if plain:
            problem, represented = self._bound(context)
            plan = Plan.closing([problem.vocabulary().parse(n, columns).index for n in plain])
            f = NetworkField(represented, ops, params, columns, plan, problem)
            count = columns[next(iter(problem.coords))].shape[0]
            values |= {n: ops.broadcast_to(f(n), (count,)) for n in plain}
        for batch in dict.fromkeys(self._batch_of(n) for n in names if n.startswith(RESIDUAL)):
            terms = self._look(ops, params, batch, columns, context)(self.recordings[batch].plan, None)
            values |= {RESIDUAL + term: _length(ops, value) for term, value in terms.items()}
        for batch in dict.fromkeys(self._batch_of(n) for n in names if n.startswith(VARIANCE)):
            if self.estimate is None:
                raise UserError("predict: no Laplacian is estimated here, so no term has a variance")
            look = self._look(ops, params, batch, columns, context)
            found = self.estimate.variance(ops, look, columns, self.recordings[batch], context)
            values |= {VARIANCE + term: value for term, value in found.items()}
        return {n: values[n] for n in names}

    def width(self, batch: str) -> int:
        recording = self.recordings[batch]
        points = recording.region.points
        plan = self.estimate.plan(recording) if self.estimate else recording.plan
        return plan.size * self.representation.network.widest() * points

    def reduced(self, batch: str) -> bool:
        return self.recordings[batch].reduced

    def chunk(self, batch: str) -> int | Literal["auto"] | None:
        return None if self.reduced(batch) else self.sets.chunks.get(batch, "auto")

    def feed(self, seed: int) -> PointFeed:
        return PointFeed(self.sets.samplings, seed)

    def held_out(self, count: int) -> Batches:
        """Uniform samples from the stream (0, "held out", region); regions keep their relative sizes."""
        largest = max(self.sets.counts.values())
        out = {}
        for batch, recording in self.recordings.items():
            pieces = 1 if recording.region.at or recording.region.nodes else len(faces(self.problem, recording.region))
            n = max(pieces, math.ceil(count * self.sets.counts[batch] / largest))
            rng = generator(0, "held out", batch)
            out[batch] = draw(self.problem, recording.region, recording.exact, n, "uniform", rng)
        return out

    def reference(self) -> Reference | None:
        return self._reference

    @cached_property
    def _reference(self) -> Reference | None:
        return self.given or reference(self.problem)

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """`unknown/kappa`, and `error/kappa`, relative to the truth, where the problem knows it."""
        truth = self.problem.true_values()
        out = {UNKNOWN + u: float(params[UNKNOWN + u]) for u in self.problem.unknowns}
        for u, value in truth.items():
            out[f"error/{u}"] = abs(out[UNKNOWN + u] - value) / (abs(value) or 1.0)
        return out

    def pictures(self, predict: Predict, samples: Batches | None = None) -> list[Picture]:
        return pictures(self, predict, samples)

    def inside(self) -> tuple[str, ...]:
        """The terms with a value at each point inside the box."""
        return tuple(t for r in self.recordings.values() if r.region.interior and not r.reduced for t in r.names)

    def _bound(self, context: Context) -> tuple[Problem, Representation]:
        """Problem and network as one call sees them: with traced constants (not validated), buffers, noise."""
        given = {name: value for name, value in context.constants.items() if "/" not in name}  # those are laws'
        problem = self.problem.model_copy(update=given)
        return problem, replace(self.representation, network=self.representation.network.bound(context))

    def _look(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Look:
        """The terms of a batch, raw, as a function of plan and directions."""
        recording, (problem, represented) = self.recordings[batch], self._bound(context)

        def densities(of: Recording, points: Mapping[str, Array]) -> Mapping[str, Any]:
            where = Region() if of.region.nodes else of.region
            return evaluate(problem, of, NetworkField(represented, ops, params, points, of.plan, problem, where))

        def look(plan: Plan, along: Array | None) -> Mapping[str, Any]:
            if reduction := self.reductions.get(batch):
                return reduction.values(ops, problem, recording, columns, densities, context.constants)
            f = NetworkField(represented, ops, params, columns, plan, problem, recording.region, along)
            return evaluate(problem, recording, f)

        return look

    def _batch_of(self, name: str) -> str:
        term = name.removeprefix(RESIDUAL).removeprefix(VARIANCE)
        for batch, recording in self.recordings.items():
            if term in recording.names:
                return batch
        raise UserError(f"predict: {name!r} is no term{nearest(term, [t.name for t in self.terms])}")


def build(problem: Problem, parts: Parts) -> PdeTask:
    """The task. Raises UserError where the file's parts do not fit the problem."""
    if parts.data is not None and not isinstance(parts.data, Observations):
        raise UserError(
            "an equation learns from measured values of its fields only: `data: {kind: observations, path: …}`",
            path="data.kind",
        )
    problem = domain_of(problem, parts)
    if parts.data is not None:
        problem = observing(problem, parts.data, parts.folder)
    given = solution_in(problem, parts.reference, parts.folder) if isinstance(parts.reference, Solution) else None
    hard = parts.constraints == "hard"
    if hard and not (problem.ansatz_name() or problem.periodic or problem.symmetry):
        raise UserError(
            f"{type(problem).__name__} has no method marked @hard and no periodic coordinate; allowed here: soft",
            path="constraints",
        )
    found = recordings(problem)
    check_smooth(parts.network, found)
    terms = terms_of(problem, found, hard)
    more = extended(problem, parts, found, terms)
    found, terms = more.recordings, more.terms
    if not any(t.trained for t in terms):
        raise UserError("the hard constraints fulfil every term: nothing is left to train", path="constraints")
    if hard:
        check_ansatz(problem, found)
    constants = constants_of(problem, found, hard) | dict(more.constants)
    points, estimate = sets(problem, parts, found, terms), None
    if isinstance(parts.laplacian, EstimatedLaplacian):
        drawn, pointed = points.samplings, {b: r for b, r in found.items() if b not in more.reductions}
        estimate = estimator(parts.laplacian, pointed, terms, spatial(problem))
        terms = kinds(terms, estimate)
        numbered = {b: with_numbers(drawn[b]) for b, r in pointed.items() if r.laplacians and b in drawn}
        points = replace(points, samplings={**drawn, **numbered})
    points.pointwise(found, terms)  # raises where points have nothing to weigh
    rest = given, estimate, more.reductions, more.projection
    return PdeTask(problem, representation(problem, parts), found, terms, constants, points, *rest)


def _length(ops: Any, value: Array | tuple[Array, ...]) -> Array:
    """The value of a term; the 2-norm of a vector residual."""
    return ops.sqrt(sum(v * v for v in value)) if isinstance(value, tuple) else value
