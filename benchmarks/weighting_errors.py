"""What every weighting reaches on four problems with soft constraints: the error after the same Adam steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import table, table_rows
from benchmarks.weighting_runs import reweighed
from orchestrator.assemble import assemble
from orchestrator.config import Experiment
from orchestrator.evaluate import Yardstick
from orchestrator.knobs import Knobs, initial

STEPS, EVERY, SEEDS = 5000, 100, range(5)
Weights = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A problem as it is trained here."""

    task: Mapping[str, Any]
    constraints: tuple[str, ...]
    """The terms beside those of the equation."""
    points: Mapping[str, int]


PROBLEMS: dict[str, Setting] = {
    "burgers": Setting({"kind": "burgers", "nu": 0.03 / math.pi}, ("ic", "bc"), {"pde": 500, "ic": 100, "bc": 100}),
    "helmholtz": Setting({"kind": "helmholtz"}, ("bc",), {"pde": 500, "bc": 100}),
    "wave": Setting({"kind": "wave", "speed": 0.5}, ("ic", "ic_t", "bc"), {"pde": 500, "ic": 100, "bc": 100}),
    "kovasznay": Setting({"kind": "kovasznay"}, ("bc", "outlet"), {"pde/x": 500, "bc": 100}),
}
"""Burgers' viscosity and the speed of the wave are such that Adam alone gets somewhere with so few points."""


def constrained(weight: float) -> Callable[[Sequence[str]], Weights]:
    """Fixed weights: 1 for the terms of the equation, `weight` for every constraint."""
    return lambda constraints: {"kind": "fixed", "values": dict.fromkeys(constraints, weight)}


def adaptive(kind: str, **fields: Any) -> Callable[[Sequence[str]], Weights]:
    """A rule with its defaults, but for `fields`."""
    return lambda constraints: {"kind": kind, "every": EVERY, **fields}


FIXED = ("fixed 1", "fixed 1 : 10", "fixed 1 : 100")
RULES: dict[str, Callable[[Sequence[str]], Weights]] = {
    "fixed 1": constrained(1.0),
    "fixed 1 : 10": constrained(10.0),
    "fixed 1 : 100": constrained(100.0),
    "schedule 1 : 100 to 1": lambda constraints: {
        "kind": "schedule",
        "terms": {name: {"kind": "exponential", "start": 100, "end": 1, "steps": STEPS} for name in constraints},
    },
    "gradient_norms": adaptive("gradient_norms"),
    "annealing": adaptive("annealing"),
    "inverse_dirichlet": adaptive("inverse_dirichlet"),
    "ntk": adaptive("ntk"),
    "gram": adaptive("gram"),
    "gram, equal rates": adaptive("gram", objective="equal_rates"),
    "gradnorm": adaptive("gradnorm"),
    "relobralo": adaptive("relobralo"),
    "softadapt": adaptive("softadapt"),
    "dual_ascent": lambda constraints: {
        "kind": "dual_ascent",
        "every": EVERY,
        "tolerances": dict.fromkeys(constraints, 1e-5),
        "rho": 10.0,
        "growth": 2.0,
    },
    "uncertainty": adaptive("uncertainty"),
}
"""All kinds with their defaults; dual ascent, which has none, with tolerances of 1e-5, rho 10 and growth 2."""


def experiment(problem: str, rule: str, seed: int) -> Experiment:
    """One run: 20 x 3, Adam with a cosine schedule, float32 on JAX."""
    setting = PROBLEMS[problem]
    return Experiment.model_validate(
        {
            "name": "weightings",
            "backend": "jax",
            "seed": seed,
            "precision": "float32",
            "device": "cpu",
            "task": dict(setting.task),
            "network": {"kind": "mlp", "width": 20, "depth": 3},
            "points": dict(setting.points),
            "stages": [{"kind": "adam", "lr": 3e-3, "steps": STEPS, "schedule": {"kind": "cosine"}}],
            "weights": RULES[rule](setting.constraints),
        }
    )


