"""A training step in JAX as it is usually written: reverse over reverse per point, all points at once, one program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from backends.randomness import generator
from backends.task import Array


def step_by_step(made: Any, case: Any, later: int) -> tuple[Callable[[], Any], list[float]]:
    """(a loop of `case.steps` Adam steps from the same start, losses before step 0 and `later`)."""
    import jax
    import jax.numpy as jnp
    import optax

    task = made.task
    columns = task.feed(0).take(0, 1).fixed()["interior"]
    points = jnp.stack([jnp.asarray(columns[c], jnp.float32) for c in task.problem.coords], 1)
    start = {k: jnp.asarray(v, jnp.float32) for k, v in task.init(generator(0, "init")).items()}
    residual = {"burgers": _burgers, "kuramoto": _kuramoto, "poisson5": _poisson}[case.problem]
    constant = np.float32(task.constants["nu"])
    optimizer = optax.adam(1e-3)

    def loss(params: Any) -> Array:
        u = partial(_network, params, case.depth)
        return jnp.mean(jax.vmap(partial(residual, u, constant))(points) ** 2)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, change), state), value

    @partial(jax.jit, static_argnums=1)
    def steps(carry: Any, n: int) -> Any:
        return jax.lax.scan(step, carry, None, n)

    initial = (start, optimizer.init(start))
    losses = np.asarray(steps(initial, later + 1)[1])

    def loop() -> Any:
        return jax.block_until_ready(steps(initial, case.steps))

    return loop, [float(losses[0]), float(losses[later])]


def _network(params: Any, depth: int, z: Array) -> Array:
    import jax.numpy as jnp

    h = z
    for k in range(depth):
        h = jnp.tanh(h @ params[f"w{k}"] + params[f"b{k}"])
    return (h @ params[f"w{depth}"] + params[f"b{depth}"])[0]


def _slope(u: Callable[[Array], Array], i: int) -> Callable[[Array], Array]:
    import jax

    return lambda z: jax.grad(u)(z)[i]


def _burgers(u: Callable[[Array], Array], nu: Any, z: Array) -> Array:
    u_x = _slope(u, 1)
    return _slope(u, 0)(z) + u(z) * u_x(z) - nu * _slope(u_x, 1)(z)


def _kuramoto(u: Callable[[Array], Array], nu: Any, z: Array) -> Array:
    u_x = _slope(u, 1)
    u_xx = _slope(u_x, 1)
    u_xxxx = _slope(_slope(u_xx, 1), 1)
    return _slope(u, 0)(z) + u(z) * u_x(z) + u_xx(z) + nu * u_xxxx(z)


def _poisson(u: Callable[[Array], Array], nu: Any, z: Array) -> Array:
    import jax
    import jax.numpy as jnp

    return jnp.trace(jax.hessian(u)(z)) - nu * jnp.sum(z)
