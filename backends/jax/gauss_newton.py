"""Gauss-Newton stages: `backends.gauss_newton` on flat vectors, inside the compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from backends import gauss_newton
from backends.gauss_newton import solving
from backends.jax import jacobian
from backends.jax.distributed import gathered, total
from backends.jax.gradient import flat, loss_and_gradient, unflat
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.ops import NumpyOps
from backends.stages import GaussNewton
from backends.task import Context

Array = Any
Tree = dict[str, Any]


def init(stage: GaussNewton, free: Mapping[str, np.ndarray]) -> Tree:
    """The state before the first iteration: host arrays. Raises UserError where there are too many parameters."""
    x = np.concatenate([np.reshape(free[name], -1) for name in sorted(free)])
    if stage.solver == "dense":
        solving.check_size(len(x), "parameters", "dense")
    return {name: np.asarray(value, x.dtype) for name, value in gauss_newton.init(NumpyOps(), x).items()}


def update(
    program: Program,
    state: Tree,
    free: Tree,
    held: Tree,
    knobs: Mapping[str, Array],
    weights: Mapping[str, Array],
    context: Context,
    batches: Mapping[str, Any],
    drawn: tuple[str, ...],
) -> tuple[Tree, Tree, Array, Array, Array]:
    """One iteration: (parameters, state, losses after it, evaluations, how it ended)."""
    stage = program.stage
    assert isinstance(stage, GaussNewton)
    x, scale = flat(free), jnp.stack(list(weights.values()))
    unflatten = partial(unflat, like=free)

    def parts(solver: solving.Solver) -> list[jacobian.Block]:
        return jacobian.blocks(program, unflatten, held, weights, context, batches, drawn, single=solver != "cg")

    def both(at: Array, sloped: bool = True) -> tuple[Array, Array, Array]:
        params = {**held, **unflatten(at)}
        losses, gradient, _ = loss_and_gradient(program, params, weights, context, batches, drawn=drawn, sloped=sloped)
        return losses, jnp.sum(scale * losses), flat(gradient)

    def assemble(at: Array) -> tuple[Array, Array, Array, solving.Curvature]:
        losses, f, g = both(at)
        return losses, f, g, _curvature(program, solver, parts(solver), at, g)

    rows = sum(block.count(x) for block in parts("cg")) * program.world
    solver: solving.Solver = solving.chosen(stage, rows, x.size)
    problem = gauss_newton.Problem(assemble, lambda at: both(at, sloped=False)[:2])
    x, state, losses, evaluations, ended = gauss_newton.iteration(
        stage, OPS, problem, x, state, knobs["damping"], knobs["momentum"]
    )
    return unflat(x, free), state, losses, evaluations, ended


def _curvature(
    program: Program, solver: solving.Solver, blocks: list[jacobian.Block], x: Array, g: Array
) -> solving.Curvature:
    """What the solver needs, over all workers."""

    def summed(value: Array) -> Array:
        return total(value) if program.world > 1 else value

    if solver == "cg":
        return solving.Free(lambda v: summed(sum(block.product(x, v) for block in blocks)))
    if solver == "dense":
        matrix = jnp.zeros((x.size, x.size), x.dtype)
        for block in blocks:
            matrix = block.over(x, matrix, lambda now, J, rho: now + solving.gram(OPS, J))
        return solving.Dense(summed(matrix))
    J, rho = jacobian.jacobian(blocks, x)
    if program.world > 1:
        J, rho = gathered(J), gathered(rho)
    squares_only = all(program.kinds[t] == "residual" for t in program.trained)
    rest = jnp.zeros_like(x) if squares_only else 0.5 * g - rho @ J
    return solving.Samples(J, solving.gram(OPS, J.T), rho, rest)
