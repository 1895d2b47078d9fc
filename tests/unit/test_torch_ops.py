"""The array functions of the torch backend are those of numpy, and derivative channels have the right gradients."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from backends.derivatives.channels import Plan, forward
from backends.ops import NumpyOps, Ops, Scalars
from backends.testing.setup import close
from backends.torch.ops import OPS

NUMPY = NumpyOps()
X = np.random.default_rng(0).normal(size=(3, 4))
ELEMENTWISE = ["tanh", "sin", "cos", "exp", "abs", "erf", "sigmoid", "gelu", "silu", "softplus", "relu", "isfinite"]


def names(protocol: Any) -> list[str]:
    return [n for n, f in vars(protocol).items() if inspect.isfunction(f) and not n.startswith("_")]


def test_every_function_of_the_protocol_is_there() -> None:
    assert [n for n in names(Ops) if not hasattr(OPS, n)] == []
    assert [n for n in names(Scalars) if not hasattr(OPS.scalars, n)] == []


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions_are_numpys(name: str) -> None:
    for x in (X, 30 * X):
        close(getattr(OPS, name)(torch.tensor(x)), getattr(NUMPY, name)(x), name, 1e-14)
    number = getattr(OPS, name)(0.3)
    assert isinstance(number, (float, bool)) and number == getattr(NUMPY, name)(0.3)


def test_the_rest_is_numpys() -> None:
    x = torch.tensor(X)
    for got, expected in (
        (OPS.log(OPS.exp(x)), X),
        (OPS.sqrt(x * x), np.abs(X)),
        (OPS.maximum(x, 0.1), np.maximum(X, 0.1)),
        (OPS.minimum(0.1, x), np.minimum(X, 0.1)),
        (OPS.maximum(2.0, 3), 3.0),
        (OPS.where(x > 0, x, -x), np.abs(X)),
        (OPS.where(x > 0, x, 0.0), np.maximum(X, 0)),
        (OPS.where(True, 1.0, 2.0), 1.0),
        (OPS.reshape(x, [2, 6]), X.reshape(2, 6)),
        (OPS.broadcast_to(x[:, :1], (3, 4)), np.broadcast_to(X[:, :1], (3, 4))),
        (OPS.stack([x, x], 1), np.stack([X, X], 1)),
        (OPS.concat((x, x), 1), np.concatenate([X, X], 1)),
        (OPS.features([x, x]), np.concatenate([X, X], 0)),
        (OPS.matmul(x, x.T), X @ X.T),
        (OPS.outer(x[0], x[1]), np.outer(X[0], X[1])),
        (OPS.linear(x, x, x[0]), NUMPY.linear(X, X, X[0])),
        (OPS.sum(x, 1), X.sum(1)),
        (OPS.mean(x, 0), X.mean(0)),
        (OPS.max(x), X.max()),
        (OPS.max(x, 1), X.max(1)),
        (OPS.eye(3, x), np.eye(3)),
        (OPS.zeros((2,), x) + OPS.ones([2], x), np.ones(2)),
        (OPS.stop_gradient(x), X),
    ):
        close(got, expected, "", 1e-14)
    assert bool(OPS.any(x > 0)) and not bool(OPS.all(x > 0))
    for axis in (0, 1):
        for got, expected in zip(OPS.unstack(x, axis), NUMPY.unstack(X, axis), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_arrays_made_from_nothing_take_the_type_of_like() -> None:
    single = torch.zeros(2, dtype=torch.float32)
    made = (OPS.zeros((1,), single), OPS.ones((1,), single), OPS.eye(2, single), OPS.astype(torch.tensor(X), single))
    assert {x.dtype for x in (*made, OPS.astype(0.5, single), OPS.maximum(single, 0.1))} == {torch.float32}
    assert OPS.to_int64(single).dtype == torch.int64 and OPS.to_int64(3).dtype == torch.int64
    scalars = OPS.scalars
    assert isinstance(scalars.get(single[0]), float) and scalars.put(1.0, single).dtype == torch.float32
    assert scalars.get(torch.tensor(True)) is True and scalars.put(True, single).dtype == torch.bool


def test_control_flow_is_pythons() -> None:
    def following(c: Any) -> Any:
        n, steps = c
        return OPS.cond(n % 2 == 0, lambda: n // 2, lambda: 3 * n + 1), steps + 1

    assert OPS.while_loop(lambda c: c[0] != 1, following, (torch.tensor(27), 0))[1] == 111


@pytest.mark.parametrize("name", ["tanh", "sin", "gelu", "silu", "exp", "sqrt"])
def test_the_hand_written_backward_of_channels_is_that_of_autograd(name: str) -> None:
    plan = Plan.closing([("x", "x"), ("t",), ("x", "t")], ("x", "t"))
    rng = np.random.default_rng(1)
    channels: list[Any] = [torch.tensor(rng.uniform(0.5, 1.5, (2, 5))) for _ in range(plan.size)]
    channels[plan.position(("t",))] = torch.tensor(rng.normal(size=(2, 1)))
    channels[plan.position(("x", "x"))] = None
    weights = [torch.tensor(rng.normal(size=(2, 5))) for _ in range(plan.size)]

    def value_and_slopes(rule: Any) -> list[Any]:
        given = [None if x is None else x.clone().requires_grad_() for x in channels]
        found = rule(given)
        value = sum(torch.sum(w * y) for w, y in zip(weights, found, strict=True) if y is not None)
        return [value.detach(), *torch.autograd.grad(value, [x for x in given if x is not None])]

    ours = value_and_slopes(lambda z: OPS.activation(name, plan, z))
    plain = value_and_slopes(lambda z: forward(name, plan, OPS, z))
    for a, b in zip(ours, plain, strict=True):
        close(a, b, name, 1e-12)


def test_the_hand_written_backward_can_be_differentiated_again() -> None:
    plan = Plan.closing([("x",)])
    z = [torch.tensor(X, requires_grad=True), torch.tensor(X + 1, requires_grad=True)]

    def penalty(rule: Any) -> Any:
        (slope,) = torch.autograd.grad(rule(z)[1].sum(), z[0], create_graph=True)
        return torch.autograd.grad((slope**2).sum(), z)

    ours = penalty(lambda c: OPS.activation("tanh", plan, c))
    for a, b in zip(ours, penalty(lambda c: forward("tanh", plan, OPS, c)), strict=True):
        close(a, b, "second derivative", 1e-12)


def test_nested_derivatives_of_a_polynomial() -> None:
    x, y = torch.tensor(X[:1]), torch.tensor(X[1:2])
    points = torch.cat([x, y])

    def fn(p: Any) -> Any:
        return torch.stack([p[0] ** 3 * p[1] ** 2, 2.0 * p[1], torch.ones_like(p[0])])

    for tracked in (torch.enable_grad(), torch.no_grad()):
        with tracked:
            found = OPS.nested(fn, points, [(), (0,), (1, 0), (0, 1), (0, 0, 0), (1, 1)])
    x, y, zero = X[0], X[1], 0 * X[0]
    expected = (
        [x**3 * y**2, 2 * y, zero + 1],
        [3 * x**2 * y**2, zero, zero],
        [6 * x**2 * y, zero, zero],
        [6 * x**2 * y, zero, zero],
        [6 * y**2, zero, zero],
        [2 * x**3, zero, zero],
    )
    for got, rows in zip(found, expected, strict=True):
        close(got, np.stack(rows), "nested", 1e-13)
        assert not got.requires_grad
