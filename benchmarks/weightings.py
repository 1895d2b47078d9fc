"""Every weighting: on both backends the losses of 50 steps of Burgers, and what it reaches on four problems.

`python -m benchmarks weightings wave` measures the errors of this problem only, `… backends` how far they agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.weighting import Weighting
from benchmarks.results import RESULTS, Section, page, sections, table, table_rows
from benchmarks.weighting_errors import EVERY as PERIOD
from benchmarks.weighting_errors import PROBLEMS, SEEDS, measured, merged, verdict
from benchmarks.weighting_errors import STEPS as LENGTH
from benchmarks.weighting_runs import reweighed
from orchestrator.assemble import assemble
from orchestrator.config import Experiment
from orchestrator.knobs import Knobs, initial

STEPS, EVERY = 50, 5
AGREEMENT = "backends"
AGREED = ("weighting", "losses, JAX against torch", "last weights")
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
        if step + EVERY < STEPS:
            reweighed(weighting, knobs, made, state, feed, step + EVERY, found[-1][-1])
    last = knobs.now(stage, STEPS - 1, STEPS - 1)
    return np.concatenate(found), np.array([last[f"weight/{term}"] for term in weighting.terms])


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest relative difference."""
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))))


def measure(*asked: str) -> Section:
    """How far the `backends` agree, and the errors of the named problems; default all. Other parts stay as they are."""
    unknown = [name for name in asked if name not in (AGREEMENT, *PROBLEMS)]
    if unknown:
        raise SystemExit(
            f"weightings: there is no part {unknown[0]!r}; choose from {', '.join((AGREEMENT, *PROBLEMS))}"
        )
    chosen = asked or (AGREEMENT, *PROBLEMS)
    agreement = _agreement() if AGREEMENT in chosen else []
    found = {problem: measured(problem) for problem in PROBLEMS if problem in chosen}
    before = sections(RESULTS.read_text(encoding="utf-8")).get("weightings", "")
    said = {line.split(":")[0].removeprefix("- "): line for line in before.splitlines() if line.startswith("- ")}
    said |= {problem: f"- {verdict(problem, errors)}" for problem, errors in found.items()}
    text = page(
        f"""Burgers with soft constraints, 10 x 2, 128 + 32 + 32 points, {STEPS} Adam steps in float64, weights set anew
        every {EVERY} steps (a schedule: every step): the largest relative difference of any loss term of any step
        between the backends, and the weights of the last step (pde, ic, bc).""",
        table(AGREED, agreement or table_rows(before, AGREED)),
        f"""Errors: relative L2 against the reference after {LENGTH} Adam steps (3e-3, cosine; float32, JAX, 20 x 3, 500
        points inside and 100 of every other set, all constraints soft), median (least … largest) of {len(SEEDS)} seeds.
        Every rule as it comes, with an update every {PERIOD} steps, and dual ascent, which has no defaults, with
        tolerances of 1e-5, rho 10 and growth 2 for all constraints; `fixed 1 : 10` weighs every constraint with 10.
        burgers: nu = 0.03/pi; helmholtz: k = 1, sin(pi x) sin(4 pi y); wave: c = 0.5; kovasznay: Re 20, five terms. The
        best fixed weights are chosen by the errors of this table, as somebody who tunes by hand would.""",
        merged(before, found),
    )
    verdicts = "\n".join(said[problem] for problem in PROBLEMS if problem in said)
    return Section(
        "losses of 50 steps of Burgers agree to 1e-9 in float64 under every weighting; which rule wins where is said.",
        f"{text}\n\n{verdicts}",
    )


def _agreement() -> list[list[str]]:
    """Rows: the largest relative difference of any loss term, and where the weights ended."""
    rows = []
    for name, weights in WEIGHTINGS.items():
        (jax, ended), (torch, _) = (losses(backend, weights) for backend in ("jax", "torch"))
        rows.append([name, f"{difference(jax, torch):.1e}", ", ".join(f"{w:.4g}" for w in ended)])
    return rows
