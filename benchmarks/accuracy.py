"""The error that the shipped experiments reach, and the time that they train: one run after the other.

`python -m benchmarks accuracy heat kdv` measures these experiments only; the rows of the others stay as they are.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import COMMAND, ROOT, clean, command
from benchmarks.results import RESULTS, Section, page, sections, table, table_rows

SEEDS = range(5)
PROBLEMS = ("burgers/burgers", "heat/heat", "heat/insulated", "heat/cooled", "wave/wave", "advection/advection",
            "helmholtz/helmholtz", "helmholtz/high", "diffusion_reaction/diffusion_reaction", "kovasznay/kovasznay",
            "allen_cahn/allen_cahn", "kdv/kdv", "kuramoto_sivashinsky/kuramoto_sivashinsky", "burgers_2d/burgers_2d",
            "schroedinger/schroedinger", "ginzburg_landau/ginzburg_landau", "gray_scott/gray_scott", "cavity/cavity",
            "poisson_frequencies/poisson_frequencies", "poisson_5d/poisson_5d", "poisson_100d/poisson_100d",
            "heat_5d/heat_5d", "heat_layers/heat_layers", "wave_layers/wave_layers", "euler_beam/euler_beam",
            "lorenz/lorenz")  # fmt: skip
"""Measured on every seed and backend."""
OTHERS = ("burgers/burgers_soft", "poisson/poisson", "inverse_heat/inverse_heat", "fisher/fisher", "diabetes/diabetes",
          "digits/vae")  # fmt: skip
"""Measured with seed 0 on both backends."""
BACKENDS = ("jax", "torch")
SHOWN = ("error/l2", "error/kappa", "validation/total")
SPREAD = ("experiment", "backend", "least error", "median", "worst", "steps", "CPU s", "training, wall s", "measured")
SINGLE = ("experiment", "backend", "result", "steps", "CPU s", "training, wall s")


def measure(*asked: str) -> Section:
    """The named experiments (`heat`, `helmholtz/high`), default all."""
    chosen = [*PROBLEMS, *OTHERS] if not asked else [_meant(name) for name in asked]
    spread = [_on_every_seed(name, backend) for name in PROBLEMS if name in chosen for backend in BACKENDS]
    single = [_once(name, backend) for name in OTHERS if name in chosen for backend in BACKENDS]
    before = sections(RESULTS.read_text(encoding="utf-8")).get("accuracy", "")
    text = page(
        """In process, one thread, lowered priority, one run at a time; CPU seconds of the whole process with
        imports, compilation, evaluations and figures. `training` is the wall time spent in optimizer steps
        under the load of the machine.""",
        "Relative L2 error against the reference, seeds 0 to 4 (times are medians):",
        table(SPREAD, merged(table_rows(before, SPREAD), spread, PROBLEMS)),
        "The other experiments, seed 0:",
        table(SINGLE, merged(table_rows(before, SINGLE), single, OTHERS)),
    )
    return Section("relative L2 error of `burgers.yaml` below 1e-3 within 3 minutes of training on 2 cores.", text)


def merged(
    old: Sequence[Sequence[object]], new: Sequence[Sequence[object]], order: Sequence[str]
) -> list[list[object]]:
    """Rows by experiment and backend: new ones before old ones, in the order of the experiments."""
    rows = {(str(row[0]), str(row[1])): list(row) for row in [*old, *new]}
    places = [(_shown(name), backend) for name in order for backend in BACKENDS]
    return [rows[place] for place in places if place in rows]


def run(name: str, backend: str, seed: int) -> dict[str, Any]:
    """Train one experiment; its error, metrics, steps and costs."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-accuracy-") as scratch:
        settings = {"backend": backend, "seed": seed, "resources.workers": 0, "tracking.enabled": "false"}
        arguments = [*COMMAND, "run", str(ROOT / "experiments" / f"{name}.yaml"), "--out", str(Path(scratch, "run"))]
        words = [word for path, value in settings.items() for word in ("-s", f"{path}={value}")]
        ended = command(["nice", "-n", "5", *arguments, *words, "--json"], env=clean())
    result = json.loads(ended.text)
    return {
        "error": result["metrics"].get("error/l2", float("nan")),
        "metrics": result["metrics"],
        "steps": result["step"],
        "cpu_s": ended.cpu_s,
        "train_s": result["train_s"],
    }


def _meant(name: str) -> str:
    """`heat` is `heat/heat`."""
    for known in (name, f"{name}/{name}"):
        if known in (*PROBLEMS, *OTHERS):
            return known
    raise SystemExit(f"accuracy: there is no experiment {name!r}; choose from {', '.join((*PROBLEMS, *OTHERS))}")


def _shown(name: str) -> str:
    return f"`{name}.yaml`"


def _on_every_seed(name: str, backend: str) -> list[object]:
    runs = [run(name, backend, seed) for seed in SEEDS]
    errors = sorted(r["error"] for r in runs)
    median = {key: statistics.median(r[key] for r in runs) for key in ("steps", "cpu_s", "train_s")}
    shown = [f"{e:.1e}" for e in (errors[0], statistics.median(errors), errors[-1])]
    costs = [f"{median['cpu_s']:.0f}", f"{median['train_s']:.0f}"]
    return [_shown(name), backend, *shown, f"{median['steps']:.0f}", *costs, time.strftime("%Y-%m-%d")]


def _once(name: str, backend: str) -> list[object]:
    r = run(name, backend, 0)
    shown = ", ".join(f"`{k}` {r['metrics'][k]:.2e}" for k in SHOWN if k in r["metrics"])
    return [_shown(name), backend, shown, r["steps"], f"{r['cpu_s']:.0f}", f"{r['train_s']:.0f}"]
