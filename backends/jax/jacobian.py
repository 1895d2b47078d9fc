"""The derivative of every residual by every trained parameter, sample by sample: what Gauss-Newton and NTK work with.

Rows are residuals, each times the root of weight / samples, so that the squares of all rows add up to the loss (but
for terms of kind `loss`, which have no rows). One pass of the network gives them: a gradient under `vmap`, in which
the samples of a pass still share every product with a weight matrix (measured: 3 gradients, on any network). Where a
batch reduces itself its rows are differentiated one by one.

    blocks(program, held, weights, context, batches, drawn)   one `Block` per batch that has residuals
    block.over(x, start, add)                                 start, then add(start, J [m, n], rho [m]) pass by pass
    block.product(x, v)                                       J'J v [n] without J
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from backends import pointwise
from backends.chunks import divisors
from backends.gauss_newton import alone
from backends.gauss_newton.solving import BLOCK_BYTES
from backends.jax.gradient import passes
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.task import Context, parts_of

Array = Any
Tree = dict[str, Any]
Columns = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Block:
    """The residuals of one batch on this worker, as functions of the flat vector x [n] of trained parameters."""

    program: Program
    batch: str
    values: Callable[[Array, Columns], Array]
    """(x, columns) -> weighted residuals [residuals, samples], or [rows] where the batch reduces itself."""
    columns: Columns
    chunk: int
    reduced: bool

    @property
    def samples(self) -> int:
        """Of this worker."""
        return next(iter(self.columns.values())).shape[0]

    def count(self, x: Array) -> int:
        """Rows of this worker."""
        found = jax.eval_shape(self.values, x, self.columns)
        return found.size

    def rows(self, x: Array, columns: Columns) -> tuple[Array, Array]:
        """(J [m, n], rho [m]) of these samples."""

        def named(x: Array) -> tuple[Array, Array]:
            found = self.values(x, columns)
            return found, found

        def single(x: Array, sample: Columns) -> tuple[Array, Array]:
            found = self.values(x, {k: v[None] for k, v in sample.items()})[:, 0]
            return found, found

        if self.reduced:
            return jax.jacrev(named, has_aux=True)(x)
        each = jax.vmap(jax.jacrev(single, has_aux=True), (None, 0))
        samples = next(iter(columns.values())).shape[0]
        J, rho = (
            jax.lax.map(partial(each, x), _parts(columns, self.chunk)) if samples > self.chunk else each(x, columns)
        )
        return J.reshape(-1, x.size), rho.reshape(-1)

    def over(self, x: Array, start: Any, add: Callable[[Any, Array, Array], Any]) -> Any:
        """`start` after `add(start, J, rho)` for every part of the samples, as large as `BLOCK_BYTES` allows."""
        passes = self.samples // self.chunk
        most = BLOCK_BYTES * passes // (self.count(x) * x.size * x.dtype.itemsize)
        size = self.chunk * max(d for d in divisors(passes) if d <= max(most, 1))
        return self._each(size, start, lambda now, part: add(now, *self.rows(x, part)))

    def product(self, x: Array, v: Array) -> Array:
        """J'J v [n], by one pass backwards and one through it again: J v is the derivative of J'u by u, times v."""

        def add(now: Array, part: Columns) -> Array:
            found, pull = jax.vjp(lambda at: self.values(at, part), x)
            _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(found))
            return now + pull(push(v)[0])[0]

        return self._each(self.chunk, jnp.zeros_like(x), add)

    def _each(self, chunk: int, start: Any, add: Callable[[Any, Columns], Any]) -> Any:
        if chunk == self.samples:
            return add(start, self.columns)
        return jax.lax.scan(lambda now, part: (add(now, part), None), start, _parts(self.columns, chunk))[0]


def blocks(
    program: Program,
    unflatten: Callable[[Array], Tree],
    held: Tree,
    weights: Mapping[str, Array],
    context: Context,
    batches: Mapping[str, Columns],
    drawn: Collection[str] = (),
    *,
    single: bool = True,
) -> list[Block]:
    """One per batch with residuals among the terms of `weights`, in the order of the batches.

    With `single`, which rows need and products do not, raises UserError where a task draws noise or changes `aux`: a
    residual is then no function of its sample alone.
    """
    found = []
    for batch, columns in batches.items():
        wanted = {t: weights[t] for t in program.terms_of(batch) if t in weights and program.kinds[t] == "residual"}
        if wanted:
            samples = next(iter(columns.values())).shape[0]
            values = _values(program, unflatten, held, batch, wanted, context, samples * program.world, single)
            chunk = passes(program, batch, samples, batch in drawn)
            found.append(Block(program, batch, values, columns, chunk, program.task.reduced(batch)))
    return found


def _parts(columns: Columns, chunk: int) -> Tree:
    """[parts, chunk, …] of every column."""
    return {k: v.reshape(v.shape[0] // chunk, chunk, *v.shape[1:]) for k, v in columns.items()}


def jacobian(found: list[Block], x: Array) -> tuple[Array, Array]:
    """(J [rows, n], rho [rows]) of all blocks of this worker, batch after batch, samples in their order."""
    pieces = []
    for block in found:
        J, rho = block.rows(x, block.columns)
        pieces.append((J, rho))
    return jnp.concatenate([J for J, _ in pieces]), jnp.concatenate([rho for _, rho in pieces])


def _values(
    program: Program,
    unflatten: Callable[[Array], Tree],
    held: Tree,
    batch: str,
    weights: Mapping[str, Array],
    context: Context,
    n: int,
    single: bool,
) -> Callable[[Array, Columns], Array]:
    """The residuals of a batch, each times the root of weight / n."""
    task, reduced = program.task, program.task.reduced(batch)
    single = single and not reduced

    def values(x: Array, columns: Columns) -> Array:
        now = Context(context.constants, context.aux, alone.NoNoise() if single else context.key, True, {})
        given = program.values_of(batch, task.per_sample(OPS, {**held, **unflatten(x)}, batch, columns, now))
        if now.updates and single:
            alone.refuse(f"changes {', '.join(sorted(now.updates))} with every batch")
        rows = next(iter(columns.values())).shape[0]
        _, weighing = pointwise.factors(OPS, task, batch, context.aux, columns)
        found = []
        for name, weight in weights.items():
            value = given[name]
            for part in parts_of(value):
                part = jnp.asarray(part).astype(program.dtype)
                part = part if weighing is None or part.ndim == 0 else part * jnp.sqrt(weighing)
                found.append(part * jnp.sqrt(weight * ((rows if part.ndim == 0 else 1) / n)))
        return jnp.concatenate([jnp.reshape(p, -1) for p in found]) if reduced else jnp.stack(found)

    return values
