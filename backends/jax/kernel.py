"""Traces of the neural tangent kernel: the mean square of the gradients of single residuals, exact on a sub-sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from backends.jax.distributed import total
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.protocol import KERNEL_ROWS, evenly
from backends.task import Context, parts_of

Array = Any
Tree = dict[str, Any]
Columns = Mapping[str, Array]


def traces(program: Program, params: Tree, context: Context, batches: Mapping[str, Columns], samples: int) -> Array:
    """[trained terms]: the mean over samples of |gradient of the residual|^2, added over parts of a vector residual;
    NaN for terms that are no residuals.

    At most `samples` samples of each batch, evenly spaced, over all workers; of a batch that reduces itself all samples
    are seen, and of a term's values at most so many taken.
    """
    free, held = program.split(params)
    found = jnp.full(len(program.trained), jnp.nan, program.dtype)
    for batch, columns in batches.items():
        names = [t for t in program.terms_of(batch) if program.kinds[t] == "residual"]
        if not names:
            continue
        reduced = program.task.reduced(batch)
        count = next(iter(columns.values())).shape[0]
        kept = evenly(count, samples if reduced else max(samples // program.world, 1))
        some = columns if reduced else {k: v[kept] for k, v in columns.items()}
        means = _means(program, batch, names, free, held, some, context, kept if reduced else None)
        found = found.at[jnp.array([program.trained.index(t) for t in names])].set(means)
    return total(found) / program.world if program.world > 1 else found


def _means(
    program: Program,
    batch: str,
    names: Sequence[str],
    free: Tree,
    held: Tree,
    columns: Columns,
    context: Context,
    kept: Array | None,
) -> Array:
    """[names]: the mean squares of one batch. `kept`: which values of a batch that must be seen whole are taken."""
    rows = next(iter(columns.values())).shape[0]
    size = rows if kept is not None else max(d for d in range(1, min(rows, KERNEL_ROWS) + 1) if rows % d == 0)

    def of_part(part: Columns) -> Array:
        def values(free: Tree) -> Tree:
            now = Context(context.constants, context.aux, context.key, True, {})
            found = program.values_of(batch, program.task.per_sample(OPS, {**held, **free}, batch, part, now))
            return {name: _matrix(program, found[name], kept) for name in names}

        out, pull = jax.vjp(values, free)
        zero = jax.tree.map(jnp.zeros_like, out)

        def square(name: str, i: Array) -> Array:
            one = jnp.reshape(zero[name].reshape(-1).at[i].set(1.0), zero[name].shape)
            (slope,) = pull({**zero, name: one})
            reach = program.reaches[name]
            return sum(jnp.sum(g * g) for k, g in slope.items() if reach is None or k in reach)

        squares = {n: jax.lax.map(partial(square, n), jnp.arange(out[n].size), batch_size=KERNEL_ROWS) for n in names}
        return jnp.stack([jnp.sum(squares[name]) / len(out[name]) for name in names])

    if size == rows:
        return of_part(columns)
    parts = {k: v.reshape(rows // size, size, *v.shape[1:]) for k, v in columns.items()}
    return jnp.mean(jax.lax.map(of_part, parts), axis=0)


def _matrix(program: Program, value: Any, kept: Array | None) -> Array:
    """[values, parts] of a term."""
    parts = [jnp.asarray(p).astype(program.dtype) for p in parts_of(value)]
    return jnp.stack([p[kept] if kept is not None and p.ndim else jnp.atleast_1d(p) for p in parts], axis=1)
