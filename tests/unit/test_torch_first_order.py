"""Adam, AdamW, SGD and clipping of the torch backend are optax's, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
pytest.importorskip("optax")

import jax.numpy as jnp
import optax
import torch

import backends
from backends.torch.first_order import clipped, optimizer
from backends.torch.layout import Layout

backends.load("jax")  # float64

CHAINS: dict[str, Any] = {
    "adam": lambda k, lr: optax.adam(lr, k["b1"], k["b2"], k["eps"]),
    "adamw": lambda k, lr: optax.adamw(lr, k["b1"], k["b2"], k["eps"], weight_decay=k["weight_decay"]),
    "sgd": lambda k, lr: optax.sgd(lr, k["momentum"]),
}
KNOBS = {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.03, "momentum": 0.7}


@pytest.mark.parametrize("kind", list(CHAINS))
def test_every_step_is_that_of_optax(kind: str) -> None:
    rng = np.random.default_rng(0)
    x0 = rng.normal(size=7)
    rates = np.linspace(0.1, 0.01, 30)
    x, theirs = torch.tensor(x0), jnp.asarray(x0)
    ours = optimizer(kind, Layout((("w", (7,)),)))
    parts = ours.init(x)
    state = CHAINS[kind](KNOBS, 0.1).init(theirs)
    for lr in rates:
        g = rng.normal(size=7)
        knobs = {k: torch.tensor(v, dtype=torch.float64) for k, v in {**KNOBS, "lr": lr}.items()}
        direction, parts = ours.direction(torch.tensor(g), x, parts, knobs)
        x = x - knobs["lr"] * direction
        updates, state = CHAINS[kind](KNOBS, lr).update(jnp.asarray(g), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        np.testing.assert_allclose(x.numpy(), np.asarray(theirs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 100.0])
def test_clipping_is_that_of_optax(limit: float) -> None:
    g = np.random.default_rng(1).normal(size=9)
    expected, _ = optax.clip_by_global_norm(limit).update(jnp.asarray(g), optax.EmptyState())
    got = clipped(torch.tensor(g), torch.tensor(limit, dtype=torch.float64))
    np.testing.assert_allclose(got.numpy(), np.asarray(expected), rtol=1e-14)
    assert torch.equal(clipped(torch.zeros(3), torch.tensor(limit)), torch.zeros(3))
