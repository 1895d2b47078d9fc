"""How point sets of a PDE change while it trains: `adapt` and `pointwise` of the file, checked against the terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backends.errors import UserError, nearest
from backends.names import NORMAL, PLACE
from backends.pde import parameters
from backends.pde.domain import beyond, shape_of, spatial
from backends.pde.recorder import Recording
from backends.pde.regions import Region, with_exact
from backends.points.feed import Sampling
from backends.points.resampling import spread
from backends.pointwise import Weighted, by_point, causal
from backends.spec import Adapt, Causal, Fresh, Points, Rad, Rard
from backends.task import Columns, Term

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Pointwise = Mapping[str, Weighted]


def adapted(
    problem: Problem, recording: Recording, sampling: Sampling, rule: Adapt, path: str, workers: int
) -> Sampling:
    """A set with its rule. Raises UserError where the rule does not suit the region."""
    region = recording.region
    if isinstance(rule, Fresh):
        if sampling.candidates is not None:
            raise UserError("a grid is the same at every draw; take another sampler, or `kind: rad`", path=path)
        return replace(sampling, adapt=rule)
    if recording.reduced:
        raise UserError(
            f"a term of {region.name} reduces itself, so there is no residual at a point; take `kind: fresh`", path=path
        )
    if not isinstance(rule.by, str):
        for name in rule.by:
            if name not in recording.names:
                told = nearest(name, recording.names)
                raise UserError(f"there is no term {name!r} in the region {region.name}{told}", path=f"{path}.by")
        if not rule.by:
            raise UserError("names no term; write `sum`, or the terms that decide", path=f"{path}.by")
    if isinstance(rule, Rad):
        return replace(sampling, adapt=rule)
    sampling = replace(sampling, adapt=rule)
    if sampling.size < sampling.count or (rule.capacity or sampling.size) < sampling.count:
        raise UserError(
            f"the capacity, {rule.capacity}, is below the {sampling.count} points at the start", path=f"{path}.capacity"
        )
    if sampling.size % workers:
        near = sampling.size + workers - sampling.size % workers
        raise UserError(
            f"a capacity of {sampling.size} points can't be dealt evenly to {workers} workers; take {near}",
            path=f"{path}.capacity",
        )
    if rule.spread and region.nodes:
        raise UserError(f"points of {region.name} would leave their nodes; remove it", path=f"{path}.spread")
    if rule.spread:
        sampling = replace(sampling, moved=partial(_moved, problem, region, recording.exact, rule))
    return sampling


def _moved(
    problem: Problem, region: Region, exact: Sequence[str], rule: Rard, columns: Columns, rng: np.random.Generator
) -> Columns:
    """Points at random distances from the given ones, along every coordinate that their face leaves free.

    In space, one that would leave the geometry stays where it is.
    """
    box, out = problem.box(), dict(columns)
    space = spatial(problem)
    held = {c for c, _ in region.where}
    if region.on and shape_of(problem) is not None:
        held |= set(space)  # the boundary is curved: only times and parameters move
    for c, (low, high) in box.items():
        if c in held:
            continue
        if c in parameters.parameters(problem):
            near = spread(parameters.unit(problem, c, columns[c]), 0.0, 1.0, rule.spread, rule.noise, rng)
            out[c] = parameters.spread(problem, c, near)
            continue
        moved = spread(columns[c], low, high, rule.spread, rule.noise, rng)
        out[c] = np.where(columns[NORMAL + c] != 0, columns[c], moved) if NORMAL + c in columns else moved
    left = beyond(problem, out)
    out |= {c: np.where(left, columns[c], out[c]) for c in space}
    return with_exact(problem, out, exact)


def with_places(problem: Problem, recording: Recording, sampling: Sampling, points: Points, path: str) -> Sampling:
    """A set with the places of its points' weights. Raises UserError where there is nothing to weigh."""
    spec, region = points.pointwise, recording.region
    if spec is None:
        return sampling
    if recording.reduced:
        raise UserError(
            f"a term of {region.name} reduces itself, so single points have no weight in it", path=f"{path}.pointwise"
        )
    if isinstance(spec, Causal):
        time = problem.time
        if not time:
            raise UserError(
                f'causal weights need a time, and {type(problem).__name__} declares none (`time = "t"` in its class); '
                "allowed here: attention, self_adaptive",
                path=f"{path}.pointwise.kind",
            )
        if any(c == time for c, _ in region.where):
            raise UserError(
                f"causal weights need points at several times, and {region.name} has one", path=f"{path}.pointwise.kind"
            )
        low, high = problem.box()[time]
        return replace(
            sampling, places=lambda columns: {PLACE: causal.windows(spec, np.asarray(columns[time]), low, high)}
        )
    return replace(sampling, places=lambda columns: {PLACE: by_point.places(len(next(iter(columns.values()))))})


def weighted(
    found: Mapping[str, Recording],
    samplings: Mapping[str, Sampling],
    asked: Mapping[str, tuple[str, Points]],
    terms: Sequence[Term],
) -> Pointwise:
    """The sets whose points have weights. Raises UserError where a set has no residual to weigh."""
    out = {}
    for batch, (key, points) in asked.items():
        if points.pointwise is None or batch not in samplings:
            continue
        scales = {t.name: t.scale for t in terms if t.batch == batch and t.trained and t.kind == "residual"}
        if not scales:
            raise UserError(
                f"the region {found[batch].region.name} has no residual, only losses, whose points have no weights",
                path=f"points.{key}.pointwise",
            )
        name = next(iter(scales))
        out[batch] = Weighted(batch, name, points.pointwise, tuple(scales.items()), samplings[batch].size)
    return out
