"""What is read off a state without changing it, as compiled functions: evaluation, candidates, prediction, probe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backends.chunks import chunk_size
from backends.jax.curvature import curvature
from backends.jax.distributed import mesh, spec
from backends.jax.gradient import flat, loss_and_gradient
from backends.jax.kernel import traces
from backends.jax.ops import OPS
from backends.jax.program import Program
from backends.jax.samples import axes, of_step
from backends.protocol import CURVATURE, ROWS
from backends.task import Context

Array = Any
Tree = dict[str, Any]
Columns = Mapping[str, Array]


def evaluate(program: Program, state: Tree, batches: Mapping[str, Columns]) -> Tree:
    """Mean of every term of these batches, residuals squared."""
    program.note("evaluate")
    out = {}
    for batch, columns in batches.items():
        for name, parts in _values(program, state, batch, columns).items():
            squared = [p * p if program.kinds[name] == "residual" else p for p in parts]
            out[name] = sum(jnp.mean(p) for p in squared)
    return out


def candidates(program: Program, state: Tree, batch: str, columns: Columns) -> Tree:
    """|value| per sample of the trained terms of one batch; the length of a vector residual."""
    program.note("candidates")
    values = _values(program, state, batch, columns)
    found = {name: values[name] for name in program.terms_of(batch)}
    return {name: _size(parts) for name, parts in found.items() if parts[0].ndim}


def predict(program: Program, state: Tree, names: tuple[str, ...], columns: Columns) -> Tree:
    """Named outputs, [samples, …] each."""
    program.note("predict")
    return dict(program.task.predict(OPS, state["params"], names, columns, _context(program, state)))


def probe(
    program: Program,
    state: Tree,
    weights: Mapping[str, Array],
    constants: Mapping[str, Array],
    fixed: Mapping[str, Any],
    stacked: Mapping[str, Any],
    seed: Array,
    step: Array,
    kernels: tuple[tuple[str, int], ...] = (),
    gradients: bool = True,
    curvatures: tuple[str, ...] = (),
) -> Tree:
    """`losses`, `grad_…` and `gram` (statistics of each unweighted term's gradient) and `gradient` (weighted, flat),
    summed over the workers; `kernels`: traces of the tangent kernel by name, with their numbers of samples.
    `curvatures`: the terms whose J'J and number of residuals are wanted. Without `gradients` these alone.

    Term by term, so that one whose gradient is not finite does not spoil the others.
    """
    program.note("probe")
    function = partial(_probe, program, kernels, gradients, curvatures)
    if program.world > 1:
        whole = spec(None)
        split = jax.tree.map(spec, axes(program.task, fixed, stacked), is_leaf=lambda x: x is None)
        function = jax.shard_map(
            function,
            mesh=mesh(program.world),
            in_specs=(whole, whole, whole, *split, whole, whole),
            out_specs=whole,
            check_vma=False,
        )
    return function(state, weights, constants, fixed, stacked, seed, step)


EVALUATE = jax.jit(evaluate, static_argnums=0)
CANDIDATES = jax.jit(candidates, static_argnums=(0, 2))
PREDICT = jax.jit(predict, static_argnums=(0, 2))
PROBE = jax.jit(probe, static_argnums=0, static_argnames=("kernels", "gradients", "curvatures"))


def _probe(
    program: Program,
    kernels: tuple[tuple[str, int], ...],
    gradients: bool,
    curvatures: tuple[str, ...],
    state: Tree,
    weights: Mapping[str, Array],
    constants: Mapping[str, Array],
    fixed: Mapping[str, Any],
    stacked: Mapping[str, Any],
    seed: Array,
    step: Array,
) -> Tree:
    context = Context(program.numbers(constants), state["aux"], (seed, step))
    batches = of_step(fixed, stacked, jnp.zeros((), jnp.int64))
    more = {name: traces(program, state["params"], context, batches, count) for name, count in kernels}
    for term in curvatures:
        matrix, rows_ = curvature(program, state["params"], context, batches, tuple(stacked), term)
        more |= {CURVATURE + term: matrix, ROWS + term: rows_}
    if not gradients:
        return more
    one = jnp.ones((), program.dtype)
    losses, rows = [], []
    for i, term in enumerate(program.trained):
        found, gradient, _ = loss_and_gradient(
            program, state["params"], {term: one}, context, batches, drawn=tuple(stacked)
        )
        losses.append(found[i])
        rows.append(flat(gradient))
    scale = program.numbers(weights)
    return more | {
        "losses": jnp.stack(losses),
        "grad_norms": jnp.stack([jnp.sqrt(jnp.sum(row * row)) for row in rows]),
        "grad_max": jnp.stack([jnp.max(jnp.abs(row)) for row in rows]),
        "grad_mean_abs": jnp.stack([jnp.mean(jnp.abs(row)) for row in rows]),
        "grad_std": jnp.stack([jnp.std(row) for row in rows]),
        "gram": (table := jnp.stack(rows)) @ table.T,
        "gradient": sum(scale[term] * row for term, row in zip(program.trained, rows, strict=True)),
    }


def _values(program: Program, state: Tree, batch: str, columns: Columns) -> dict[str, tuple[Array, ...]]:
    """Every term of a batch per sample, in passes where that is faster: the parts of a vector residual as a tuple."""
    task, context = program.task, _context(program, state)

    def values(part: Columns) -> dict[str, tuple[Array, ...]]:
        found = program.values_of(batch, task.per_sample(OPS, state["params"], batch, part, context))
        return {k: tuple(map(jnp.asarray, v)) if isinstance(v, tuple) else (jnp.asarray(v),) for k, v in found.items()}

    samples = next(iter(columns.values())).shape[0]
    asked = None if task.reduced(batch) or task.chunk(batch) is None else "auto"
    itemsize = np.dtype(program.precision).itemsize
    chunk = chunk_size(samples, asked, task.width(batch), itemsize, program.platform, per_call=False)
    if chunk == samples:
        return values(columns)
    parts = {k: v.reshape(samples // chunk, chunk, *v.shape[1:]) for k, v in columns.items()}
    return jax.tree.map(lambda x: x.reshape(samples, *x.shape[2:]), jax.lax.map(values, parts))


def _context(program: Program, state: Tree) -> Context:
    zero = jnp.zeros((), jnp.int64)
    return Context(program.numbers(state["constants"]), state["aux"], (zero, zero), training=False)


def _size(parts: tuple[Array, ...]) -> Array:
    return jnp.abs(parts[0]) if len(parts) == 1 else jnp.sqrt(sum(p * p for p in parts))
