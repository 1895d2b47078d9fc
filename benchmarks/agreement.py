"""The same numbers: from both backends, from one worker and two, from a run that was killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backends import checkpoint
from benchmarks.processes import COMMAND, ROOT, clean, command
from benchmarks.results import Section, page, table
from orchestrator.folder import RunFolder, read_jsonl

EXPERIMENTS = ("burgers/burgers", "burgers/burgers_soft", "poisson/poisson", "inverse_heat/inverse_heat",
               "diabetes/diabetes", "digits/vae", "fisher/fisher")  # fmt: skip
BACKENDS = ("jax", "torch")
LOOK_S, GIVE_UP_S = 0.02, 600.0
PLAIN = {"resources": {"workers": 0}, "tracking": {"enabled": False, "every": 10}}
TWO_WORKERS: dict[str, Any] = {
    "name": "two_workers",
    "precision": "float64",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 20, "depth": 3},
    "points": {"pde": {"count": 1000, "adapt": {"kind": "rad", "every": 50}}, "ic": 100, "bc": 100},
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-3, "steps": 100},
        {"name": "polish", "kind": "ssbroyden", "steps": 20},
    ],
    "evaluate": {"every": 50},
}
KILLED: dict[str, Any] = {
    "name": "killed",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 20, "depth": 3},
    "points": {"pde": {"count": 1000, "adapt": {"kind": "rad", "every": 100}}, "ic": 100, "bc": 100},
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-3, "steps": 600, "schedule": {"kind": "cosine", "warmup": 50}},
        {"name": "polish", "kind": "ssbroyden", "steps": 100},
    ],
    "weights": {"kind": "relobralo", "every": 50},
    "evaluate": {"every": 50},
    "checkpoint": {"every": 50},
    **PLAIN,
}
KILLS = {300: "in the middle of the schedule", 600: "between the stages", 650: "in the quasi-Newton stage"}


def measure() -> Section:
    """Agreement of backends, workers and resumed runs."""
    both = [[f"`{e}.yaml`", *_compared(e, "float64"), *_compared(e, "float32")[1:]] for e in EXPERIMENTS]
    workers = [[b, *_two_workers(b)] for b in BACKENDS]
    killed = [[b, KILLS[at], *row] for b in BACKENDS for at, row in _killed(b)]
    text = page(
        """`orchestrator agree FILE`, first stage of each experiment: the largest relative difference between the
        backends over 100 steps, of any loss term (float64: at most 1e-9, float32: at most 1e-4), and of the
        gradient at step 0 (largest component over norm, float64: at most 1e-12).""",
        table(["experiment", "gradient, float64", "losses, float64", "losses, float32"], both),
        """Two Ray Train workers against one, float64, 100 Adam and 20 self-scaled Broyden steps with resampling:
        largest relative difference of any recorded loss term (at most 1e-9).""",
        table(["backend", "Adam", "Broyden"], workers),
        """A run killed with `kill -9` as soon as a checkpoint of that step lay there, then resumed, against one
        that was never stopped: arrays of the last checkpoint, and records, that are not equal to the last bit.""",
        table(["backend", "killed", "last checkpoint found", "arrays that differ", "records that differ"], killed),
    )
    target = (
        "losses of 100 Adam steps to 1e-9 in float64 and 1e-4 in float32, gradients to 1e-12; "
        "two workers against one to 1e-9; resumed runs to the last bit."
    )
    return Section(target, text)


def _compared(experiment: str, precision: str) -> list[str]:
    """(gradient, losses) as `agree` reports them."""
    file = ROOT / "experiments" / f"{experiment}.yaml"
    found = json.loads(command([*COMMAND, "agree", str(file), "--precision", precision, "--json"]).text)
    return [f"{found['gradients']:.1e}", f"{found['max_relative_difference']:.1e}"]


def _two_workers(backend: str) -> list[str]:
    """Largest relative difference of any recorded loss term, stage by stage."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-workers-") as scratch:
        runs = []
        for workers in (1, 2):
            tree = {**TWO_WORKERS, **PLAIN, "backend": backend, "resources": {"workers": workers}}
            runs.append(_records(_run(tree, Path(scratch, str(workers)))))
    warm = TWO_WORKERS["stages"][0]["steps"]
    worst: dict[bool, float] = {True: 0.0, False: 0.0}
    for (step, one), (_, two) in zip(*runs, strict=True):
        for name in (n for n in one if n.startswith(("loss/", "validation/"))):
            difference = abs(one[name] - two[name]) / max(abs(one[name]), 1e-300)
            worst[step <= warm] = max(worst[step <= warm], difference)
    return [f"{worst[True]:.1e}", f"{worst[False]:.1e}"]


def _killed(backend: str) -> Iterator[tuple[int, list[object]]]:
    with tempfile.TemporaryDirectory(prefix="orchestrator-killed-") as scratch:
        tree = {**KILLED, "backend": backend}
        whole = _run(tree, Path(scratch, "whole"))
        for at in KILLS:
            out = Path(scratch, str(at))
            found = _kill_at(tree, out, at)
            command([*COMMAND, "resume", str(out), "-q"])
            yield at, [f"step {found}", _arrays_that_differ(whole, out), _records_that_differ(whole, out)]


def _kill_at(tree: dict[str, Any], out: Path, step: int) -> int:
    """Start a run and kill -9 it once it has a checkpoint of `step`; the step of the newest one."""
    child = subprocess.Popen(_arguments(tree, out), env=clean(), cwd=ROOT)
    began = time.monotonic()
    try:
        while not (saved := [s for s in _saved(out) if s >= step]):
            if child.poll() is not None or time.monotonic() - began > GIVE_UP_S:
                raise RuntimeError(f"the run has ended before it could be killed: {child.returncode}")
            time.sleep(LOOK_S)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    return saved[-1]


def _run(tree: dict[str, Any], out: Path) -> Path:
    command(_arguments(tree, out))
    return out


def _arguments(tree: dict[str, Any], out: Path) -> list[str]:
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return [*COMMAND, "run", str(file), "--out", str(out), "-q"]


def _saved(out: Path) -> list[int]:
    return [int(saved.name.rpartition("-")[2]) for saved in checkpoint.listing(out / "checkpoints")]


def _records(out: Path) -> list[tuple[int, dict[str, float]]]:
    found = read_jsonl(RunFolder(out).metrics)[0]
    return [(r["step"], {k: v for k, v in r["metrics"].items() if not k.startswith("time/")}) for r in found]


def _arrays_that_differ(one: Path, other: Path) -> int:
    a, b = (checkpoint.load(checkpoint.listing(p / "checkpoints")[-1]).arrays for p in (one, other))
    return len(a.keys() ^ b.keys()) + sum(not np.array_equal(a[k], b[k]) for k in a.keys() & b.keys())


def _records_that_differ(one: Path, other: Path) -> int:
    a, b = dict(_records(one)), dict(_records(other))
    return sum(a.get(step) != b.get(step) for step in a.keys() | b.keys())
