"""Loss curves that must not change unless the mathematics does.

After a change that is meant to alter results: `python tests/golden/test_golden_curves.py` writes them anew; say why in
the commit, and show the runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backends.weighting import Weighting
from orchestrator.assemble import assemble
from orchestrator.config import Experiment
from orchestrator.knobs import Knobs, initial

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS = 30
CASES = {
    "burgers_hard": {
        "task": {"kind": "burgers"}, "constraints": "hard", "points": {"pde": 200},
        "network": {"kind": "mlp", "width": 8, "depth": 2},
        "stages": [{
            "kind": "adam", "lr": 1e-2, "steps": STEPS, "precision": "float64",
            "schedule": {"kind": "cosine", "warmup": 5},
        }],
    },
    "burgers_soft_broyden": {
        "task": {"kind": "burgers"}, "points": {"pde": 100, "ic": 20, "bc": 20},
        "network": {"kind": "modified_mlp", "width": 6, "depth": 2, "activation": "sin"},
        "stages": [{"kind": "ssbroyden", "steps": 15}],
    },
    "inverse_heat": {
        "task": {"kind": "inverse_heat"}, "points": {"pde": 100, "ic": 20, "bc": 20},
        "network": {
            "kind": "mlp", "width": 8, "depth": 2, "activation": "gelu", "features": {"count": 8, "scale": 1.0},
        },
        "stages": [{"kind": "adamw", "lr": 1e-2, "steps": STEPS, "precision": "float64"}],
    },
    "digits_vae": {
        "task": {"kind": "vae"}, "data": {"kind": "digits", "batch": 32},
        "network": {"kind": "vae", "latent": 3, "width": 16, "depth": 1},
        "stages": [{"kind": "sgd", "lr": 1e-3, "momentum": 0.9, "steps": STEPS, "precision": "float64"}],
    },
}  # fmt: skip


def curve(case: str, backend: str) -> dict[str, list[float]]:
    """Every term of the first steps, as the product computes it."""
    experiment = Experiment.model_validate({"name": case, "backend": backend, "compile": "never", **CASES[case]})
    made = assemble(experiment, ROOT)
    trained = [t.name for t in made.task.terms if t.trained]
    knobs = Knobs(initial(made.task, Weighting.of(experiment.weights, trained, 0).weights), task=made.task)
    stage = made.stages[0]
    state = made.backend.init(experiment.seed)
    _, steps = made.backend.step(
        state, stage.steps, knobs.table(stage, 0, 0, stage.steps), made.task.feed(experiment.seed), 0
    )
    return {name: steps.losses[:, i].tolist() for i, name in enumerate(trained)}


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_curve_is_the_recorded_one(case: str, backend: str):
    recorded = json.loads((HERE / f"{case}.json").read_text())
    computed = curve(case, backend)
    assert list(computed) == list(recorded)
    for term, values in recorded.items():
        np.testing.assert_allclose(computed[term], values, rtol=1e-9, err_msg=term)


if __name__ == "__main__":
    for name in CASES:
        (HERE / f"{name}.json").write_text(json.dumps(curve(name, "jax"), indent=1) + "\n")
