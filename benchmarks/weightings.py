"""Every weighting on both backends: the losses of the first 50 steps of Burgers with soft constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.weighting import Weighting
from backends.weighting.uncertainty import log_variances
from benchmarks.results import Section, page, table
from orchestrator.assemble import assemble
from orchestrator.config import Experiment
from orchestrator.knobs import Knobs, initial

STEPS, EVERY = 50, 5
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "values": {"ic": 10.0}},
    "gradient_norms": {"kind": "gradient_norms", "every": EVERY},
    "annealing": {"kind": "annealing", "every": EVERY},
    "inverse_dirichlet": {"kind": "inverse_dirichlet", "every": EVERY},
    "relobralo": {"kind": "relobralo", "every": EVERY},
    "softadapt": {"kind": "softadapt", "every": EVERY},
    "softadapt, plain": {"kind": "softadapt", "every": EVERY, "normalized": False, "beta": 10.0},
    "softadapt, by losses": {"kind": "softadapt", "every": EVERY, "loss_weighted": True},
    "ntk": {"kind": "ntk", "every": EVERY, "samples": 16},
    "gram": {"kind": "gram", "every": EVERY},
    "gram, equal rates": {"kind": "gram", "every": EVERY, "objective": "equal_rates"},
    "gradnorm": {"kind": "gradnorm", "every": EVERY},
    "uncertainty": {"kind": "uncertainty", "every": EVERY},
    "dual_ascent": {"kind": "dual_ascent", "every": EVERY, "tolerances": {"ic": 1e-3, "bc": 1e-3}, "growth": 2.0},
    "schedule": {
        "kind": "schedule",
        "terms": {
            "pde": {"kind": "exponential", "start": 0.1, "end": 1, "steps": 40},
            "ic": {"kind": "linear", "start": 10, "end": 1, "begin": 5, "steps": 30},
            "bc": {"kind": "step", "start": 1, "end": 4, "milestones": [10, 20, 30]},
        },
    },
}
"""Each weighting of an experiment file, with updates every few steps."""


def experiment(backend: str, weights: dict[str, Any]) -> Experiment:
    """Burgers with soft constraints, small, in float64."""
    return Experiment.model_validate(
        {
            "name": "weightings",
            "backend": backend,
            "precision": "float64",
            "compile": "never" if backend == "torch" else "auto",
            "device": "cpu",
            "task": {"kind": "burgers"},
            "network": {"kind": "mlp", "width": 10, "depth": 2},
            "points": {"pde": 128, "ic": 32, "bc": 32},
            "stages": [{"kind": "adam", "lr": 1e-3, "steps": STEPS}],
            "weights": weights,
        }
    )


def losses(backend: str, weights: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(losses [steps, terms], weights after the last update [terms]) of the first steps."""
    file = experiment(backend, weights)
    made = assemble(file, Path())
    (stage,), run, feed = made.stages, made.backend, made.task.feed(0)
    weighting = Weighting.of(file.weights, [t.name for t in made.task.terms if t.trained], 0)
    knobs = Knobs(initial(made.task, weighting.weights), weighting.plans, None, task=made.task)
    state, found = run.init(0), []
    for step in range(0, STEPS, EVERY):
        state, steps = run.step(state, EVERY, knobs.table(stage, step, step, EVERY), feed, step)
        found.append(np.array(steps.losses))
        after = step + EVERY
        if weighting.every and after < STEPS:
            seen = {"losses": found[-1][-1]}
            if "log_variances" in weighting.needs:
                seen["log_variances"] = log_variances(run.parameters(state), weighting.terms)
            if wanted := weighting.needs - seen.keys():
                seen |= run.probe(state, wanted, feed, after, knobs.table(stage, after, after, 1)[0])
            knobs.values.update({f"weight/{k}": v for k, v in weighting.update(after, seen).items()})
    last = knobs.now(stage, STEPS - 1, STEPS - 1)
    return np.concatenate(found), np.array([last[f"weight/{term}"] for term in weighting.terms])


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest relative difference."""
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))))


def measure() -> Section:
    """The largest relative difference of any loss term, and where the weights ended."""
    rows = []
    for name, weights in WEIGHTINGS.items():
        (jax, ended), (torch, _) = (losses(backend, weights) for backend in ("jax", "torch"))
        rows.append([name, f"{difference(jax, torch):.1e}", ", ".join(f"{w:.4g}" for w in ended)])
    text = page(
        f"""Burgers with soft constraints, 10 x 2, 128 + 32 + 32 points, {STEPS} Adam steps in float64, weights set anew
        every {EVERY} steps (a schedule: every step): the largest relative difference of any loss term of any step
        between the backends, and the weights of the last step (pde, ic, bc).""",
        table(["weighting", "losses, JAX against torch", "last weights"], rows),
    )
    return Section("losses of 50 steps of Burgers agree to 1e-9 in float64 under every weighting.", text)
