"""How a problem and the parts of an experiment file become a task: terms, point sets, and checks of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from backends.blame import blamed, blaming
from backends.chunks import chunk_size
from backends.derivatives.towers import smooth
from backends.errors import UserError, nearest
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.adapt import Pointwise, adapted, weighted, with_places
from backends.pde.domain import clouds_of, shape_of
from backends.pde.field import UNKNOWN, NetworkField
from backends.pde.given import REGION
from backends.pde.given_points import points_in
from backends.pde.recorder import Recording, evaluate, record, record_ansatz
from backends.pde.regions import Region, draw, shared_evenly, single_points, with_exact
from backends.pde.representation import Representation
from backends.points.feed import Sampling
from backends.points.samplers import Sampler
from backends.randomness import generator
from backends.spec import Points
from backends.task import Columns, Parts, Term, parts_of

if TYPE_CHECKING:
    from backends.pde.problem import Problem

INSIDE, ELSEWHERE = 2000, 200
"""Points of a set that the file says nothing about: inside the box, and on a part of its boundary."""
SAMPLES = 32
"""The least samples of a set whose samples stand for many points (times of an integral)."""


@dataclass(frozen=True)
class Sets:
    """The sets of points, by batch."""

    samplings: Mapping[str, Sampling]
    """Of the batches that are trained on."""
    counts: Mapping[str, int]
    """Samples of every batch, trained on or not."""
    chunks: Mapping[str, Literal["auto"] | int]
    asked: Mapping[str, tuple[str, Points]] = field(default_factory=dict)
    """What the file says of a batch, and under which term."""

    def pointwise(self, found: Mapping[str, Recording], terms: Sequence[Term]) -> Pointwise:
        """The sets whose points have weights of their own."""
        return weighted(found, self.samplings, self.asked, terms)


def recordings(problem: Problem) -> dict[str, Recording]:
    """Every region's terms, run once in numpy on a few of its samples."""
    out = {}
    for batch, (region, methods) in problem.regions().items():
        # The stream is PointFeed's for fixed sets: the columns are those that training will see.
        columns = draw(problem, region, (), 3, "uniform", generator(0, "fixed points", batch))
        if region.at:
            with blamed(problem, region.at):
                _check_columns(problem, columns)
        out[batch] = record(problem, region, methods, columns)
    return out


def _check_columns(problem: Problem, columns: Columns) -> None:
    vocabulary = problem.vocabulary()
    for name in columns:
        if name not in problem.coords and (name in vocabulary.unknowns or vocabulary.field_or_derivative(name)):
            raise UserError(f"the column {name!r} hides what {name!r} means in a term already; rename the column")


def constants_of(problem: Problem, found: Mapping[str, Recording], hard: bool) -> dict[str, float]:
    """The float fields that terms or ansatz read, with their values."""
    read = frozenset().union(*(r.constants for r in found.values()))
    if hard and problem.ansatz_name():
        read |= record_ansatz(problem)
    return {name: value for name, value in problem.floats().items() if name in read}


def terms_of(problem: Problem, found: Mapping[str, Recording], hard: bool) -> tuple[Term, ...]:
    """All terms in the order in which their methods are defined."""
    fulfilled = problem.fulfilled() if hard else frozenset()
    terms = []
    for method, mark in problem.declared().items():
        batch = problem.region(method).name
        scale = problem.number(mark.scale)
        terms += [Term(n, mark.kind, batch, scale, method not in fulfilled) for n in found[batch].terms[method]]
    return tuple(terms)


def representation(problem: Problem, parts: Parts) -> Representation:
    """The network as the fields, scaled as problem and file say (the file wins)."""
    for name in parts.scale_fields:
        if name not in problem.fields:
            raise UserError(f"{name!r} is no field{nearest(name, problem.fields)}", path="scaling.fields")
    if problem.depends and not parts.network.jets:
        raise UserError(
            "fields that depend on some coordinates only (`depends`) are networks of their own; take one of the "
            "networks that ship, not a module",
            path="network.kind",
        )
    scales = {f: problem.number(s) for f, s in problem.scales.items()} | dict(parts.scale_fields)
    return Representation(parts.network, parts.constraints == "hard", parts.scale_coords, scales)


