"""Gauss-Newton stages: `backends.gauss_newton` in Python over recorded functions of losses, rows, products, solves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from backends import gauss_newton
from backends.chunks import divisors
from backends.gauss_newton import solving
from backends.stages import GaussNewton
from backends.task import Context
from backends.torch.device import default_dtype
from backends.torch.jacobian import Residuals, residuals
from backends.torch.objective import Objective, term_means
from backends.torch.ops import OPS
from backends.torch.process_group import gathered, total
from backends.torch.program import Group, Program, Work
from backends.torch.samples import Batch, columns, cut
from backends.torch.state import State

Tensor = torch.Tensor
Tensors = Mapping[str, Tensor]
Samples = Mapping[str, tuple[Tensors, int]]
"""Per batch its columns, and how many samples it has on this worker in all passes."""
Tree = Any
ValueAndGradient = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def init(stage: GaussNewton, x: Tensor) -> dict[str, Tensor]:
    """The state before the first iteration. Raises UserError where there are too many parameters."""
    if stage.solver == "dense":
        solving.check_size(x.numel(), "parameters", "dense")
    return gauss_newton.init(OPS, x)


def advancing(
    program: Program, state: State, batches: Sequence[Batch], first: Tensor, value_and_gradient: ValueAndGradient
) -> Callable[[int, Tensor], tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]]:
    """(step, row of knobs) -> one iteration from `state`, as `backends.gauss_newton.iteration` gives it.

    `first`: any row of knobs. Raises UserError where the matrix that the stage asks for is too large.
    """
    stage, row_of = program.stage, program.objective.row
    assert isinstance(stage, GaussNewton)
    terms, world = len(program.objective.terms), program.objective.world
    work = replace(program.work(state, batches, terms), x=state.x.clone())
    n = work.x.numel()
    solver = solving.chosen(stage, _count(program, work, first) * world.size, n)
    levels = _Summed(program, work, "level", _level, work.x.new_zeros(terms))
    grams = _Summed(program, work, "gram", _gram, work.x.new_zeros((n, n) if solver == "dense" else 0))
    products = _Summed(program, work, "product", _product, work.x.new_zeros(n))
    squares_only = all(t.kind == "residual" for t in program.objective.terms)

    def assemble(i: int, row: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, solving.Curvature]:
        losses, f, g = value_and_gradient(i, row, x)
        if solver == "cg":
            return losses, f, g, solving.Free(lambda v: total(products.at(i, row, x, v), world))
        if solver == "dense":
            return losses, f, g, solving.Dense(total(grams.at(i, row, x), world))
        work.x.copy_(x)
        pieces = [_bound(program, work, "rows", _rows, group, (row,))(i, row) for group in _groups(program, work)]
        J, rho = (gathered(torch.cat(list(part)), world) for part in zip(*pieces, strict=True))
        rest = torch.zeros_like(x) if squares_only else 0.5 * g - rho @ J
        return losses, f, g, solving.Samples(J, solving.gram(OPS, J.T), rho, rest)

    def value(i: int, row: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        losses = total(levels.at(i, row, x), world)
        return losses, torch.sum(row_of.part(row, "weight/").to(losses.dtype) * losses)

    def solve(stage: GaussNewton, ops: Any, known: solving.Curvature, *arguments: Tensor) -> Tensor:
        if isinstance(known, solving.Free):
            return solving.solve(stage, ops, known, *arguments)
        p, key = program, ("solve", stage.kind, solver)
        given = (known, *arguments)
        traced = p.functions.get(f"solve/{stage.name}", key, partial(solving.solve, stage, ops), given, p.dtype, False)
        return traced(*given)

    def advance(i: int, row: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
        problem = gauss_newton.Problem(partial(assemble, i, row), partial(value, i, row))
        knobs = row_of.knobs(row, program.dtype)
        return gauss_newton.iteration(
            stage, OPS, problem, state.x, state.optimizer, knobs["damping"], knobs["momentum"], solve=solve
        )

    return advance


def _groups(program: Program, work: Work, *, squares: bool = True) -> list[Group]:
    """The calls over all samples; with `squares` only those that have residuals."""
    groups = [*work.passes, work.rest]
    return [g for g in groups if any(not squares or residuals(program.objective, b) for b in g.counts)]


@dataclass(frozen=True)
class _Summed:
    """A function that adds to `into` for each call over the samples."""

    program: Program
    work: Work
    what: str
    function: Callable[..., None]
    into: Tensor

    def at(self, i: int, row: Tensor, x: Tensor, *more: Tensor) -> Tensor:
        """The sum of step i at x; it stays valid until the next call."""
        self.work.x.copy_(x)
        self.into.zero_()
        for group in _groups(self.program, self.work, squares=self.what != "level"):
            _bound(self.program, self.work, self.what, self.function, group, (row, *more), self.into)(i, row, *more)
        return self.into.clone()


def _bound(
    program: Program,
    work: Work,
    what: str,
    fn: Callable[..., Any],
    group: Group,
    middle: tuple[Tensor, ...],
    *into: Any,
) -> Any:
    """`fn(objective, samples, x, frozen, aux, seed, row, *more, *into)`, recorded for these samples."""
    objective, counts = program.objective, group.counts

    def call(x: Tensor, frozen: Tree, aux: Tree, seed: Tensor, into: Tree, fixed: Tree, *rest: Tree) -> Tree:
        row, *more = rest[:-1]
        samples = {name: (columns(fixed[name], rest[-1][name]), n) for name, n in counts.items()}
        found = fn(objective, samples, x, frozen, aux, seed, row, *more, *into)
        return () if found is None else found

    head = (work.x, work.state.frozen, work.state.aux, work.seed, list(into), group.fixed)
    return program.bound(what, call, head, middle, group, next(iter(counts)) if len(counts) == 1 else "")


def _level(
    objective: Objective, samples: Samples, x: Tensor, frozen: Tree, aux: Tree, seed: Tensor, row: Tensor, into: Tensor
) -> None:
    """Adds the losses."""
    knobs, o = objective.row.knobs(row, x.dtype), objective
    constants = {k.removeprefix("task/"): v for k, v in knobs.items() if k.startswith("task/")}
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for batch, (given, count) in samples.items():
            context = Context(constants, aux, (seed, o.row.step(row)))
            found |= term_means(o.task, o.terms, {**frozen, **o.layout.views(x)}, batch, given, context, count)
    means = [found[t.name] / o.world.size if t.name in found else x.new_zeros(()) for t in o.terms]
    into.add_(torch.stack(means))


def _gram(
    objective: Objective, samples: Samples, x: Tensor, frozen: Tree, aux: Tree, seed: Tensor, row: Tensor, into: Tensor
) -> None:
    """Adds J'J, in parts of at most `solving.BLOCK_BYTES`."""
    for batch, (given, count) in _with_residuals(objective, samples):
        here = Residuals(objective, batch, count, frozen, aux, row, seed)
        size = next(iter(given.values())).shape[0]
        most = max(1, solving.BLOCK_BYTES // (x.numel() * x.element_size() * len(here.names)))
        parts = size // max(d for d in divisors(size) if d <= most)
        for part in [given] if here.reduced else cut(given, parts):
            into.add_(solving.gram(OPS, here.rows(x, part)[0]))


def _rows(
    objective: Objective, samples: Samples, x: Tensor, frozen: Tree, aux: Tree, seed: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """(J, rho) of all batches, one after the other."""
    found = [
        Residuals(objective, batch, count, frozen, aux, row, seed).rows(x, given)
        for batch, (given, count) in _with_residuals(objective, samples)
    ]
    return torch.cat([J for J, _ in found]), torch.cat([rho for _, rho in found])


def _product(
    objective: Objective,
    samples: Samples,
    x: Tensor,
    frozen: Tree,
    aux: Tree,
    seed: Tensor,
    row: Tensor,
    v: Tensor,
    into: Tensor,
) -> None:
    """Adds J'J v."""
    for batch, (given, count) in _with_residuals(objective, samples):
        into.add_(Residuals(objective, batch, count, frozen, aux, row, seed).product(x, v, given))


def _with_residuals(objective: Objective, samples: Samples) -> list[tuple[str, tuple[Tensors, int]]]:
    return [(batch, given) for batch, given in samples.items() if residuals(objective, batch)]


def _count(program: Program, work: Work, row: Tensor) -> int:
    """Rows of this worker."""
    rows = 0
    for group in _groups(program, work):
        for batch, count in group.counts.items():
            if residuals(program.objective, batch):
                given = columns(group.fixed[batch], group.now[0][batch])
                here = Residuals(program.objective, batch, count, work.state.frozen, work.state.aux, row, work.seed)
                with torch.no_grad(), default_dtype(program.dtype):
                    rows += here.values(work.x, given).numel()
    return rows
