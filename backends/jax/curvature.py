"""J'J of single terms: the Gauss-Newton matrix that an uncertainty is taken from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from backends.jax import jacobian
from backends.jax.distributed import total
from backends.jax.gradient import flat, unflat
from backends.jax.program import Program
from backends.task import Context

Array = Any
Tree = dict[str, Any]


def curvature(
    program: Program,
    params: Tree,
    context: Context,
    batches: Mapping[str, Mapping[str, Array]],
    drawn: Collection[str],
    term: str,
) -> tuple[Array, Array]:
    """(J'J / samples [parameters, parameters], how many residuals it has) of one unweighted term, over all workers."""
    free, held = program.split(params)
    x = flat(free)
    one = {term: jnp.ones((), program.dtype)}
    matrix, rows = jnp.zeros((x.size, x.size), x.dtype), 0
    for block in jacobian.blocks(program, partial(unflat, like=free), held, one, context, batches, drawn):
        matrix = block.over(x, matrix, lambda now, J, rho: now + J.T @ J)
        rows += block.count(x) * program.world
    return total(matrix) if program.world > 1 else matrix, jnp.asarray(rows, jnp.int64)