def check_smooth(network: Any, found: Mapping[str, Recording]) -> None:
    """Raises UserError where the network's activation has too few derivatives for a term."""
    name = getattr(network, "activation", "tanh")
    for recording in found.values():
        if network.jets and not smooth(name) and recording.plan.order > 1:
            raise UserError(
                f"{name} has no derivative beyond the first (its second is zero wherever there is one), and "
                f"{' and '.join(recording.terms)} on {recording.region.name} "
                f"{'reads' if len(recording.terms) == 1 else 'read'} derivatives up to order {recording.plan.order}: "
                "they would be zero for every choice of the parameters; take tanh, sin, gelu or silu",
                path="network.activation",
            )


def check_ansatz(problem: Problem, found: Mapping[str, Recording]) -> None:
    """Raises UserError where a term that @hard names is not zero for a network with arbitrary parameters."""
    rng = generator(0, "ansatz")
    stand_in = Representation(MLP(width=8, depth=1, activation="sin"), hard=True)
    params = stand_in.init(problem, rng)
    params |= {UNKNOWN + u: np.array(problem.number(v)) for u, v in problem.unknowns.items()}
    for batch, recording in found.items():
        for method in (m for m in recording.terms if m in problem.fulfilled()):
            columns = draw(problem, recording.region, recording.exact, 16, "uniform", generator(0, "ansatz", batch))
            f = NetworkField(stand_in, NumpyOps(), params, columns, recording.plan, problem, recording.region)
            with np.errstate(all="ignore"):
                values = evaluate(problem, replace(recording, terms={method: recording.terms[method]}), f)
            worst = max(float(np.max(np.abs(part))) for v in values.values() for part in parts_of(v))
            if not worst < 1e-6:
                raise UserError(
                    f"{type(problem).__name__}: the hard constraints do not fulfil the term {method!r}, whose residual "
                    f"reaches {worst:.2g} for a network with arbitrary weights. Correct the ansatz, or leave the term "
                    "out of @hard(…)",
                    path="constraints",
                )


