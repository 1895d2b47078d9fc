"""The derivative engine against nested differentiation of both frameworks: random residuals, and all that ships."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backends
from backends.networks import MLP, FourierFeatures, ModifiedMLP
from backends.pde.problem import Problem, hard, residual
from backends.pde.task import PdeTask
from backends.task import Parts
from backends.tasks import TaskUnion
from backends.testing.derivatives import engine_terms, nested_terms

ACTIVATIONS = ("tanh", "sin", "gelu", "silu")
Terms = Callable[..., dict[str, Any]]


def by_jax(terms: Terms, task: PdeTask, params: Any, batch: str, columns: Any) -> tuple[Any, Any]:
    """(values, gradient of the mean square) of the terms of one batch."""
    backends.load("jax")  # turns on 64 bits
    import jax
    import jax.numpy as jnp

    from backends.jax.ops import OPS

    given = {c: jnp.asarray(v) for c, v in columns.items()}

    def loss(free: Any) -> tuple[Any, Any]:
        values = terms(task, OPS, free, batch, given)
        flat = jnp.concatenate([jnp.ravel(part) for v in values.values() for part in _parts(v)])
        return jnp.mean(flat**2), flat

    free = {name: jnp.asarray(value) for name, value in params.items()}
    gradient, values = jax.grad(loss, has_aux=True)(free)
    return np.asarray(values), np.concatenate([np.ravel(gradient[name]) for name in sorted(free)])


def by_torch(terms: Terms, task: PdeTask, params: Any, batch: str, columns: Any) -> tuple[Any, Any]:
    """The same in torch."""
    import torch

    from backends.torch.ops import OPS

    free = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    values = terms(task, OPS, free, batch, {c: torch.as_tensor(v) for c, v in columns.items()})
    flat = torch.cat([part.reshape(-1) for v in values.values() for part in _parts(v)])
    names = sorted(free)
    found = torch.autograd.grad((flat**2).mean(), [free[n] for n in names], allow_unused=True)
    zeros = (torch.zeros_like(free[n]) if g is None else g for n, g in zip(names, found, strict=True))
    return flat.detach().numpy(), np.concatenate([g.numpy().ravel() for g in zeros])


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def agree(task: PdeTask, framework: Callable[..., tuple[Any, Any]], samples: int = 3) -> None:
    """Channels and nested differentiation, values and gradients, to 1e-10 of the largest."""
    params = task.init(np.random.default_rng(0))
    params = {k: v + 0.1 * np.random.default_rng(1).normal(size=v.shape) for k, v in params.items()}
    for batch, columns in task.held_out(samples).items():
        if task.recordings[batch].plan.size == 1:
            continue
        found, wanted = (framework(terms, task, params, batch, columns) for terms in (engine_terms, nested_terms))
        for one, other, what in zip(found, wanted, ("values", "gradient"), strict=True):
            scale = max(1e-3, float(np.abs(other).max()))
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * scale, err_msg=f"{what} of {batch}")


# --- everything that ships -----------------------------------------------------------------------------------------

SHIPPED = {
    task.model_fields["kind"].default: task
    for task in typing.get_args(typing.get_args(TaskUnion)[0])
    if issubclass(task, Problem)
}


@pytest.mark.parametrize("framework", [by_jax, by_torch])
@pytest.mark.parametrize("kind", sorted(SHIPPED))
def test_every_problem_that_ships_is_differentiated_as_nested_differentiation_does(kind: str, framework: Any):
    problem = SHIPPED[kind](**({"lid": "smooth"} if kind == "cavity" else {}))
    constraints = "hard" if problem.ansatz_name() or problem.periodic else "soft"
    agree(problem.build(Parts(MLP(width=5, depth=2), constraints)), framework)


# --- random residuals ----------------------------------------------------------------------------------------------


def drawn(
    names: tuple[str, ...], outputs: tuple[str, ...], products: Any, form: str, turning: tuple[str, ...]
) -> Problem:
    """A problem whose residual is a sum of products of derivatives, with a hard constraint of some form."""

    class Drawn(Problem):
        amount: float = 0.7
        coords = dict.fromkeys(names, (-0.8, 1.3))
        fields = outputs
        time = "t" if "t" in names else ""
        periodic = turning

        @residual
        def pde(self, f):
            factors = [math.prod(f.laplacian(u) if i == "lap" else f.d(u, *i) for u, i in some) for some in products]
            return sum(factors) + self.amount * f("x") * f("u")

        @residual(x="low")
        def edge(self, f):
            return f("u") - 0.5

        @residual(x="high")
        def slope(self, f):
            return f.normal("u") - f("u") ** 2, f("u") * f("u_xx")

        @hard("edge")
        def ansatz(self, f):
            x, u = f("x", "u")
            shaped = {"plain": u, "product": f.ops.tanh(x) * u * (1 + x * x), "quotient": u / (2 + f.ops.cos(x))}
            return {"u": 0.5 + (x + 0.8) * shaped[form]}

    return Drawn()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    names = draw(st.sampled_from([("x",), ("t", "x"), ("x", "y"), ("t", "x", "y")]))
    outputs = draw(st.sampled_from([("u",), ("u", "v")]))
    index = st.lists(st.sampled_from(names), max_size=4).map(tuple) | st.just("lap")
    product = st.lists(st.tuples(st.sampled_from(outputs), index), min_size=1, max_size=3)
    products = draw(st.lists(product, min_size=1, max_size=3))
    form, turning = draw(st.sampled_from(["plain", "product", "quotient"])), draw(st.sampled_from([(), ("x",)]))
    return drawn(names, outputs, products, form, turning)


NETWORKS = st.builds(
    lambda kind, depth, activation, count: kind(
        width=4, depth=depth, activation=activation, features=FourierFeatures(count=count, scale=0.3) if count else None
    ),
    st.sampled_from([MLP, ModifiedMLP]),
    st.integers(1, 2),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([0, 0, 2]),
)


def check(problem: Problem, network: Any, constraints: Any, framework: Any) -> None:
    agree(problem.build(Parts(network, constraints, scale_fields={"u": 1.7})), framework)


@given(problem=problems(), network=NETWORKS, constraints=st.sampled_from(["soft", "hard"]))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_random_residuals_are_differentiated_as_torch_does(problem: Problem, network: Any, constraints: Any):
    check(problem, network, constraints, by_torch)


@pytest.mark.parametrize(
    ("problem", "network", "constraints"),
    [
        (
            drawn(
                ("t", "x"), ("u", "v"), [[("u", "lap"), ("v", ("t", "x", "x"))], [("u", ("x",) * 4)]], "quotient", ()
            ),
            MLP(width=4, depth=2, activation="gelu", features=FourierFeatures(count=2, scale=0.3)),
            "hard",
        ),
        (
            drawn(("x", "y"), ("u",), [[("u", "lap")], [("u", ("x", "y")), ("u", ("y",))]], "product", ("x",)),
            ModifiedMLP(width=4, depth=1, activation="silu"),
            "soft",
        ),
    ],
    ids=["fourth-order", "laplacian"],
)
def test_residuals_are_differentiated_as_jax_does(problem: Problem, network: Any, constraints: Any):
    check(problem, network, constraints, by_jax)


@pytest.mark.slow
@given(problem=problems(), network=NETWORKS, constraints=st.sampled_from(["soft", "hard"]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_many_random_residuals_are_differentiated_as_both_frameworks_do(
    problem: Problem, network: Any, constraints: Any
):
    check(problem, network, constraints, by_jax)
    check(problem, network, constraints, by_torch)
