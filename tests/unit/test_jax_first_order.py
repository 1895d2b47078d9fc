"""First-order stages take the very steps of optax's own optimizers, with hyperparameters that are arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import optax

from backends.jax import first_order
from backends.testing.setup import all_close

CASES: dict[str, tuple[dict[str, float], Any]] = {
    "adam": ({"lr": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-6}, lambda: optax.adam(0.02, 0.8, 0.95, 1e-6)),
    "adamw": (
        {"lr": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.1},
        lambda: optax.adamw(0.02, 0.8, 0.95, 1e-6, weight_decay=0.1),
    ),
    "sgd": ({"lr": 0.05, "momentum": 0.7}, lambda: optax.sgd(0.05, momentum=0.7)),
}


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("kind", CASES)
def test_each_step_is_optaxs(kind: str, clip: float | None):
    knobs, reference = CASES[kind]
    chain = optax.chain(optax.clip_by_global_norm(clip), reference()) if clip else reference()

    def stepped(gradient: Any, state: Any, free: Any, knobs: Any) -> Any:
        gradient = first_order.clipped(gradient, knobs["clip"]) if clip else gradient
        direction, state = first_order.direction(kind, gradient, state, free, knobs)
        return {name: value - knobs["lr"] * direction[name] for name, value in free.items()}, state

    rng = np.random.default_rng(0)
    ours: Any
    theirs: Any
    ours = theirs = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2), "k": np.asarray(rng.normal())}
    state, memory = first_order.init(kind, ours), chain.init(theirs)
    given = {**knobs, **({"clip": clip} if clip else {})}
    update = jax.jit(stepped)
    for step in range(30):
        size = 10.0 ** (-step % 3)
        gradient = {name: rng.normal(size=np.shape(p)) * size for name, p in theirs.items()}
        ours, state = update(gradient, state, ours, given)
        change, memory = chain.update(gradient, memory, theirs)
        theirs = optax.apply_updates(theirs, change)
        all_close(ours, theirs, f"{kind}, step {step}")
