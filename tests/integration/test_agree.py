"""Both backends give the same numbers: the figures of the README, on the Burgers file that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import compare_backends

FILE = Path(__file__).parents[2] / "experiments" / "burgers" / "burgers_soft.yaml"


@pytest.mark.parametrize(("precision", "losses", "gradients"), [("float64", 1e-9, 1e-12), ("float32", 1e-4, 1e-5)])
def test_a_hundred_adam_steps_agree(precision: str, losses: float, gradients: float):
    found = compare_backends(FILE, precision=precision)
    assert set(found) == {"max_relative_difference", "terms", "gradients", "steps", "precision"}
    assert (found["steps"], set(found["terms"])) == (100, {"pde", "ic", "bc"})
    assert 0 < found["max_relative_difference"] == max(found["terms"].values()) < losses
    assert found["gradients"] < gradients