def sets(problem: Problem, parts: Parts, found: Mapping[str, Recording], terms: Sequence[Term]) -> Sets:
    """The point sets: what the file says for each region, else defaults."""
    asked = _asked(parts.points, found, terms)
    samplings, counts = {}, {}
    for batch, recording in found.items():
        key, points = asked.get(batch, (batch, None))
        sampling = _sampling(problem, recording, key, points, parts)
        scales = {t.name: t.scale for t in terms if t.batch == batch}
        sampling = replace(sampling, scales=scales)
        if points and points.pointwise:
            sampling = with_places(problem, recording, sampling, points, f"points.{key}")
        counts[batch] = sampling.size
        if any(t.trained and t.batch == batch for t in terms):
            samplings[batch] = sampling
    for batch, (key, points) in asked.items():
        if isinstance(points.chunk, int) and found[batch].reduced:
            raise UserError(
                f"a term on {batch} reduces itself to one number (f.ops.mean), which parts of the samples can't give "
                "one after the other; remove `chunk`, or return one value per sample",
                path=f"points.{key}.chunk",
            )
        try:
            chunk_size(counts[batch] // parts.workers, points.chunk, 1, 1, "cpu", per_call=False)
        except UserError as error:
            raise UserError(str(error), path=f"points.{key}.chunk") from None
    return Sets(samplings, counts, {batch: points.chunk for batch, (_, points) in asked.items()}, asked)


def _asked(
    given: Mapping[str, Points], found: Mapping[str, Recording], terms: Sequence[Term]
) -> dict[str, tuple[str, Points]]:
    """Batch -> (the key in the file, its points). Terms of one region share one set."""
    methods = {m: batch for batch, r in found.items() for m in r.terms}
    trained = {t.name for t in terms if t.trained}
    trained |= {m for r in found.values() for m, names in r.terms.items() if trained & set(names)}
    asked: dict[str, tuple[str, Points]] = {}
    for key, points in given.items():
        batch = methods.get(key) or next((t.batch for t in terms if t.name == key), None)
        if batch is None:
            raise UserError(f"there is no term {key!r}{nearest(key, methods)}", path=f"points.{key}")
        if key not in trained:
            raise UserError(
                f"the term {key!r} is fulfilled by `constraints: hard` and has no points; remove it here",
                path=f"points.{key}",
            )
        if batch in asked and asked[batch][1] != points:
            raise UserError(
                f"the terms {asked[batch][0]!r} and {key!r} share one set of points ({batch}), which can't be "
                "described in two ways; say it once",
                path=f"points.{key}",
            )
        asked.setdefault(batch, (key, points))
    return asked


def _sampling(problem: Problem, recording: Recording, key: str, points: Points | None, parts: Parts) -> Sampling:
    region, path, workers = recording.region, f"points.{key}", parts.workers
    if region.at:
        return _given(problem, recording, path, points, workers)
    if points and points.path:
        with blaming(f"{path}.path"):
            listed = clouds_of(problem).get(region.on) or points_in(parts.folder / points.path, problem, region)
            return _listed(problem, recording, listed, workers)
    single = single_points(problem, region)
    usual = single or (INSIDE if region.interior else ELSEWHERE)
    if region.nodes and not single:
        usual = max(SAMPLES, INSIDE // region.points)
    count = points.count if points and points.count else usual * workers if single else -(-usual // workers) * workers
    if count % workers:
        near = count - count % workers
        told = " or ".join(str(n) for n in (near, near + workers) if n)
        raise UserError(f"{count} points can't be dealt evenly to {workers} workers; take {told}", path=f"{path}.count")
    if single and count % single:
        raise UserError(f"{region.name} has {single} points; take a multiple of it, not {count}", path=f"{path}.count")
    adapt = points.adapt if points else None
    if single and adapt:
        raise UserError(f"{region.name} is a single point, which can't be adapted; remove it", path=f"{path}.adapt")
    if region.interior and not adapt:
        adapt = parts.adapt
    sampler = points.sampler if points else "uniform"
    if sampler == "grid" and shape_of(problem) is not None:
        raise UserError("a geometry is not filled by a grid; take sobol, which is as even", path=f"{path}.sampler")
    uniform = partial(_drawn, problem, region, recording.exact, "uniform")
    sampling = Sampling(
        count,
        partial(_drawn, problem, region, recording.exact, sampler),
        candidates=uniform if adapt and sampler == "grid" else None,
    )
    if adapt is None:
        return sampling
    where = f"{path}.adapt" if points and points.adapt else "points.adapt"
    return adapted(problem, recording, sampling, adapt, where, workers)


def _given(problem: Problem, recording: Recording, path: str, points: Points | None, workers: int) -> Sampling:
    """The user's own region: a fixed set."""
    region = recording.region

    def draws(count: int, rng: np.random.Generator) -> Columns:
        return shared_evenly(draw(problem, region, recording.exact, count, "uniform", rng), workers)

    columns = draw(problem, region, (), 1, "uniform", generator(0, "fixed points", region.name))
    rows = len(next(iter(columns.values())))
    whose = "the file of observations has" if region.at == REGION else f"the method {region.at} returns"
    if points and points.path:
        raise UserError(f"{whose} the points of this term; remove `path`", path=f"{path}.path")
    if points and points.count != rows:
        raise UserError(f"{whose} {rows} samples; remove this, or say {rows}", path=f"{path}.count")
    if points and points.adapt:
        raise UserError(f"the samples of {region.at} are given and can't be adapted; remove it", path=f"{path}.adapt")
    return Sampling(math.lcm(rows, workers), draws, fixed=True)


def _listed(problem: Problem, recording: Recording, columns: Columns, workers: int) -> Sampling:
    """The points of a file: a fixed set."""
    shared = shared_evenly(with_exact(problem, columns, recording.exact), workers)
    return Sampling(len(next(iter(shared.values()))), lambda count, rng: shared, fixed=True)


def _drawn(
    problem: Problem, region: Region, exact: Sequence[str], sampler: Sampler, count: int, rng: np.random.Generator
) -> Columns:
    return draw(problem, region, exact, count, sampler, rng)
