"""Activations that are computed again in the backward pass (Chen et al., arXiv 1604.06174), for any function.

The function is traced, its operations are cut into about the square root of as many segments as it has products, and
of every segment but the last only what goes in and comes out is kept. Memory falls from all layers to about twice
the square root of them, for one more forward pass.

`jax.checkpoint` does the same for a segment on an accelerator. On a CPU, XLA finds the second computation equal to the
first and removes it (measured: nothing is saved), so there it stands in a branch that XLA can't see through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

Array = Any
PRODUCTS = ("dot_general", "conv_general_dilated", "fft")
"""Operations that a network's layers are counted by."""
_CALLS = ("pjit", "jit", "closed_call")


def recomputed(function: Callable[..., Any], step: Array, platform: str, *arguments: Any) -> Any:
    """function(*arguments), trees of arrays in and out. As it is where it has fewer than four products.

    step: any traced number that is never negative.
    """
    flat, tree = jax.tree.flatten(arguments)
    outs: list[Any] = []

    def flattened(*leaves: Array) -> list[Array]:
        found, out = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        outs[:] = [out]
        return found

    closed = jax.make_jaxpr(flattened)(*flat)
    closed = jax.make_jaxpr(partial(_opened, closed))(*flat)
    again = partial(_behind_a_branch, step) if platform == "cpu" else jax.checkpoint
    return jax.tree.unflatten(outs[0], _in_segments(closed, flat, again))


def _in_segments(closed: ClosedJaxpr, arguments: Sequence[Array], again: Callable[..., Any]) -> list[Array]:
    jaxpr, segments = closed.jaxpr, _cut(closed.jaxpr.eqns)
    env: dict[Any, Array] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))
    for i, eqns in enumerate(segments):
        given = [v for v in _variables(eqns) if v in env]
        later = dict.fromkeys(
            [*_variables(e for rest in segments[i + 1 :] for e in rest), *filter(_named, jaxpr.outvars)]
        )
        kept = [v for v in later if v in {v for eqn in eqns for v in eqn.outvars}]
        segment = _function(jaxpr, eqns, given, kept)
        segment = segment if i == len(segments) - 1 else again(segment)
        env.update(zip(kept, segment(*(env[v] for v in given)), strict=True))
    return [env[v] if _named(v) else v.val for v in jaxpr.outvars]


def _function(jaxpr: Jaxpr, eqns: Sequence[Any], given: Sequence[Any], kept: Sequence[Any]) -> Callable[..., Any]:
    """Some operations of a program as a function."""
    names = jaxpr.debug_info.with_unknown_names()
    part = jaxpr.replace(eqns=list(eqns), constvars=[], invars=list(given), outvars=list(kept), debug_info=names)
    return jaxpr_as_fun(ClosedJaxpr(part, []))


def _behind_a_branch(step: Array, segment: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """The segment; its backward pass computes it again if `step` is not negative, which XLA does not know."""

    @jax.custom_vjp
    def function(step: Array, *values: Array) -> list[Array]:
        return segment(*values)

    def keep(step: Array, *values: Array) -> tuple[list[Array], Any]:
        return segment(*values), (step, values)

    def pull(kept: Any, cotangents: Sequence[Array]) -> tuple[Array | None, ...]:
        step, values = kept
        moving = [i for i, x in enumerate(values) if _floating(x)]

        def floats(*inputs: Array) -> list[Array]:
            full = list(values)
            for i, x in zip(moving, inputs, strict=True):
                full[i] = x
            return [y for y in segment(*full) if _floating(y)]

        def computed() -> tuple[Array, ...]:
            inputs = [values[i] for i in moving]
            return jax.vjp(floats, *inputs)[1]([c for c in cotangents if _floating(c)])

        def nothing() -> tuple[Array, ...]:
            return tuple(jnp.zeros_like(values[i]) for i in moving)

        slopes = dict(zip(moving, jax.lax.cond(step >= 0, computed, nothing), strict=True))
        return (None, *(slopes.get(i) for i in range(len(values))))

    function.defvjp(keep, pull)
    return lambda *values: function(step, *values)


def _floating(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _variables(eqns: Iterable[Any]) -> list[Any]:
    """What operations read, each once."""
    return list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if _named(v)))


def _cut(eqns: Sequence[Any]) -> list[list[Any]]:
    """Segments with about equally many products."""
    count = sum(map(_products, eqns))
    wanted = max(round(math.sqrt(count)), 1) if count > 3 else 1
    segments: list[list[Any]] = [[]]
    passed = 0
    for eqn in eqns:
        own = _products(eqn)
        if own and passed >= len(segments) * count / wanted:
            segments.append([])
        segments[-1].append(eqn)
        passed += own
    return segments


def _products(eqn: Any) -> int:
    """Products of one operation, those of functions that it calls included."""
    inner = [p for value in eqn.params.values() for p in (value if isinstance(value, tuple | list) else [value])]
    bodies = [getattr(p, "jaxpr", p) for p in inner if hasattr(getattr(p, "jaxpr", p), "eqns")]
    return (eqn.primitive.name in PRODUCTS) + sum(_products(e) for body in bodies for e in body.eqns)


def _opened(closed: ClosedJaxpr, *arguments: Array) -> list[Array]:
    """The program, with the bodies of functions that it calls in place where they have several products."""
    jaxpr = closed.jaxpr
    env: dict[Any, Array] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _CALLS and _products(eqn) > 1:
            body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            found = _opened(body, *(env[v] if _named(v) else v.val for v in eqn.invars))
        else:
            given = _variables([eqn])
            found = _function(jaxpr, [eqn], given, eqn.outvars)(*(env[v] for v in given))
        env.update(zip(eqn.outvars, found, strict=True))
    return [env[v] if _named(v) else v.val for v in jaxpr.outvars]


def _named(variable: Any) -> bool:
    """Whether it is a variable, not a number written out."""
    return not hasattr(variable, "val")
