"""Experiments that train in a moment, and what two runs of one must have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import checkpoint
from orchestrator import RunResult, resume, run
from orchestrator.folder import RunFolder, read_jsonl
from orchestrator.record import Recorder

Tree = dict[str, Any]

EVERYTHING: Tree = {
    "name": "everything",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 6, "depth": 2},
    "points": {"pde": {"count": 48, "adapt": {"kind": "rad", "every": 15}}, "ic": 12, "bc": 12},
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 45, "schedule": {"kind": "cosine", "warmup": 5}},
        {"name": "polish", "kind": "ssbroyden", "steps": 20},
    ],
    "weights": {"kind": "gradient_norms", "every": 10},
    "callbacks": [
        {"kind": "early_stopping", "patience": 100},
        {"kind": "ramp", "knob": "task/nu", "start": 0.1, "end": 0.01, "steps": 50},
    ],
    "evaluate": {"every": 20, "points": 60},
    "checkpoint": {"every": 10},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
}
"""Two stages, a schedule, resampled points, adaptive weights, a ramp, the state of early stopping."""

VAE: Tree = {
    "name": "vae",
    "task": {"kind": "vae"},
    "data": {"kind": "digits", "batch": 40},
    "network": {"kind": "vae", "latent": 2, "width": 8, "depth": 1},
    "stages": [{"name": "train", "kind": "adamw", "lr": 1e-2, "steps": 60, "schedule": {"kind": "exponential"}}],
    "weights": {"kind": "relobralo", "every": 5, "beta": 0.5},
    "clip": {"norm": 5.0},
    "evaluate": {"every": 30},
    "checkpoint": {"every": 100},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
}
"""Minibatches that cross epochs, noise inside the step."""

INVERSE: Tree = {
    "name": "inverse",
    "task": {"kind": "inverse_heat"},
    "network": {"kind": "mlp", "width": 6, "depth": 2},
    "points": {"pde": 40},
    "stages": [
        {"name": "warm", "kind": "sgd", "lr": 1e-3, "momentum": 0.9, "steps": 20},
        {"name": "polish", "kind": "lbfgs", "memory": 4, "steps": 20},
    ],
    "evaluate": {"every": 20, "points": 60},
    "checkpoint": {"every": 100},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
}
"""A trained constant, momentum, a limited-memory history."""


def small(**changes: Any) -> Tree:
    """Burgers' equation with one short Adam stage, and top-level changes."""
    plain = {**EVERYTHING, "name": "small", "weights": {"kind": "fixed"}, "callbacks": []}
    plain["points"] = {"pde": 48, "ic": 12, "bc": 12}
    plain["stages"] = [{"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 20}]
    return {**plain, "evaluate": {"every": 10, "points": 60}, **changes}


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Drawing takes longer than training such runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.figures.draw_all", lambda *args: [])
        yield


@contextlib.contextmanager
def stopping_at(step: int) -> Iterator[None]:
    """Runs that record `step` are asked to stop there."""
    record = Recorder.metrics

    def recorded(self: Recorder, at: int, values: Any) -> None:
        record(self, at, values)
        if at == step:
            self.folder.request_stop("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "metrics", recorded)
        yield


def stopped(tree: Tree, out: Path, *steps: int) -> RunResult:
    """A run that is stopped at each of `steps` and resumed, and goes to its end."""
    for number, step in enumerate(steps):
        with stopping_at(step):
            result = resume(out) if number else run(tree, out=out)
        assert (result.status, result.step) == ("killed", step)
    return resume(out)


def last(folder: Path) -> checkpoint.Snapshot:
    """The newest checkpoint of a run; a damaged one fails the test."""
    found = checkpoint.newest(folder / "checkpoints", pytest.fail)
    assert found is not None
    return found


def records(folder: Path) -> list[tuple[int, Tree]]:
    """(step, metrics) of everything recorded, without times."""
    found = read_jsonl(RunFolder(folder).metrics)[0]
    return [(r["step"], {k: v for k, v in r["metrics"].items() if not k.startswith("time/")}) for r in found]


def events(folder: Path, kind: str) -> list[Tree]:
    """Events of one kind."""
    return [e for e in read_jsonl(RunFolder(folder).events)[0] if e["event"] == kind]


def assert_same_bits(one: Path, other: Path) -> None:
    """Two runs end in the same state and have recorded the same, to the last bit."""
    a, b = last(one), last(other)
    assert a.step == b.step
    for mine, theirs in ((a.arrays, b.arrays), (a.points, b.points)):
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            assert array.dtype == theirs[name].dtype
            assert np.array_equal(array, theirs[name]), name
    assert _untimed(a.loop) == _untimed(b.loop)
    assert records(one) == records(other)


def _untimed(loop: Any) -> Any:
    latest = {k: v for k, v in loop["latest"].items() if not k.startswith("time/")}
    return json.loads(json.dumps({**loop, "latest": latest, "train_s": 0}))
