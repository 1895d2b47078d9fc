"""Under every weighting both backends give the same losses, and the weights really move."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from backends.weighting import AnyWeights
from benchmarks.weighting_errors import FIXED, RULES, merged, verdict
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


def test_a_rule_beats_fixed_weights_only_beyond_their_spread():
    fixed = {rule: [0.1, 0.2, 0.3] for rule in FIXED}
    fixed["fixed 1"] = [0.5, 0.6, 0.7]
    assert "no rule beats fixed weights" in verdict("wave", {**fixed, "ntk": [0.01, 0.15, 0.4]})
    assert "no rule beats fixed weights" in verdict("wave", {**fixed, "ntk": [0.3, 0.3, 0.4]})
    won = verdict("wave", {**fixed, "ntk": [0.01, 0.05, 0.4], "gram": [0.2, 0.2, 0.2]})
    assert "4.0 times less; 1 of 2 rules beat fixed weights; 2 of 2 beat weights of 1" in won


def test_every_kind_is_measured_and_columns_of_other_problems_stay():
    kinds = {model.model_fields["kind"].default for model in get_args(AnyWeights)}
    assert {make(("bc",))["kind"] for make in RULES.values()} == kinds
    first = merged("", {"burgers": dict.fromkeys(RULES, (1.0, 2.0, 3.0))})
    both = merged(first, {"wave": dict.fromkeys(RULES, (4.0, 5.0, 6.0))})
    assert "| ntk | 2 (1 … 3) |  | 5 (4 … 6) |  |" in both
