"""The array functions of the JAX backend are those of numpy, and derivative channels have the right gradients."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from backends.derivatives.channels import Plan, forward
from backends.jax.ops import OPS
from backends.ops import NumpyOps, Ops, Scalars
from backends.testing.setup import close

NUMPY = NumpyOps()
X = np.random.default_rng(0).normal(size=(3, 4))


def names(protocol: Any) -> list[str]:
    return [n for n, f in vars(protocol).items() if inspect.isfunction(f) and not n.startswith("_")]


def test_every_function_of_the_protocol_is_there():
    assert [n for n in names(Ops) if not hasattr(OPS, n)] == []
    assert [n for n in names(Scalars) if not hasattr(OPS.scalars, n)] == []


@pytest.mark.parametrize(
    "name", ["tanh", "sin", "cos", "exp", "abs", "erf", "sigmoid", "gelu", "silu", "softplus", "relu", "isfinite"]
)
def test_elementwise_functions_are_numpys(name: str):
    close(getattr(OPS, name)(jnp.asarray(X)), getattr(NUMPY, name)(X), name, 1e-14)


def test_the_rest_is_numpys():
    x = jnp.asarray(X)
    for got, expected in (
        (OPS.log(OPS.exp(x)), X),
        (OPS.sqrt(x * x), np.abs(X)),
        (OPS.maximum(x, 0.1), np.maximum(X, 0.1)),
        (OPS.minimum(x, 0.1), np.minimum(X, 0.1)),
        (OPS.where(x > 0, x, -x), np.abs(X)),
        (OPS.reshape(x, (2, 6)), X.reshape(2, 6)),
        (OPS.broadcast_to(x[:, :1], (3, 4)), np.broadcast_to(X[:, :1], (3, 4))),
        (OPS.stack([x, x], 1), np.stack([X, X], 1)),
        (OPS.concat([x, x], 1), np.concatenate([X, X], 1)),
        (OPS.features([x, x]), np.concatenate([X, X], 0)),
        (OPS.matmul(x, x.T), X @ X.T),
        (OPS.outer(x[0], x[1]), np.outer(X[0], X[1])),
        (OPS.linear(x, x.T.T, x[0]), NUMPY.linear(X, X, X[0])),
        (OPS.sum(x, 1), X.sum(1)),
        (OPS.mean(x, 0), X.mean(0)),
        (OPS.max(x), X.max()),
        (OPS.eye(3, x), np.eye(3)),
        (OPS.zeros((2,), x) + OPS.ones((2,), x), np.ones(2)),
    ):
        close(got, expected, "", 1e-14)
    assert bool(OPS.any(x > 0)) and not bool(OPS.all(x > 0))
    for axis in (0, 1):
        for got, expected in zip(OPS.unstack(x, axis), NUMPY.unstack(X, axis), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert OPS.unstack(x[:1])[0].shape == (4,)


def test_arrays_made_from_nothing_take_the_type_of_like():
    single = jnp.zeros(2, jnp.float32)
    made = (OPS.zeros((1,), single), OPS.ones((1,), single), OPS.eye(2, single), OPS.astype(X, single))
    assert {str(x.dtype) for x in made} == {"float32"}
    assert OPS.to_int64(single).dtype == jnp.int64
    assert OPS.scalars.get(single[0]).dtype == jnp.float64 and OPS.scalars.put(1.0, single).dtype == jnp.float32


def test_control_flow_runs_inside_a_program():
    def collatz(n: Any) -> Any:
        def following(c: Any) -> Any:
            n, steps = c
            return OPS.cond(n % 2 == 0, lambda: n // 2, lambda: 3 * n + 1), steps + 1

        return OPS.while_loop(lambda c: c[0] != 1, following, (n, jnp.zeros((), jnp.int64)))[1]

    assert int(jax.jit(collatz)(jnp.int64(27))) == 111


@pytest.mark.parametrize("name", ["tanh", "sin", "gelu", "silu", "exp", "sqrt"])
def test_the_hand_written_backward_of_channels_is_that_of_autodiff(name: str):
    plan = Plan.closing([("x", "x"), ("t",), ("x", "t")], ("x", "t"))
    rng = np.random.default_rng(1)
    channels: list[Any] = [jnp.asarray(rng.uniform(0.5, 1.5, (2, 5))) for _ in range(plan.size)]
    channels[plan.position(("t",))] = jnp.asarray(rng.normal(size=(2, 1)))
    channels[plan.position(("x", "x"))] = None
    weights = [jnp.asarray(rng.normal(size=(2, 5))) for _ in range(plan.size)]
    live = [i for i, x in enumerate(channels) if x is not None]

    def value(rule: Any, given: list[Any]) -> Any:
        full: list[Any] = [None] * plan.size
        for i, x in zip(live, given, strict=True):
            full[i] = x
        return sum(jnp.sum(w * y) for w, y in zip(weights, rule(full), strict=True) if y is not None)

    given = [channels[i] for i in live]
    ours = jax.jit(jax.value_and_grad(lambda g: value(lambda z: OPS.activation(name, plan, z), g)))(given)
    plain = jax.jit(jax.value_and_grad(lambda g: value(lambda z: forward(name, plan, OPS, z), g)))(given)
    jax.tree.map(lambda a, b: close(a, b, name, 1e-12), ours, plain)
