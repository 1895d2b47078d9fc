"""Run folders as a worker would leave them, without a worker: what the tests of tracking read and send."""

from __future__ import annotations

import json
import math
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from backends.task import Picture
from orchestrator import plots
from orchestrator.jsonl import Lines

PARAMS = {"backend": "jax", "seed": 0, "network.width": 20, "stages.warm.kind": "adam", "stages.warm.lr": 0.005}
EXPERIMENT = "burgers"


def migrated_store(template: Path, folder: Path) -> str:
    """A local store in `folder`, copied from a template whose tables exist (making them takes seconds)."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def new_run(folder: Path, uri: str, *, backend: str = "jax", checkpoints: str = "best") -> Path:
    """A run folder as it is before the first step."""
    folder.mkdir(parents=True)
    uid = uuid.uuid4().hex
    record = {
        "id": uid,
        "name": "burgers",
        "experiment": EXPERIMENT,
        "uri": uri,
        "created": time.time(),
        "checkpoints": checkpoints,
        "params": {**PARAMS, "backend": backend},
        "tags": {
            "mlflow.user": "ada",
            "mlflow.source.name": "orchestrator run burgers.yaml",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": "1" * 40,
            "orchestrator.id": uid,
            "orchestrator.backend": backend,
            "orchestrator.config": "2" * 64,
            "mine": "yes",
        },
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "experiment.yaml").write_text(f"name: burgers\nbackend: {backend}\n")
    (folder / "provenance.json").write_text("{}")
    (folder / "code").mkdir()
    (folder / "code" / "mine.py").write_text("nu = 0.01\n")
    say(folder, "status", status="waiting")
    return folder


def say(folder: Path, event: str, step: int = 0, **more: Any) -> None:
    """One line of events.jsonl."""
    Lines(folder / "events.jsonl").append({"time": time.time(), "step": step, "event": event, **more})


def train(folder: Path, steps: range, slower: float = 1.0) -> dict[str, dict[int, float]]:
    """Lines of metrics.jsonl at these steps; {metric: {step: value}}."""
    lines = Lines(folder / "metrics.jsonl")
    written: dict[str, dict[int, float]] = {}
    for step in steps:
        loss = 2 * math.exp(-step / (900 * slower)) + 1e-4
        values = {"loss": loss, "loss/pde": loss / 2, "loss/ic": loss / 9, "weight/pde": 1.0, "lr": 5e-3}
        if step % 500 == 0:
            values |= {"validation/total": loss / 3, "error/l2": loss / 7}
        lines.append({"step": step, "time": time.time(), "metrics": values})
        for name, value in values.items():
            written.setdefault(name, {})[step] = value
    return written


def draw(folder: Path, step: int) -> None:
    """A figure of the solution, as the loop would save it."""
    t, x = np.linspace(0, 1, 30), np.linspace(-1, 1, 40)
    u = np.sin(np.pi * x)[None, :] * np.exp(-t)[:, None]
    error = 0.1 * math.exp(-step / 900) * np.cos(3 * x)[None, :] * t[:, None]
    picture = Picture("solution", "field", {"prediction": u + error, "reference": u, "error": error}, {"t": t, "x": x})
    stem = folder / "figures" / f"solution-{step:09d}"
    file = plots.save(plots.draw(picture), stem, ("png",), plots.data_of(picture))
    say(folder, "figure", step, path=str(file.relative_to(folder)), key="figures/solution")


def save(folder: Path, step: int, best: bool) -> None:
    """A checkpoint folder."""
    place = folder / "checkpoints" / f"step-{step:09d}"
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps({"step": step}))
    say(folder, "checkpoint", step, path=f"checkpoints/step-{step:09d}", best=best)


def end(folder: Path, status: str = "finished", step: int = 2000) -> None:
    """Result and final event."""
    result = {"status": status, "step": step, "metrics": {"error/l2": 6.5e-4, "loss": 1e-5}, "train_s": 12.5}
    (folder / "result.json").write_text(json.dumps(result))
    say(folder, "status", step, status=status, final=True)
