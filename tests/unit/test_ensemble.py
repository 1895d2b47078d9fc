"""Runs of several seeds as one result: means, spreads, and predictions with both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_backend import use

from backends.errors import UserError
from orchestrator import ensemble

TREE: dict[str, Any] = {
    "name": "members",
    "task": {"kind": "inverse_heat"},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {"pde": 24},
    "stages": [{"kind": "adam", "lr": 1e-2, "steps": 4}],
    "evaluate": {"every": 4, "points": 20},
    "resources": {"workers": 0},
    "tracking": {"enabled": False},
}


def test_members_differ_by_their_seed_and_give_mean_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch)
    found = ensemble(TREE, seeds=(3, 4, 7), out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seed-3", "seed-4", "seed-7"]
    values = [r.metrics["unknown/kappa"] for r in found.results]
    assert found.means["unknown/kappa"] == pytest.approx(np.mean(values))
    assert found.spreads["unknown/kappa"] == pytest.approx(np.std(values, ddof=1))
    assert found.spreads["validation/total"] > 0
    at = {"t": [0.1, 0.2], "x": [0.3, 0.4]}
    each = np.stack([r.predict(at)["u"] for r in found.results])
    np.testing.assert_allclose(found.predict(at)["u"].mean, each.mean(0))
    np.testing.assert_allclose(found.predict(at, ["u"])["u"].std, each.std(0, ddof=1))


@pytest.mark.parametrize("seeds", [1, (), (2, 2)])
def test_a_spread_needs_two_seeds(seeds: Any):
    with pytest.raises(UserError, match="at least two seeds"):
        ensemble(TREE, seeds=seeds)
