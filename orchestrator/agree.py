"""Both backends side by side on one experiment: gradients at step 0, then every loss term of the first steps.

Both start from the same bits and see the same points, so in float64 they differ by rounding alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.environment import environment
from backends.errors import RunFailed, UserError
from backends.stages import DOUBLE
from backends.weighting import Weighting
from orchestrator.assemble import CAPACITY, assemble
from orchestrator.config import Experiment
from orchestrator.knobs import Knobs, initial
from orchestrator.launch import backend_installed
from orchestrator.runs import checked, read_folder

BACKENDS = ("jax", "torch")


def compare(file: str | Path, overrides: Any = None, *, steps: int = 100, precision: str = "float64") -> dict[str, Any]:
    """Run the first `steps` steps on both backends, each in its own process, and compare.

    Returns `{"max_relative_difference", "terms": {name: …}, "gradients": …, "steps", "precision"}`; differences are
    relative to the largest value of that term (gradients: to the norm of the gradient).
    """
    read = checked(file, overrides)
    for name in BACKENDS:
        backend_installed(name)
    experiment = read.experiment
    first = experiment.stages[0]
    stage = {**first.model_dump(mode="json"), "precision": precision}
    if isinstance(first, DOUBLE) and precision == "float32":
        raise UserError(f"the first stage is {first.kind}, which needs float64", path="stages.0.precision")
    tree = {**experiment.tree(), "stages": [stage], "callbacks": [], "device": "cpu"}
    steps = min(steps, first.steps)
    with tempfile.TemporaryDirectory(prefix="orchestrator-agree-") as folder:
        task = {"tree": tree, "folder": str(read_folder(file)), "steps": steps}
        Path(folder, "task.json").write_text(json.dumps(task), encoding="utf-8")
        children = {name: _spawn(name, folder, experiment) for name in BACKENDS}
        outcomes = {name: _collect(name, folder, child) for name, child in children.items()}
    return _differences(outcomes["jax"], outcomes["torch"], precision)


def _spawn(name: str, folder: str, experiment: Experiment) -> subprocess.Popen[str]:
    variables = environment(name, experiment.resources.cpus_per_worker, "cpu")
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.agree", name, folder],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def _collect(name: str, folder: str, child: subprocess.Popen[str]) -> Mapping[str, NDArray[np.float64]]:
    _, said = child.communicate()
    if child.returncode:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        raise RunFailed(f"the {name} backend failed: {lines[-1] if lines else 'no message'}")
    with np.load(Path(folder, f"{name}.npz")) as data:
        return {k: data[k] for k in data.files}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], precision: str) -> dict[str, Any]:
    terms = [str(t) for t in a["terms"]]
    scale = np.maximum(np.abs(a["losses"]), np.abs(b["losses"]))
    relative = np.abs(a["losses"] - b["losses"]) / np.where(scale > 0, scale, 1.0)
    norm = float(np.linalg.norm(a["gradient"])) or 1.0
    return {
        "max_relative_difference": float(relative.max(initial=0.0)),
        "terms": {t: float(relative[:, i].max(initial=0.0)) for i, t in enumerate(terms)},
        "gradients": float(np.abs(a["gradient"] - b["gradient"]).max(initial=0.0) / norm),
        "steps": len(a["losses"]),
        "precision": precision,
    }


def _child(name: str, folder: str) -> None:
    """In a process of its own: the first steps of one backend, as npz."""
    task = json.loads(Path(folder, "task.json").read_text(encoding="utf-8"))
    experiment = Experiment.model_validate({**task["tree"], "backend": name})
    made = assemble(experiment, Path(task["folder"]))
    stage, backend = made.stages[0], made.backend
    feed = made.task.feed(experiment.seed)
    trained = [t.name for t in made.task.terms if t.trained]
    weighting = Weighting.of(experiment.weights, trained, experiment.seed)
    knobs = Knobs(
        initial(made.task, weighting.weights),
        weighting.plans,
        experiment.clip,
        groups=experiment.groups,
        noise=experiment.gradients.noise,
        task=made.task,
    )
    state = backend.init(experiment.seed)
    row = knobs.table(stage, 0, 0, 1)[0]
    gradient = backend.probe(state, frozenset({"gradient"}), feed, 0, row)["gradient"]
    losses = []
    for start in range(0, task["steps"], CAPACITY):
        n = min(CAPACITY, task["steps"] - start)
        state, steps = backend.step(state, n, knobs.table(stage, start, start, n), feed, start)
        losses.append(steps.losses)
    np.savez(Path(folder, f"{name}.npz"), losses=np.concatenate(losses), gradient=gradient, terms=np.array(trained))


__all__ = ["compare"]

if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
