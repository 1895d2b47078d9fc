"""The quasi-Newton text gives the same path in numpy, in a jitted JAX loop and in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends import quasi
from backends.ops import NumpyOps
from backends.stages import Lbfgs, SsBroyden

STEPS = 10
START = np.tile([-1.2, 1.0, 0.3], 4)
KEYS = np.repeat([[0.0, 1.0], [1.0, 1.5]], [6, 4], axis=0)
"""From iteration 6 on: another version of the points, another weight."""
Path = tuple[NDArray[Any], NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]


def loss_and_gradient(ops: Any, key: Any) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Rosenbrock's valley, times the weight that stands in the key; not finite far away."""

    def vg(x: Any) -> tuple[Any, Any, Any]:
        d = x[1:] - x[:-1] ** 2
        left, right = -400 * x[:-1] * d - 2 * (1 - x[:-1]), 200 * d
        zero = ops.zeros((1,), x)
        g = ops.concat([left, zero]) + ops.concat([zero, right])
        terms = ops.stack([ops.sum(100 * d**2), ops.sum((1 - x[:-1]) ** 2)])
        bad = ops.where(ops.max(ops.abs(x)) > 3.0, ops.sum(x) * float("inf"), ops.sum(x) * 0)
        return terms, key[1] * ops.sum(terms) + bad, key[1] * g

    return vg


def numpy_path(stage: Any) -> Path:
    ops, x, losses, counts = NumpyOps(), START, [], []
    state = quasi.init(stage, ops, x, 2, 2)
    for key in KEYS:
        x, state, loss, count, _ = quasi.iteration(stage, ops, loss_and_gradient(ops, key), x, state, key)
        losses.append(loss)
        counts.append(count)
    return x, np.array(losses), np.array(counts), state


def jax_path(stage: Any) -> Path:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    from backends.jax.ops import OPS

    compiled = []

    @jax.jit
    def run(x: Any, state: Any, keys: Any, n: Any) -> Any:
        compiled.append(1)

        def body(i: Any, carry: Any) -> Any:
            x, state, losses, counts = carry
            x, state, loss, count, _ = quasi.iteration(stage, OPS, loss_and_gradient(OPS, keys[i]), x, state, keys[i])
            return x, state, losses.at[i].set(loss), counts.at[i].set(count)

        return jax.lax.fori_loop(0, n, body, (x, state, jnp.zeros((STEPS, 2)), jnp.zeros(STEPS, jnp.int64)))

    x = jnp.asarray(START)
    state = quasi.init(stage, OPS, x, 2, 2)
    run(x, state, jnp.asarray(KEYS), 3)
    x, state, losses, counts = run(x, state, jnp.asarray(KEYS), STEPS)
    assert len(compiled) == 1
    return np.asarray(x), np.asarray(losses), np.asarray(counts), {k: np.asarray(v) for k, v in state.items()}


def torch_path(stage: Any) -> Path:
    torch = pytest.importorskip("torch")
    from backends.torch.ops import OPS

    x, losses, counts = torch.as_tensor(START), [], []
    state = quasi.init(stage, OPS, x, 2, 2)
    for row in KEYS:
        key = torch.as_tensor(row)
        x, state, loss, count, ended = quasi.iteration(stage, OPS, loss_and_gradient(OPS, key), x, state, key)
        assert count.dtype == ended.dtype == torch.int64
        losses.append(loss.numpy())
        counts.append(int(count))
    return x.numpy(), np.array(losses), np.array(counts), {k: v.numpy() for k, v in state.items()}


@pytest.mark.parametrize(
    "stage",
    [SsBroyden(steps=1), SsBroyden(steps=1, memory=30), Lbfgs(steps=1, memory=4)],
    ids=["dense", "limited", "lbfgs"],
)
@pytest.mark.parametrize("framework", [jax_path, torch_path], ids=["jax", "torch"])
def test_ten_iterations_agree_with_numpy(stage: Any, framework: Callable[[Any], Path]) -> None:
    x, losses, counts, state = numpy_path(stage)
    theirs_x, theirs_losses, theirs_counts, theirs = framework(stage)
    np.testing.assert_allclose(theirs_losses, losses, rtol=1e-9)
    np.testing.assert_allclose(theirs_x, x, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(theirs_counts, counts)
    assert {k: (v.shape, v.dtype) for k, v in theirs.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}
    for name in set(state) - {"Q", "M"}:  # directions may be turned among themselves
        np.testing.assert_allclose(theirs[name], state[name], rtol=1e-7, atol=1e-9, err_msg=name)
