"""What `orchestrator new` writes agrees on both backends and trains on each."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import compare_backends, run
from orchestrator.scaffold import KINDS, new

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_agrees_and_trains_on_both_backends(kind: str, here: Path):
    made = new("mine", kind=kind)
    agreed = compare_backends(made.experiment, {"compile": "never"}, steps=3)
    assert agreed["max_relative_difference"] < 1e-9
    steps = {"stages.warm.steps": 6, **({} if kind == "callback" else {"stages.polish.steps": 2})}
    for backend in ("jax", "torch"):
        result = run(made.experiment, {"backend": backend, "compile": "never", "tracking.enabled": False, **steps})
        assert (result.status, result.step) == ("finished", 6 if kind == "callback" else 8)
        assert "error/l2" in result.metrics
        assert ("own/fall" in result.history) == (kind == "callback")
