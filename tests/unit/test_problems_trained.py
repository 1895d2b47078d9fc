"""Shortened recipes of the problems that ship bring their error below a bound: slow, left out of `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.runs import run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend", "polish", "bound"),
    [
        ("heat/heat", "jax", 200, 1e-3),
        ("heat/heat", "torch", 200, 1e-3),
        ("heat/insulated", "jax", 400, 1e-2),
        ("heat/cooled", "jax", 400, 1e-2),
        ("wave/wave", "jax", 1500, 0.1),
        ("advection/advection", "jax", 1500, 0.1),
        ("helmholtz/helmholtz", "jax", 1000, 1e-2),
        ("helmholtz/high", "jax", 1000, 0.1),
        ("diffusion_reaction/diffusion_reaction", "jax", 800, 1e-2),
        ("kovasznay/kovasznay", "jax", 500, 1e-3),
        ("allen_cahn/allen_cahn", "jax", 1200, 0.1),
        ("kdv/kdv", "jax", 1500, 0.2),
    ],
)
def test_a_short_training_brings_the_error_below_its_bound(
    here: Path, name: str, backend: str, polish: int, bound: float
):
    pytest.importorskip(backend)
    changes = {
        "backend": backend,
        "compile": "never" if backend == "torch" else "auto",
        "stages.polish.steps": polish,
        "resources.workers": 0,
        "tracking.enabled": False,
        "evaluate.every": 500,
    }
    result = run(EXPERIMENTS / f"{name}.yaml", changes)
    assert result.status == "finished"
    assert result.metrics["error/l2"] < bound
