"""Traces of the neural tangent kernel: the mean square of the gradients of single residuals, exact on a sub-sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from backends.jax.distributed import total
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.protocol import KERNEL_ROWS, evenly
from backends.task import Context

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
        lengths: list[int] = []

        def values(free: Tree) -> Array:
            now = Context(context.constants, context.aux, context.key, True, {})
            found = program.task.per_sample(OPS, {**held, **free}, batch, part, now)
            found = program.values_of(batch, found)
            columns = []
            for name in names:
                parts = found[name] if isinstance(found[name], tuple) else (found[name],)
                parts = [jnp.asarray(p).astype(program.dtype) for p in parts]
                parts = [p[kept] if kept is not None and p.ndim else jnp.atleast_1d(p) for p in parts]
                lengths.append(parts[0].shape[0])
                columns.append(jnp.stack(parts, axis=1).reshape(-1))
            sizes.extend(c.shape[0] for c in columns)
            return jnp.concatenate(columns)

        sizes: list[int] = []
        out, pull = jax.vjp(values, free)
        means, at = [], 0
        for name, width, length in zip(names, sizes, lengths, strict=True):
            reach = program.reaches[name]

            def square(i: Array, reach: frozenset[str] | None = reach) -> Array:
                (slope,) = pull(jnp.zeros_like(out).at[i].set(1.0))
                return sum(jnp.sum(g * g) for k, g in slope.items() if reach is None or k in reach)

            squares = jax.lax.map(square, jnp.arange(at, at + width), batch_size=KERNEL_ROWS)
            means.append(jnp.sum(squares) / length)
            at += width
        return jnp.stack(means)

    if size == rows:
        return of_part(columns)
    parts = {k: v.reshape(rows // size, size, *v.shape[1:]) for k, v in columns.items()}
    return jnp.mean(jax.lax.map(of_part, parts), axis=0)
