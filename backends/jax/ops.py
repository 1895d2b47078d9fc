"""The array functions of `backends.ops` in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from backends.derivatives.channels import Plan, backward, forward, reached
from backends.derivatives.towers import saves_value

Array = Any


class TracedScalars:
    """`backends.ops.Scalars`: 0-d float64 and bool arrays inside the program."""

    minimum, maximum, abs = staticmethod(jnp.minimum), staticmethod(jnp.maximum), staticmethod(jnp.abs)
    sqrt = staticmethod(jnp.sqrt)
    where, isfinite, invert = staticmethod(jnp.where), staticmethod(jnp.isfinite), staticmethod(jnp.logical_not)

    @staticmethod
    def get(x: Any) -> Array:
        x = jnp.asarray(x)
        return x if x.dtype == jnp.bool_ else x.astype(jnp.float64)

    @staticmethod
    def put(x: Any, like: Array) -> Array:
        x = jnp.asarray(x)
        return x if x.dtype == jnp.bool_ else x.astype(like.dtype)


class JaxOps:
    """The protocol in JAX: numpy's functions from jax.numpy, the rest here."""

    scalars = TracedScalars()

    tanh, sin, cos = staticmethod(jnp.tanh), staticmethod(jnp.sin), staticmethod(jnp.cos)
    exp, log = staticmethod(jnp.exp), staticmethod(jnp.log)
    sqrt, abs, erf = staticmethod(jnp.sqrt), staticmethod(jnp.abs), staticmethod(jax.scipy.special.erf)
    sigmoid, silu, softplus = staticmethod(jax.nn.sigmoid), staticmethod(jax.nn.silu), staticmethod(jax.nn.softplus)
    maximum, minimum, where = staticmethod(jnp.maximum), staticmethod(jnp.minimum), staticmethod(jnp.where)
    isfinite = staticmethod(jnp.isfinite)
    reshape, broadcast_to, stack = staticmethod(jnp.reshape), staticmethod(jnp.broadcast_to), staticmethod(jnp.stack)
    concat = staticmethod(jnp.concatenate)
    matmul, outer, sum = staticmethod(jnp.matmul), staticmethod(jnp.outer), staticmethod(jnp.sum)
    mean = staticmethod(jnp.mean)
    max, any, all = staticmethod(jnp.max), staticmethod(jnp.any), staticmethod(jnp.all)
    stop_gradient, while_loop = staticmethod(jax.lax.stop_gradient), staticmethod(jax.lax.while_loop)

    @staticmethod
    def gelu(x: Array) -> Array:
        return jax.nn.gelu(x, approximate=False)

    @staticmethod
    def relu(x: Array) -> Array:
        return jax.nn.relu(x)

    @staticmethod
    def unstack(x: Array, axis: int = 0) -> list[Array]:
        """One `split`: the backward of separate slices would be as many padded additions (1.3x to 1.7x the step)."""
        if x.shape[axis] == 1:
            return [jnp.squeeze(x, axis)]
        return [jnp.squeeze(part, axis) for part in jax.lax.split(x, [1] * x.shape[axis], axis)]

    @staticmethod
    def features(parts: Sequence[Array]) -> Array:
        return jnp.concatenate(parts, 0)

    @staticmethod
    def taken(x: Array, places: Array) -> Array:
        """One copy of memory: a gather takes its elements one by one on a CPU."""
        return jax.lax.dynamic_slice(x, (places[0],), places.shape)

    @staticmethod
    def placed(x: Array, places: Array, like: Array) -> Array:
        return jax.lax.dynamic_update_slice(jnp.zeros_like(like), x.astype(like.dtype), (places[0],))

    @staticmethod
    def linear(h: Array, w: Array, b: Array | None = None) -> Array:
        z = w.T @ h
        return z if b is None else z + b[:, None]

    @staticmethod
    def cholesky_solve(A: Array, b: Array) -> Array:
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(A, symmetrize_input=False), True), b)

    @staticmethod
    def eigh(A: Array) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(A, symmetrize_input=False)
        return values, vectors

    @staticmethod
    def zeros(shape: Sequence[int], like: Array) -> Array:
        return jnp.zeros(shape, like.dtype)

    @staticmethod
    def ones(shape: Sequence[int], like: Array) -> Array:
        return jnp.ones(shape, like.dtype)

    @staticmethod
    def eye(n: int, like: Array) -> Array:
        return jnp.eye(n, dtype=like.dtype)

    @staticmethod
    def astype(x: Array, like: Array) -> Array:
        return jnp.asarray(x).astype(like.dtype)

    @staticmethod
    def to_int64(x: Array) -> Array:
        return jnp.asarray(x).astype(jnp.int64)

    @staticmethod
    def to_float32(x: Array) -> Array:
        return jnp.asarray(x).astype(jnp.float32)

    @staticmethod
    def cond(predicate: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return jax.lax.cond(predicate, yes, no)

    @staticmethod
    def activation(name: str, plan: Plan, channels: Sequence[Array | None]) -> list[Array | None]:
        """The channels of f(z), with the hand-written backward of `backends.derivatives.channels`."""
        live = tuple(i for i, x in enumerate(channels) if x is not None)
        function, out_of = _rule(name, plan, live)
        out: list[Array | None] = [None] * plan.size
        for i, x in zip(out_of, function([channels[i] for i in live]), strict=True):
            out[i] = x
        return out

    @staticmethod
    def nested(fn: Callable[[Array], Array], points: Array, indices: Sequence[tuple[int, ...]]) -> list[Array]:
        """Forward-mode derivatives, one nested in the other; XLA computes shared parts once."""
        return [_along(fn, index)(points) for index in indices]


OPS = JaxOps()


@cache
def _rule(name: str, plan: Plan, live: tuple[int, ...]) -> tuple[Callable[..., Any], tuple[int, ...]]:
    """The function of the live channels, with its derivative, and which channels come out."""

    def spread(values: Sequence[Array | None]) -> list[Array | None]:
        channels: list[Array | None] = [None] * plan.size
        for i, x in zip(live, values, strict=True):
            channels[i] = x
        return channels

    out_of = reached(plan, live)

    @jax.custom_vjp
    def function(values: list[Array]) -> list[Array]:
        out = forward(name, plan, OPS, spread(values))
        return [out[i] for i in out_of]

    def keep(values: list[Array]) -> tuple[list[Array], Any]:
        out = function(values)
        argument = None if saves_value(name) else values[0]
        return out, (out[0], argument, values[1:])

    def pull(kept: Any, cotangents: list[Array]) -> tuple[list[Array]]:
        value, argument, others = kept
        from_outside: list[Array | None] = [None] * plan.size
        for i, x in zip(out_of, cotangents, strict=True):
            from_outside[i] = x
        back = backward(name, plan, OPS, value, spread([argument, *others]), from_outside)
        like = [value, *others]
        return ([jnp.zeros_like(x) if back[i] is None else back[i] for i, x in zip(live, like, strict=True)],)

    function.defvjp(keep, pull)
    return function, out_of


def _along(fn: Callable[[Array], Array], index: tuple[int, ...]) -> Callable[[Array], Array]:
    """The derivative of `fn` along each coordinate of `index` in turn, sample by sample."""
    for coordinate in index:
        fn = _derivative(fn, coordinate)
    return fn


def _derivative(fn: Callable[[Array], Array], coordinate: int) -> Callable[[Array], Array]:
    def derivative(points: Array) -> Array:
        direction = jnp.zeros_like(points).at[coordinate].set(1)
        return jax.jvp(fn, (points,), (direction,))[1]

    return derivative