def error(file: Experiment) -> tuple[float, dict[str, float]]:
    """(relative L2 error after the last step, the last weights)."""
    from backends.weighting import Weighting

    made = assemble(file, Path())
    (stage,), run, feed = made.stages, made.backend, made.task.feed(file.seed)
    weighting = Weighting.of(file.weights, [t.name for t in made.task.terms if t.trained], file.seed)
    knobs = Knobs(initial(made.task, weighting.weights), weighting.plans, None, task=made.task)
    state = run.init(file.seed)
    for step in range(0, stage.steps, EVERY):
        state, steps = run.step(state, EVERY, knobs.table(stage, step, step, EVERY), feed, step)
        if steps.bad() is not None:
            return float("nan"), weighting.weights
        if step + EVERY < stage.steps:
            reweighed(weighting, knobs, made, state, feed, step + EVERY, np.array(steps.losses[-1]))
    return Yardstick.of(made.task, 100).measure(run, state)["error/l2"], weighting.weights


def measured(problem: str, seeds: Sequence[int] = SEEDS) -> dict[str, list[float]]:
    """Rule -> the errors of all seeds, sorted; a run that met a number that is not finite counts as infinite."""
    found = {}
    for rule in RULES:
        errors = [error(experiment(problem, rule, seed))[0] for seed in seeds]
        found[rule] = sorted(float("inf") if np.isnan(e) else e for e in errors)
        print(f"{problem}: {rule}: {shown(found[rule])}", flush=True)
    return found


def shown(errors: Sequence[float]) -> str:
    """median (least … largest)"""
    return f"{statistics.median(errors):.2g} ({min(errors):.2g} … {max(errors):.2g})"


def verdict(problem: str, found: Mapping[str, Sequence[float]]) -> str:
    """What the errors of one problem say: which rule is best, and whether it beats the best fixed weights at all.

    A rule beats fixed weights where its median lies below the least error of any run with fixed ones, and weights of 1
    where it lies below the least of those, so that the spread over the seeds does not explain it.
    """
    middle = {rule: statistics.median(errors) for rule, errors in found.items()}
    fixed = min(FIXED, key=lambda rule: middle[rule])
    rules = [rule for rule in found if rule not in FIXED]
    best = min(rules, key=lambda rule: middle[rule])
    floor = min(min(found[rule]) for rule in FIXED)
    beating = sum(middle[rule] < floor for rule in rules)
    plain = sum(middle[rule] < min(found["fixed 1"]) for rule in rules)
    factor = middle[fixed] / middle[best]
    said = f"`{best}` is best of the rules, at {middle[best]:.2g} against {middle[fixed]:.2g} of `{fixed}`"
    if beating:
        said += f", {factor:.1f} times less; {beating} of {len(rules)} rules beat fixed weights"
    elif factor > 1:
        said += f", {factor:.1f} times less, within the spread over the seeds: no rule beats fixed weights"
    else:
        said += ": no rule beats fixed weights"
    said += f"; {plain} of {len(rules)} beat weights of 1"
    untrained = " An error near 1 is that of u = 0: so few steps train nothing here." if middle[best] > 0.5 else ""
    return f"{problem}: {said}.{untrained}"


HEAD = ("rule", *PROBLEMS)


def merged(before: str, found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The table of rules and problems; columns that were not measured now stay as they were."""
    old = {row[0]: dict(zip(HEAD, row, strict=True)) for row in table_rows(before, HEAD)}
    rows = []
    for rule in RULES:
        cells = {problem: old.get(rule, {}).get(problem, "") for problem in PROBLEMS}
        cells |= {problem: shown(errors[rule]) for problem, errors in found.items()}
        rows.append([rule, *(cells[problem] for problem in PROBLEMS)])
    return table(HEAD, rows)
