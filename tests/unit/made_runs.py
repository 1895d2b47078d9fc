"""Run folders as runs leave them, written by hand: what tests of comparing and deleting read."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from orchestrator.folder import RunFolder
from orchestrator.jsonl import Lines

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8ffff3f0005fe02fea135819c0000000049454e44ae426082"
)
"""One white pixel."""


def tree(**changes: Any) -> dict[str, Any]:
    """A resolved experiment, as far as a comparison looks at it; `changes` are by dotted path."""
    base: dict[str, Any] = {
        "version": 1,
        "name": "heat",
        "backend": "jax",
        "device": "cpu",
        "seed": 0,
        "task": {"kind": "burgers", "nu": 0.01},
        "network": {"kind": "mlp", "width": 20, "depth": 3},
        "stages": [{"name": "warm", "kind": "adam", "lr": 0.005, "steps": 100}],
        "weights": {"kind": "fixed", "values": {}},
        "tracking": {"enabled": False},
    }
    for path, value in changes.items():
        *parents, last = path.split(".")
        node: Any = base
        for part in parents:
            node = next((s for s in node if s["name"] == part), None) if isinstance(node, list) else node[part]
        node[last] = value
    return base


def make(
    storage: Path,
    folder: str,
    *,
    status: str | None = "finished",
    step: int = 100,
    metrics: dict[str, float | None] | None = None,
    curve: bool = True,
    reason: str = "",
    picture: bytes = PNG,
    files: dict[str, str] | None = None,
    created: float = 1.0,
    **changes: Any,
) -> RunFolder:
    """A run folder. `status` None: no result was written. `changes`: settings by dotted path."""
    run, plain = RunFolder(storage / folder), tree(**changes)
    run.figures.mkdir(parents=True)
    run.run.write_text(json.dumps({"id": uuid.uuid4().hex, "name": plain["name"], "created": created}))
    run.resolved.write_text(json.dumps({"experiment": plain, "files": files or {}}))
    git = {"commit": "abcdef0123456789" * 2, "dirty": True}
    origin = {"git": git, "python": "3.11.7", "host": "secrethost", "user": "ada", "packages": {"jax": "0.10.2"}}
    run.provenance.write_text(json.dumps({**origin, "time": created, "command": ["/secret/path/orchestrator"]}))
    events = Lines(run.events)
    events.append({"time": created, "step": 0, "event": "status", "status": "waiting"})
    if metrics is None:
        metrics = {"loss": 0.1, "validation/total": 0.2, "error/l2": 0.3, "time/train_s": 2.0}
    if curve:
        lines = Lines(run.metrics)
        for at in (0, step // 2, step):
            lines.append({"step": at, "time": created, "metrics": {**metrics, "weight/pde": 1.0 + at / 10}})
    if picture:
        name = f"solution-{step:09d}.png"
        (run.figures / name).write_bytes(picture)
        events.append({"step": step, "event": "figure", "path": f"figures/{name}", "key": "figures/solution"})
    if status:
        run.result.write_text(json.dumps({"status": status, "step": step, "metrics": metrics, "reason": reason}))
        events.append({"time": created, "step": step, "event": "status", "status": status, "final": True})
    return run
