"""Clipping of the torch backend is optax's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
pytest.importorskip("optax")

import jax.numpy as jnp
import optax
import torch

import backends
from backends.torch.first_order import clipped

backends.load("jax")  # float64


@pytest.mark.parametrize("limit", [1e-3, 1.0, 100.0])
def test_clipping_is_that_of_optax(limit: float) -> None:
    g = np.random.default_rng(1).normal(size=9)
    expected, _ = optax.clip_by_global_norm(limit).update(jnp.asarray(g), optax.EmptyState())
    got = clipped(torch.tensor(g), torch.tensor(limit, dtype=torch.float64))
    np.testing.assert_allclose(got.numpy(), np.asarray(expected), rtol=1e-14)
    assert torch.equal(clipped(torch.zeros(3), torch.tensor(limit)), torch.zeros(3))
