"""n optimizer steps in one compiled function: gradient, update, guard, for n that is an argument.

    state, rows = STEPS(program, state, n, table, fixed, stacked, stamps, seed, start)

A state is `{"params", "aux", "optimizer", "constants"}`. The number of steps, all knobs, constants, seeds and samples
are arguments, so one compilation serves a whole stage, and every backend of the process whose program is equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from backends import pointwise, quasi, scaling
from backends.jax import gauss_newton, quasi_newton, update
from backends.jax.distributed import mesh, spec
from backends.jax.gradient import loss_and_gradient
from backends.jax.ops import OPS
from backends.jax.processing import processed
from backends.jax.program import Program
from backends.jax.samples import axes, of_step
from backends.stages import GaussNewton
from backends.task import Context
from backends.weighting import uncertainty

Array = Any
Tree = dict[str, Any]


def steps(
    program: Program,
    state: Tree,
    n: Array,
    table: Array,
    fixed: Mapping[str, Any],
    stacked: Mapping[str, Any],
    stamps: Array,
    seed: Array,
    start: Array,
) -> tuple[Tree, Tree]:
    """The state after n steps; per step `losses`, `ok`, `evaluations`; how many were `done`, and why not n (`ended`).

    table: [capacity, columns] in float64; stamps: [capacity], a number that changes with the samples.
    """
    program.note("step")
    function = partial(_steps, program)
    if program.world > 1:
        whole = spec(None)
        split = jax.tree.map(spec, axes(program.task, fixed, stacked), is_leaf=lambda x: x is None)
        function = jax.shard_map(
            function,
            mesh=mesh(program.world),
            in_specs=(whole, whole, whole, *split, whole, whole, whole),
            out_specs=whole,
            check_vma=False,
        )
    return function(state, n, table, fixed, stacked, stamps, seed, start)


STEPS = jax.jit(steps, static_argnums=0, donate_argnums=1)


def _steps(
    program: Program,
    state: Tree,
    n: Array,
    table: Array,
    fixed: Mapping[str, Any],
    stacked: Mapping[str, Any],
    stamps: Array,
    seed: Array,
    start: Array,
) -> tuple[Tree, Tree]:
    capacity = table.shape[0]
    rows = {
        "losses": jnp.zeros((capacity, len(program.trained)), program.dtype),
        "ok": jnp.ones(capacity, jnp.bool_),
        "evaluations": jnp.zeros(capacity, jnp.int64),
        **{name: jnp.zeros(capacity) for name in program.readings},
    }

    def going_on(carry: tuple[Tree, Tree, Array, Array]) -> Array:
        return (carry[2] < n) & (carry[3] == quasi.GOING_ON)

    def body(carry: tuple[Tree, Tree, Array, Array]) -> tuple[Tree, Tree, Array, Array]:
        state, rows, i, _ = carry
        knobs = dict(zip(program.columns, table[i], strict=True))
        constants = {k.removeprefix("task/"): v for k, v in knobs.items() if k.startswith("task/")}
        # A line search compares losses of one sample: its noise changes with the samples, not with the step.
        count = start + i if program.stage is None else stamps[i].astype(jnp.int64)
        context = Context(program.numbers(constants), state["aux"], (seed, count))
        advance = _first_order if program.stage is None else _second_order
        given = of_step(fixed, stacked, i), tuple(stacked), stamps[i]
        state, row = advance(program, state, program.numbers(knobs), constants, context, *given)
        ended = row.pop("ended")
        return state, {k: rows[k].at[i].set(row[k]) for k in rows}, i + 1, ended

    zero = jnp.zeros((), jnp.int64)
    state, rows, done, ended = jax.lax.while_loop(going_on, body, (state, rows, zero, zero + quasi.GOING_ON))
    return state, rows | {"done": done, "ended": ended}


def _first_order(
    program: Program,
    state: Tree,
    knobs: Tree,
    constants: Tree,
    context: Context,
    batches: Mapping[str, Any],
    drawn: tuple[str, ...],
    stamp: Array,
) -> tuple[Tree, Tree]:
    """One step; where loss or gradient is not finite, the state as it was (but for the loss scale of float16)."""
    scaled = program.compute == "float16"
    scale = {part: state["optimizer"][part] for part in scaling.PARTS} if scaled else {}
    weights = uncertainty.weighed(OPS, state["params"], _weights(knobs))
    losses, gradient, aux = loss_and_gradient(
        program, state["params"], weights, context, batches, drawn=drawn, scale=scale.get(scaling.SCALE)
    )
    gradient |= _of_weights(program, state["params"], losses)
    aux = pointwise.advanced(OPS, program.task, aux, knobs, program.world)
    losses_ok, gradient_ok = _finite(losses), jnp.all(jnp.stack([_finite(g) for g in gradient.values()]))
    later_ok = jnp.ones((), jnp.bool_)  # of what the user's own code makes of a gradient
    free, held = program.split(state["params"])
    gradient = processed(gradient, free, knobs, context.key, program.process)
    if program.process:
        later_ok &= jnp.all(jnp.stack([_finite(g) for g in gradient.values()]))
    own = {part: value for part, value in state["optimizer"].items() if part not in scale}
    free, optimizer = update.moved(program, gradient, own, free, knobs)
    if program.own:
        later_ok &= jnp.all(jnp.stack([_finite(value) for value in free.values()]))
    ok = losses_ok & gradient_ok & later_ok
    new = {"params": {**held, **free}, "aux": aux, "optimizer": {**optimizer, **scale}, "constants": constants}
    state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, state)
    if scaled:
        sound, judged = scaling.judged(OPS, scale, losses_ok, gradient_ok)
        ok = sound & (later_ok | ~gradient_ok)
        state["optimizer"] |= judged
    one = jnp.ones((), jnp.int64)
    readings = {name: state["optimizer"][name].astype(jnp.float64) for name in program.readings}
    return state, {"losses": losses, "ok": ok, "evaluations": one, "ended": one * quasi.GOING_ON, **readings}


def _second_order(
    program: Program,
    state: Tree,
    knobs: Tree,
    constants: Tree,
    context: Context,
    batches: Mapping[str, Any],
    drawn: tuple[str, ...],
    stamp: Array,
) -> tuple[Tree, Tree]:
    """One iteration. `aux` stays as it is: the loss must be a function of the parameters alone."""
    assert program.stage is not None
    free, held = program.split(state["params"])
    weights = _weights(knobs)
    if isinstance(program.stage, GaussNewton):
        free, optimizer, losses, evaluations, ended = gauss_newton.update(
            program, state["optimizer"], free, held, knobs, weights, context, batches, drawn
        )
    else:

        def value_and_gradient(free: Tree) -> tuple[Array, Tree]:
            return loss_and_gradient(program, {**held, **free}, weights, context, batches, drawn=drawn)[:2]

        free, optimizer, losses, evaluations, ended = quasi_newton.update(
            program.stage, value_and_gradient, state["optimizer"], free, weights, context.constants, stamp
        )
    ok = ended != quasi.NOT_FINITE
    constants = {k: jnp.where(ok, v, state["constants"][k]) for k, v in constants.items()}
    new = {"params": {**held, **free}, "aux": state["aux"], "optimizer": optimizer, "constants": constants}
    counts = dict(zip(quasi.COUNTS, optimizer["counts"].astype(jnp.float64), strict=True))
    row = {"losses": losses, "ok": ok, "evaluations": evaluations, "ended": jnp.where(ok, ended, quasi.GOING_ON)}
    return new, row | counts


def _of_weights(program: Program, params: Tree, losses: Array) -> Tree:
    """The gradient of log-variances that are trained, by parameter; empty where there are none."""
    by_term = dict(zip(program.trained, losses, strict=True)) if uncertainty.has(params) else {}
    return program.split(uncertainty.slopes(OPS, params, by_term))[0]


def _weights(knobs: Mapping[str, Array]) -> Tree:
    return {k.removeprefix("weight/"): v for k, v in knobs.items() if k.startswith("weight/")}


def _finite(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))
