"""Shortened recipes of the problems bring the error down; `python -m benchmarks accuracy` trains them whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.runs import run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend", "points", "bound"),
    [
        ("heat/heat", "jax", 500, 1e-2),
        ("heat/heat", "torch", 500, 1e-2),
        ("heat/insulated", "jax", 500, 5e-2),
        ("heat/cooled", "jax", 500, 5e-2),
        ("wave/wave", "jax", 800, 0.6),
        ("advection/advection", "jax", 800, 0.95),
        ("helmholtz/helmholtz", "jax", 600, 0.1),
        ("diffusion_reaction/diffusion_reaction", "jax", 600, 0.1),
        ("kovasznay/kovasznay", "jax", 600, 0.1),
        ("allen_cahn/allen_cahn", "jax", 800, 0.6),
        ("kdv/kdv", "jax", 800, 0.88),
        ("euler_beam/euler_beam", "jax", 50, 1e-4),
        ("lorenz/lorenz", "jax", 400, 0.2),
        ("kuramoto_sivashinsky/kuramoto_sivashinsky", "jax", 600, 0.15),
        ("heat_layers/heat_layers", "jax", 500, 1e-3),
        ("poisson_5d/poisson_5d", "jax", 500, 1e-2),
    ],
)
def test_a_short_training_brings_the_error_below_its_bound(
    here: Path, name: str, backend: str, points: int, bound: float
):
    changes = {
        "backend": backend,
        "compile": "never" if backend == "torch" else "auto",
        "stages.warm.steps": 200,
        "stages.polish.steps": 300,
        "points.pde.count": points,
        "resources.workers": 0,
        "tracking.enabled": False,
        "evaluate.every": 500,
    }
    result = run(EXPERIMENTS / f"{name}.yaml", changes)
    assert result.status == "finished"
    assert result.metrics["error/l2"] < bound
