"""Losses and their gradient over all batches: the one place of passes, accumulation and sums over workers.

Every term is a mean over the samples of all workers, so passes and workers simply add up. One flat sum over workers
comes after the accumulation and before anything looks at the gradient: guards and line searches then decide alike
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backends import pointwise
from backends.chunks import chunk_size
from backends.errors import UserError, nearest
from backends.jax.devices import room
from backends.jax.distributed import total
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.jax.remat import recomputed
from backends.task import Context, parts_of

Array = Any
Tree = dict[str, Any]
Columns = Mapping[str, Array]


def loss_and_gradient(
    program: Program,
    params: Tree,
    weights: Mapping[str, Array],
    context: Context,
    batches: Mapping[str, Columns],
    *,
    drawn: Collection[str] = (),
    scale: Array | None = None,
    sloped: bool = True,
) -> tuple[Array, Tree, Tree]:
    """(losses [trained terms], gradient of the weighted sum by parameter, new values of aux).

    `weights` may leave terms out: they are then neither computed nor part of the gradient, their loss is 0. `drawn`:
    the batches with samples of their own at every step. `scale`: the loss is multiplied by it for the backward pass,
    the gradient divided by it at the end. Without `sloped` the gradient is not computed, and zero.
    """
    free, held = program.split(params)
    names = program.trained
    homeless = [t for t in weights if not any(t in program.terms_of(batch) for batch in batches)]
    if homeless:
        raise UserError(f"the feed gives no samples for the term {homeless[0]!r}; it has the batches {sorted(batches)}")
    dtype = program.dtype
    losses = jnp.zeros(len(names), dtype)
    gradient: Tree = {}
    aux = dict(context.aux)
    touched: set[str] = set()
    like = free if sloped else {}
    for group in _groups(program, weights, batches, drawn):
        functions, wanted = {}, []
        for batch, columns in group.items():
            some = {t: weights[t] for t in program.terms_of(batch) if t in weights}
            n = _count(columns) * program.world
            functions[batch] = _batch_loss(program, held, batch, some, context, n, touched, scale)
            wanted += some
        function = _together(program, held, context, functions) if len(group) > 1 else functions[next(iter(group))]
        slopes = partial(_level, function)
        if sloped:
            slopes = partial(_slopes, function, [program.reaches[t] for t in wanted])
        if len(group) > 1:
            found, slope, aux = slopes(free, aux, group)
        else:
            ((batch, columns),) = group.items()
            chunk = passes(program, batch, _count(columns), batch in drawn)
            found, slope, aux = _accumulated(program, slopes, len(wanted), free, aux, columns, chunk, like)
        losses = losses.at[jnp.array([names.index(t) for t in wanted])].add(found)
        gradient = jax.tree.map(jnp.add, gradient, slope) if gradient else slope
    gradient = gradient or jax.tree.map(jnp.zeros_like, free)
    if program.world > 1:
        losses, gradient, aux = _over_workers(program, losses, gradient, aux, touched)
    if scale is not None:
        gradient = {name: g / scale for name, g in gradient.items()}
    return losses, gradient, aux


def _groups(
    program: Program, weights: Mapping[str, Array], batches: Mapping[str, Columns], drawn: Collection[str]
) -> list[dict[str, Columns]]:
    """The batches with wanted terms, one by one, but those together that one pass of the task can serve."""
    wanted = {b: columns for b, columns in batches.items() if any(t in weights for t in program.terms_of(b))}
    alike = [b for b in getattr(program.task, "together", ()) if b in wanted]
    whole = [b for b in alike if passes(program, b, _count(wanted[b]), b in drawn) == _count(wanted[b])]
    if len(whole) < 2 or program.remat or program.compute:
        return [{batch: columns} for batch, columns in wanted.items()]
    return [*({b: c} for b, c in wanted.items() if b not in whole), {b: wanted[b] for b in whole}]


def _together(program: Program, held: Tree, context: Context, functions: Mapping[str, BatchLoss]) -> BatchLoss:
    """The losses of several batches, whose terms the task computes in one pass; columns by batch."""
    task: Any = program.task

    def share(free: Tree, aux: Tree, columns: Any) -> tuple[Array, tuple[Array, Tree]]:
        now = Context(context.constants, aux, context.key, True, {})
        shared = task.per_sample_together(OPS, {**held, **free}, columns, now)
        weighted, found = [], []
        for batch, function in functions.items():
            one, (other, aux) = function(free, aux, columns[batch], shared)
            weighted.append(one)
            found.append(other)
        return jnp.concatenate(weighted), (jnp.concatenate(found), aux)

    return share


def flat(tree: Mapping[str, Array]) -> Array:
    """One vector, parameters sorted by name."""
    return jnp.concatenate([jnp.reshape(tree[name], -1) for name in sorted(tree)])


def unflat(vector: Array, like: Mapping[str, Array]) -> Tree:
    """The opposite of `flat`."""
    out, at = {}, 0
    for name in sorted(like):
        size = like[name].size
        out[name] = jnp.reshape(vector[at : at + size], like[name].shape)
        at += size
    return out


BatchLoss = Callable[..., tuple[Array, tuple[Array, Tree]]]
"""(free, aux, columns, shared terms or none) -> (weighted shares, (shares, new aux))"""
Slopes = Callable[[Tree, Tree, Columns], tuple[Array, Tree, Tree]]


def _batch_loss(
    program: Program,
    held: Tree,
    batch: str,
    weights: Mapping[str, Array],
    context: Context,
    n: int,
    touched: set[str],
    scale: Array | None,
) -> BatchLoss:
    """(free, aux, columns) -> their shares [terms] in the means over n samples, weighted, and (shares, new aux).

    Names of aux that the task writes are added to `touched`.
    """
    factors = jnp.stack(list(weights.values()))
    factors = factors if scale is None else factors * scale

    def share(
        free: Tree, aux: Tree, columns: Columns, shared: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[Array, tuple[Array, Tree]]:
        now = Context(context.constants, aux, context.key, True, {}, shared)
        given = lowered(program, {**held, **free}, columns, now)
        values = program.values_of(batch, program.task.per_sample(OPS, given[0], batch, *given[1:]))
        rows = _count(columns)
        weighing = pointwise.factors(OPS, program.task, batch, aux, columns)
        found = jnp.stack([_mean_share(program, batch, name, values[name], rows, n, weighing) for name in weights])
        like = partial(jnp.asarray, dtype=program.dtype)
        now.updates.update(pointwise.noted(OPS, program.task, batch, aux, columns, values, like))
        touched.update(now.updates)
        return factors * found, (found, aux | _updates(aux, now.updates))

    return partial(recomputed, share, context.key[1], program.platform) if program.remat else share


def lowered(program: Program, params: Tree, columns: Columns, context: Context) -> tuple[Tree, Columns, Context]:
    """Everything that a task computes with, in the half precision of the stage; `context.updates` stay the same."""
    if program.compute is None:
        return params, columns, context
    dtype = jnp.dtype(program.compute)

    def low(tree: Mapping[str, Array]) -> Tree:
        return {k: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v for k, v in tree.items()}

    halves = replace(context, constants=low(context.constants), aux=low(context.aux))
    return low(params), low(columns), halves


def _slopes(
    function: BatchLoss, reaches: Sequence[frozenset[str] | None], free: Tree, aux: Tree, columns: Columns
) -> tuple[Array, Tree, Tree]:
    """(shares, gradient of the weighted sum, new aux): one backward pass for all terms of one reach."""
    kinds = list(dict.fromkeys(reaches))
    if kinds == [None]:
        (_, (found, aux)), gradient = jax.value_and_grad(_summed(function), has_aux=True)(free, aux, columns)
        return found, gradient, aux
    weighted, pull, (found, aux) = jax.vjp(lambda x: function(x, aux, columns), free, has_aux=True)
    gradient = {}
    for reach in kinds:
        chosen = jnp.asarray([float(r == reach) for r in reaches], weighted.dtype)
        (slope,) = pull(chosen)
        for name in free if reach is None else sorted(reach):
            gradient[name] = gradient[name] + slope[name] if name in gradient else slope[name]
    return found, {name: gradient.get(name, jnp.zeros_like(value)) for name, value in free.items()}, aux


def _level(function: BatchLoss, free: Tree, aux: Tree, columns: Columns) -> tuple[Array, Tree, Tree]:
    """(shares, no gradient, new aux)."""
    _, (found, aux) = function(free, aux, columns)
    return found, {}, aux


def _summed(function: BatchLoss) -> Callable[[Tree, Tree, Columns], tuple[Array, Any]]:
    def total(free: Tree, aux: Tree, columns: Columns) -> tuple[Array, Any]:
        weighted, rest = function(free, aux, columns)
        return sum(weighted), rest

    return total


def _mean_share(
    program: Program, batch: str, name: str, value: Any, rows: int, n: int, factors: tuple[Any, Any]
) -> Array:
    """The share of these rows in the mean over all n; what a term that reduces itself gives is the mean over rows.

    factors: by which losses and squared residuals are multiplied, sample by sample; None: 1.
    """
    share = jnp.zeros((), program.dtype)
    factor = factors[program.kinds[name] == "residual"]
    for part in parts_of(value):
        part = jnp.asarray(part).astype(program.dtype)
        part = part * part if program.kinds[name] == "residual" else part
        if part.ndim == 0 and not program.task.reduced(batch):
            raise UserError(
                f"the term {name!r} gives one number for all samples; it must give one value per sample, or the task "
                "must say `reduced` for their batch"
            )
        part = part if factor is None or part.ndim == 0 else factor * part
        share = share + (part * (rows / n) if part.ndim == 0 else jnp.sum(part) / n)
    return share


def _updates(aux: Tree, updates: Mapping[str, Array]) -> Tree:
    """New values of aux as they are stored: without a gradient, in type and shape of the old ones."""
    for name in updates:
        if name not in aux:
            raise UserError(
                f"the task writes {name!r} into context.updates, which its aux() does not have{nearest(name, aux)}"
            )
    return {
        name: jnp.broadcast_to(jax.lax.stop_gradient(jnp.asarray(value)).astype(aux[name].dtype), aux[name].shape)
        for name, value in updates.items()
    }


def _accumulated(
    program: Program, slopes: Slopes, terms: int, free: Tree, aux: Tree, columns: Columns, chunk: int, like: Tree
) -> tuple[Array, Tree, Tree]:
    """Losses, gradient (a tree as `like`) and aux of one batch, in passes of `chunk` samples."""
    samples = _count(columns)
    if chunk == samples:
        return slopes(free, aux, columns)

    def one_pass(carry: tuple[Array, Tree, Tree], part: Columns) -> tuple[tuple[Array, Tree, Tree], None]:
        losses, gradient, aux = carry
        found, slope, aux = slopes(free, aux, part)
        return (losses + found, jax.tree.map(jnp.add, gradient, slope), aux), None

    zero = (jnp.zeros(terms, program.dtype), jax.tree.map(jnp.zeros_like, like), aux)
    parts = {k: v.reshape(samples // chunk, chunk, *v.shape[1:]) for k, v in columns.items()}
    return jax.lax.scan(one_pass, zero, parts)[0]


def passes(program: Program, batch: str, samples: int, drawn: bool = False) -> int:
    """Samples per pass of a training batch of this worker."""
    task = program.task
    if drawn and program.accumulate > 1:
        return samples // program.accumulate
    asked = None if task.reduced(batch) else task.chunk(batch)
    itemsize = np.dtype(program.precision).itemsize
    platform = program.platform
    return chunk_size(samples, asked, task.width(batch), itemsize, platform, per_call=False, room=room(platform))


def _count(columns: Columns) -> int:
    return next(iter(columns.values())).shape[0]


def _over_workers(
    program: Program, losses: Array, gradient: Tree, aux: Tree, touched: set[str]
) -> tuple[Array, Tree, Tree]:
    """Sums over the workers through one buffer; floating aux that changed becomes the workers' mean."""
    moving = {k: aux[k] for k in sorted(touched) if jnp.issubdtype(aux[k].dtype, jnp.floating)}
    shares = {k: v.astype(program.dtype) / program.world for k, v in moving.items()}
    tree = {"losses": losses} | _under("gradient/", gradient) | _under("aux/", shares)
    summed = unflat(total(flat(tree)), tree)
    aux = aux | {k: summed["aux/" + k].astype(v.dtype) for k, v in moving.items()}
    return summed["losses"], {k: summed["gradient/" + k] for k in gradient}, aux


def _under(prefix: str, tree: Tree) -> Tree:
    return {prefix + name: value for name, value in tree.items()}
