"""Under every weighting both backends give the same losses, and the weights really move."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from backends.weighting import AnyWeights
from benchmarks.weightings import WEIGHTINGS, difference, losses


def test_every_weighting_of_an_experiment_file_is_compared():
    kinds = {model.model_fields["kind"].default for model in get_args(AnyWeights)}
    assert {w["kind"] for w in WEIGHTINGS.values()} == kinds


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_jax_and_torch_agree_step_by_step(name: str):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    (jax, ended), (torch, also) = (losses(backend, WEIGHTINGS[name]) for backend in ("jax", "torch"))
    assert jax.shape == (50, 3)
    assert difference(jax, torch) < 1e-9
    np.testing.assert_allclose(ended, also, rtol=1e-9)
    assert name == "fixed" or not np.allclose(ended, 1.0, rtol=1e-6), "the weights moved"
