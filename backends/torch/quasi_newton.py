"""Second-order stages, iteration by iteration: `backends.quasi` and `backends.gauss_newton` over recorded functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from backends import quasi
from backends.protocol import Steps
from backends.stages import GaussNewton, Lbfgs, SsBroyden
from backends.torch import gauss_newton
from backends.torch.device import fetch, own_generator
from backends.torch.ops import OPS
from backends.torch.program import Program
from backends.torch.samples import Batch
from backends.torch.state import State
from backends.torch.tracing import Traced

Tensor = torch.Tensor


def init(stage: Any, x: Tensor, terms: int, constants: int) -> dict[str, Tensor]:
    """The state before the first iteration. Raises UserError where there are too many parameters."""
    if isinstance(stage, GaussNewton):
        return gauss_newton.init(stage, x)
    return quasi.init(stage, OPS, x, terms, 1 + terms + constants)


def iterate(program: Program, state: State, batches: Sequence[Batch], rows: Tensor, stamps: Sequence[float]) -> Steps:
    """One iteration per row of knobs, written into `state`, until the stage can't go on.

    `stamps`: per step a number that changes with its samples. `aux` stays as it is: the loss must be a function of the
    parameters alone.
    """
    value_and_gradient, draws = _function(program, state, batches, rows)
    terms = len(program.objective.terms)
    losses, ok = np.zeros((len(rows), terms)), np.ones(len(rows), np.bool_)
    evaluations, counts, ended = np.zeros(len(rows), np.int64), np.zeros((len(rows), quasi.COUNTED)), ""
    with own_generator(rows.device) if draws else nullcontext():
        advance = _advancing(program, state, batches, rows, stamps, value_and_gradient)
        for i, row in enumerate(torch.unbind(rows, 0)):
            state.x, state.optimizer, after, count, code = advance(i, row)
            losses[i], evaluations[i], why = fetch(after), int(count), int(code)
            counts[i] = fetch(state.optimizer["counts"])
            ok[i] = why != quasi.NOT_FINITE
            if ok[i]:
                state.constants = program.objective.row.part(row, "task/").clone()
            if ok[i] and quasi.WHY[why]:
                ended = quasi.WHY[why]
                losses[i + 1 :] = losses[i]
                break
    return Steps(losses, ok, evaluations, ended, dict(zip(quasi.COUNTS, counts.T, strict=True)))


Advance = Callable[[int, Tensor], tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]]


def _advancing(
    program: Program,
    state: State,
    batches: Sequence[Batch],
    rows: Tensor,
    stamps: Sequence[float],
    value_and_gradient: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Advance:
    """(step, row of knobs) -> one iteration from `state`."""
    stage, row_of = program.stage, program.objective.row
    if isinstance(stage, GaussNewton):
        return gauss_newton.advancing(program, state, batches, rows[0], value_and_gradient)
    assert isinstance(stage, Lbfgs | SsBroyden)
    solver = _Recorded(program)

    def advance(i: int, row: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
        weights, constants = (row_of.part(row, p) for p in ("weight/", "task/"))
        stamp = torch.full((1,), stamps[i], dtype=torch.float64, device=row.device)
        key = torch.cat([stamp, weights, constants]).to(program.dtype)
        return quasi.iteration(
            stage, OPS, partial(value_and_gradient, i, row), state.x, state.optimizer, key,
            direction=solver.direction, update=solver.update,
        )  # fmt: skip

    return advance


def _function(
    program: Program, state: State, batches: Sequence[Batch], rows: Tensor
) -> tuple[Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], bool]:
    """(step, row, x) -> (losses, weighted sum, gradient), and whether a user's module draws numbers in it."""
    terms = len(program.objective.terms)
    work = program.work(state, batches, program.objective.layout.size + terms)
    work = replace(work, x=state.x.clone())
    passes, rest = program.passes(work, rows[0]), program.gradient(work, rows[0])
    draws = any(b.traced.draws for b in (*passes, rest))

    def function(i: int, row: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        work.x.copy_(x)
        if draws:
            program.draw_alike(row)
        for accumulated in work.acc:
            accumulated.zero_()
        for name, value in work.aux.items():
            value.copy_(state.aux[name])
        for one in passes:
            one(i, row)
        flat = rest(i, row)[0]
        losses = flat[:terms].clone()
        weights = program.objective.row.part(row, "weight/").to(flat.dtype)
        return losses, torch.sum(weights * losses), flat[terms:].clone()

    return function, draws


class _Recorded:
    """The two parts of an iteration that work on whole vectors and matrices, recorded on first use."""

    def __init__(self, program: Program) -> None:
        self._program, self._known = program, dict[str, Traced]()

    def direction(self, stage: Any, ops: Any, state: Any) -> Any:
        return self._call("direction", partial(quasi.direction, stage, ops), dict(state))

    def update(self, stage: Any, ops: Any, *arguments: Any) -> Any:
        state, *rest = arguments
        return self._call("update", partial(quasi.update, stage, ops), dict(state), *rest)

    def _call(self, name: str, fn: Any, *arguments: Any) -> Any:
        if name not in self._known:
            p = self._program
            key = (name, p.stage.kind)
            self._known[name] = p.functions.get(f"{name}/{p.stage.name}", key, fn, arguments, p.dtype, p.compiled)
        return self._known[name](*arguments)
