"""Error against CPU seconds of training: how long the shipped recipes take to reach an error.

`python -m benchmarks seconds jax` measures one backend only; the rows of the other stay as they are.

One fresh process per run, one thread. The clock is the CPU time of the process from the first step on: optimizer
steps, new points, evaluations and checkpoints; programs were compiled before (a short run fills the persistent cache).
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, call
from benchmarks.results import RESULTS, Section, page, sections, table, table_rows
from orchestrator.hooks import Ask, Moment

SEEDS = range(5)
METRIC = "error/l2"
BACKENDS = ("jax", "torch")
HEAD = ("experiment", "backend", METRIC, "least, CPU s", "median", "most", "target, median", "sgemm, GFLOP/s")


@dataclass(frozen=True)
class Case:
    """One recipe and what it shall reach: {error: CPU seconds} on each backend."""

    file: str
    targets: Mapping[str, Mapping[float, float]]


CASES = (
    Case(
        "burgers/accurate.yaml",
        {"jax": {1e-3: 10, 1e-5: 60, 1e-6: 600}, "torch": {1e-3: 18, 1e-5: 110, 1e-6: 1100}},
    ),
)


@dataclass
class Clock:
    """A callback that notes CPU seconds and error at each evaluation, and stops where the last target is reached."""

    least: float
    limit_s: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    began: float = 0.0

    def start(self, moment: Moment) -> None:
        self.began = time.process_time()

    def step(self, moment: Moment) -> Ask | None:
        spent = time.process_time() - self.began
        if METRIC in moment.metrics:
            self.curve.append((spent, moment.metrics[METRIC]))
            if moment.metrics[METRIC] < self.least:
                return Ask(stop="reached")
        return Ask(stop="out of time") if spent > self.limit_s else None


def measure(*asked: str) -> Section:
    """The named backends, default both; the rows of the others stay as they are."""
    for word in asked:
        if word not in BACKENDS:
            raise SystemExit(f"seconds: there is no backend {word!r}; choose from {', '.join(BACKENDS)}")
    rows = [row for case in CASES for backend in asked or BACKENDS for row in _reached(case, backend)]
    before = sections(RESULTS.read_text(encoding="utf-8")).get("seconds", "")
    known = {tuple(row[:3]): list(row) for row in [*table_rows(before, HEAD), *rows]}
    text = page(
        """CPU seconds of the process from the first step to the first evaluation below the error, seeds 0 to 4, one
        thread, programs compiled before. `sgemm`: large float32 matrix products of numpy on this core.""",
        table(HEAD, [known[place] for place in sorted(known, key=str)]),
    )
    return Section("Burgers to 1e-3, 1e-5, 1e-6 within 10, 60, 600 s on JAX and 18, 110, 1100 s on torch.", text)


def _reached(case: Case, backend: str) -> list[list[str]]:
    """Rows of the table: one for each error."""
    targets = case.targets[backend]
    ask = {"file": case.file, "backend": backend, "least": min(targets), "limit_s": 2 * max(targets.values())}
    call("benchmarks.seconds:curve", backend, {**ask, "seed": 0, "short": True})  # compiles both stages
    curves = [call("benchmarks.seconds:curve", backend, {**ask, "seed": seed})["curve"] for seed in SEEDS]
    rate = f"{call('benchmarks.seconds:sgemm', backend, {})['gflops']:.0f}"
    rows = []
    for error, seconds in targets.items():
        took = [first(curve, error) for curve in curves]
        shown = [_shown(t) for t in (min(took), statistics.median(took), max(took))]
        rows.append([f"`{case.file}`", backend, f"{error:.0e}", *shown, f"{seconds:g}", rate])
    return rows


def first(curve: Sequence[tuple[float, float]], error: float) -> float:
    """CPU seconds of the first evaluation below `error`; infinite where there is none."""
    return next((seconds for seconds, found in curve if found < error), math.inf)


def curve(file: str, backend: str, seed: int, least: float, limit_s: float, short: bool = False) -> dict[str, Any]:
    """In a process of its own: train until `least` or `limit_s` (or ten steps), and give [(CPU seconds, error)]."""
    from orchestrator import run

    clock = Clock(least, limit_s)
    with tempfile.TemporaryDirectory(prefix="orchestrator-seconds-") as scratch:
        settings = {"backend": backend, "seed": seed, "resources.workers": 0, "tracking.enabled": False,
                    "figures.every": None, "evaluate.every": 250, "storage": scratch}  # fmt: skip
        if short:
            settings |= {"stages.warm.steps": 10, "stages.polish.steps": 10}
        run(Path(ROOT, "experiments", file), settings, callbacks=[clock])
    return {"curve": clock.curve}


def sgemm() -> dict[str, float]:
    """GFLOP/s of one core: the best of some products of 1024 x 1024 float32 matrices."""
    import numpy as np

    a = np.random.default_rng(0).random((1024, 1024), np.float32)
    best = math.inf
    for _ in range(20):
        began = time.process_time()
        np.matmul(a, a)
        best = min(best, time.process_time() - began)
    return {"gflops": 2 * 1024**3 / best / 1e9}


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else "not reached"
