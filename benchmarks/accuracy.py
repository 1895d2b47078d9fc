"""The error that the shipped experiments reach, and the time that they train: one run after the other."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import COMMAND, ROOT, clean, command
from benchmarks.results import Section, page, table

SEEDS = range(5)
OTHERS = ("burgers/burgers_soft", "poisson/poisson", "inverse_heat/inverse_heat", "fisher/fisher", "diabetes/diabetes",
          "digits/vae")  # fmt: skip
BACKENDS = ("jax", "torch")
SHOWN = ("error/l2", "error/kappa", "validation/total")


def measure() -> Section:
    """`burgers.yaml` on every seed and backend, the others with one seed on both."""
    rows, summary = [], []
    for backend in BACKENDS:
        runs = [run("burgers/burgers", backend, seed) for seed in SEEDS]
        rows += [[backend, seed, f"{r['error']:.2e}", *_costs(r)] for seed, r in zip(SEEDS, runs, strict=True)]
        errors, cpu = [r["error"] for r in runs], [r["cpu_s"] for r in runs]
        summary.append([backend, f"{statistics.median(errors):.2e}", f"{max(errors):.2e}",
                        f"{statistics.median(cpu):.0f}", f"{max(cpu):.0f}"])  # fmt: skip
    others = []
    for name in OTHERS:
        for backend in BACKENDS:
            r = run(name, backend, 0)
            shown = ", ".join(f"`{k}` {r['metrics'][k]:.2e}" for k in SHOWN if k in r["metrics"])
            others.append([f"`{name}.yaml`", backend, shown, *_costs(r)])
    head = ["steps", "CPU s", "training, wall s"]
    text = page(
        """In process, one thread, lowered priority, one run at a time; CPU seconds of the whole process with
        imports, compilation, evaluations and figures. `training` is the wall time spent in optimizer steps
        under the load of the machine.""",
        "`experiments/burgers/burgers.yaml`, relative L2 error against the Cole-Hopf solution:",
        table(["backend", "median error", "worst error", "median CPU s", "worst CPU s"], summary),
        table(["backend", "seed", "error/l2", *head], rows),
        "The other experiments, seed 0:",
        table(["experiment", "backend", "result", *head], others),
    )
    return Section("relative L2 error of `burgers.yaml` below 1e-3 within 3 minutes of training on 2 cores.", text)


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


def _costs(r: dict[str, Any]) -> list[object]:
    return [r["steps"], f"{r['cpu_s']:.0f}", f"{r['train_s']:.0f}"]
