"""A user's own JAX networks train, keep their buffers in checkpoints and draw noise from (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import backends
from backends.errors import OwnCodeFailed, UserError
from backends.networks import MLP, Network
from backends.ops import NumpyOps
from backends.task import Context
from backends.testing.setup import ADAM, build, same_bits, snapshot, table
from backends.testing.tasks import Curves

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
JAX = backends.load("jax")


class Plain(linen.Module):
    width: int = 6
    outputs: int = 1

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(self.outputs)(jnp.tanh(linen.Dense(self.width)(x)))


class Normed(linen.Module):
    outputs: int

    @linen.compact
    def __call__(self, x: Any, train: bool) -> Any:
        h = linen.BatchNorm(use_running_average=not train, momentum=0.5)(linen.Dense(5)(x))
        h = linen.Dropout(0.3, deterministic=not train)(jnp.tanh(h))
        return linen.Dense(self.outputs)(h)


class Graph(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rngs: Any, width: int = 5):
        self.a, self.norm = nnx.Linear(inputs, width, rngs=rngs), nnx.BatchNorm(width, momentum=0.5, rngs=rngs)
        self.drop, self.b = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.b(self.drop(jnp.tanh(self.norm(self.a(x)))))


@jax.tree_util.register_dataclass
@dataclass
class Tree:
    """What an equinox module is: a pytree that is called with one sample."""

    weights: list[Any]

    def __call__(self, x: Any) -> Any:
        for w in self.weights[:-1]:
            x = jnp.tanh(w.T @ x)
        return self.weights[-1].T @ x


def tree(inputs: int, outputs: int, key: Any) -> Tree:
    first, second = jax.random.split(key)
    return Tree([jax.random.normal(first, (inputs, 4)), jax.random.normal(second, (4, outputs))])


def functions(width: int = 4) -> SimpleNamespace:
    def init(key: Any, inputs: int, outputs: int) -> Any:
        first, second = jax.random.split(key)
        return {"in": jax.random.normal(first, (inputs, width)), "out": [jax.random.normal(second, (width, outputs))]}

    return SimpleNamespace(init=init, apply=lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"][0])


@dataclass(frozen=True)
class Own(Curves):
    """Curves with a network that somebody brought: u and its second derivative enter the terms."""

    network: Any = None

    signature = None  # type: ignore[assignment]

    def init(self, rng: np.random.Generator) -> dict[str, Any]:
        return {**self.network.init(rng, 1, 2), "rate": np.asarray(0.7)}

    def aux(self) -> dict[str, Any]:
        return self.network.aux()

    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Context) -> dict[str, Any]:
        bound = self.network.bound(context)
        t = columns["t"][None]
        if batch == "inside":
            value, second = ops.nested(lambda x: bound.apply(ops, params, x), t, [(), (0, 0)])
            return {"pair": (value[0], second[0]), "energy": value[1] ** 2 + params["rate"] ** 2}
        value = bound.apply(ops, params, t)
        return {"edge" if batch == "ends" else "hidden": value[0] * context.constants["shift"]}

    def predict(self, ops: Any, params: Any, names: Any, columns: Any, context: Context) -> dict[str, Any]:
        u = self.network.bound(context).apply(ops, params, columns["t"][None])
        return dict.fromkeys(names, u[0])


@pytest.mark.parametrize(
    ("target", "fields", "name", "buffer"),
    [
        (Plain, {"width": 3}, "Dense_0/kernel", None),
        (Normed, {}, "Dense_0/kernel", "batch_stats/BatchNorm_0/mean"),
        (Graph, {"width": 3}, "a/kernel", "norm/mean"),
        (tree, {}, "weights/0", None),
        (functions, {"width": 5}, "in", None),
        (functions(), {}, "out/0", None),
    ],
)
def test_every_form_of_module_trains_and_resumes_to_the_bit(target: Any, fields: dict, name: str, buffer: str | None):
    task = Own(network=JAX.adapt(target, fields))
    backend = build(JAX, task)
    feed, stage = task.feed(0), ADAM[0]
    start = backend.parameters(backend.init(1))
    assert name in start and start[name].dtype == np.float64
    state, first = backend.step(backend.init(1), 3, table(task, stage, 3), feed, 0)
    arrays, meta = backend.arrays(state)
    assert np.any(arrays[f"params/{name}"] != start[name]) and np.isfinite(first.losses).all()
    if buffer:
        assert np.any(arrays[f"aux/{buffer}"] != backend.arrays(backend.init(1))[0][f"aux/{buffer}"])
    again = Own(network=JAX.adapt(target, fields))
    other = build(JAX, again)
    there, _ = other.step(
        other.load({k: v.copy() for k, v in arrays.items()}, meta), 3, table(again, stage, 3), feed, 3
    )
    state, _ = backend.step(state, 3, table(task, stage, 3), feed, 3)
    same_bits(snapshot(other, there), snapshot(backend, state), "resumed")
    before = snapshot(backend, state)
    assert backend.evaluate(state, task.held_out(5)) == backend.evaluate(state, task.held_out(5))
    assert backend.predict(state, ["u"], {"t": np.zeros(4)})["u"].shape == (4,)
    same_bits(snapshot(backend, state), before, "reading changes buffers")


def test_a_modules_noise_follows_from_seed_and_step():
    task = Own(network=JAX.adapt(Normed, {}))
    knobs = table(task, ADAM[0], 1)
    losses = {}
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        backend = build(JAX, task, seed=seed)
        found = backend.step(backend.init(0), 1, knobs, task.feed(0), step)[1].losses[0, 0]
        assert losses.setdefault((seed, step), found) == found
    assert len(set(losses.values())) == 3


def test_derivatives_of_an_own_module_equal_those_of_jets():
    from backends.derivatives.channels import Plan
    from backends.derivatives.jets import JetOps, seed
    from backends.jax.ops import OPS

    network = MLP(width=5, depth=2, activation="gelu")
    params = network.init(np.random.default_rng(0), 2, 1)
    points = np.random.default_rng(1).normal(size=(2, 7))
    indices = [(), (0,), (1,), (0, 1), (1, 1), (0, 1, 1)]
    nested = jax.jit(lambda x: OPS.nested(lambda x: network.apply(OPS, params, x), x, indices))(jnp.asarray(points))
    plan = Plan.closing([tuple("ab"[i] for i in index) for index in indices])

    @jax.jit
    def channels(a: Any, b: Any) -> list[Any]:
        at, ops = seed(plan, OPS, {"a": a, "b": b}), JetOps(OPS, plan)
        out = network.apply(ops, params, ops.features([at["a"], at["b"]]))
        return [out.at(tuple("ab"[i] for i in index)) for index in indices]

    for one, other in zip(nested, channels(*jnp.asarray(points)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_a_network_of_ours_comes_in_as_it_is():
    class Mine(Network):
        width: int = 3

        def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, Any]:
            return {"w": rng.normal(size=(inputs, outputs))}

        def apply(self, ops: Any, params: Any, h: Any) -> Any:
            return ops.linear(h, params["w"])

    network = JAX.adapt(Mine, {"width": 4})
    assert network.width == 4 and network.apply(NumpyOps(), {"w": np.ones((1, 2))}, np.ones((1, 3))).shape == (2, 3)
    with pytest.raises(UserError, match="widht"):
        JAX.adapt(Mine, {"widht": 4})


def test_what_is_no_network_is_refused_with_what_is_allowed():
    class Broken(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return x @ jnp.ones((7, 7))

    with pytest.raises(UserError, match=r"takes no 'widht'; did you mean 'width'"):
        JAX.adapt(Plain, {"widht": 3})
    with pytest.raises(UserError, match="object of the type int"):
        JAX.adapt(3, {})
    with pytest.raises(UserError, match="needs a value for 'size'"):
        JAX.adapt(lambda size: None, {})
    with pytest.raises(UserError, match="makes no network"):
        JAX.adapt(lambda: 3, {}).init(np.random.default_rng(0), 1, 1)
    with pytest.raises(OwnCodeFailed, match="Broken"):
        JAX.adapt(Broken, {}).init(np.random.default_rng(0), 1, 1)
    wrong = JAX.adapt(Plain, {"outputs": 3})
    wrong.init(np.random.default_rng(0), 1, 2)
    with pytest.raises(UserError, match=r"array of the shape \[4, 3\]"):
        wrong.apply(None, {k: jnp.asarray(v) for k, v in wrong._module.params.items()}, jnp.ones((1, 4)))
