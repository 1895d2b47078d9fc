"""Error against CPU seconds of training: how long the shipped recipes take to reach an error.

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
from benchmarks.results import Section, page, table
from orchestrator.hooks import Ask, Moment

SEEDS = range(5)
METRIC = "error/l2"


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


def measure() -> Section:
    """Every case on both backends and all seeds."""
    rows: list[list[object]] = []
    for case in CASES:
        for backend, targets in case.targets.items():
            ask = {"file": case.file, "backend": backend, "least": min(targets), "limit_s": 2 * max(targets.values())}
            call("benchmarks.seconds:curve", backend, {**ask, "seed": 0, "limit_s": 0.0})
            curves = [call("benchmarks.seconds:curve", backend, {**ask, "seed": seed})["curve"] for seed in SEEDS]
            rate = call("benchmarks.seconds:sgemm", backend, {})["gflops"]
            for error, seconds in targets.items():
                took = [first(curve, error) for curve in curves]
                shown = [_shown(t) for t in (min(took), statistics.median(took), max(took))]
                rows.append([f"`{case.file}`", backend, f"{error:.0e}", *shown, f"{seconds:g}", f"{rate:.0f}"])
    head = ("experiment", "backend", METRIC, "least, CPU s", "median", "most", "target, median", "sgemm, GFLOP/s")
    text = page(
        """CPU seconds of the process from the first step to the first evaluation below the error, seeds 0 to 4, one
        thread, programs compiled before. `sgemm`: large float32 matrix products of numpy on this core.""",
        table(head, rows),
    )
    return Section("Burgers to 1e-3, 1e-5, 1e-6 within 10, 60, 600 s on JAX and 18, 110, 1100 s on torch.", text)


def first(curve: Sequence[tuple[float, float]], error: float) -> float:
    """CPU seconds of the first evaluation below `error`; infinite where there is none."""
    return next((seconds for seconds, found in curve if found < error), math.inf)


def curve(file: str, backend: str, seed: int, least: float, limit_s: float) -> dict[str, Any]:
    """In a process of its own: train until `least` or `limit_s`, and give [(CPU seconds, error)]."""
    from orchestrator import run

    clock = Clock(least, limit_s)
    with tempfile.TemporaryDirectory(prefix="orchestrator-seconds-") as scratch:
        settings = {"backend": backend, "seed": seed, "resources.workers": 0, "tracking.enabled": False,
                    "storage": scratch}  # fmt: skip
        run(Path(ROOT, "experiments", file), settings, callbacks=[clock])
    return {"curve": clock.curve}


def sgemm() -> dict[str, float]:
    """GFLOP/s of one core: the best of some products of 1024 x 1024 float32 matrices."""
    import numpy as np

    a = np.random.default_rng(0).random((1024, 1024), np.float32)
    best = math.inf
    for _ in range(20):
        began = time.process_time()
        a @ a
        best = min(best, time.process_time() - began)
    return {"gflops": 2 * 1024**3 / best / 1e9}


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else "not reached"
