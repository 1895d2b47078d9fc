"""A run's pieces measured in processes of their own: one to compile everything, one to measure as the run will be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.environment import environment
from backends.errors import RunFailed
from orchestrator.config import Experiment
from orchestrator.folder import read_jsonl
from orchestrator.runs import Prepared, prepare

BUDGET_S = 1.5
"""Seconds of measured steps per stage, about."""


def probe(source: Any, overrides: Any, experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(measured with programs in the cache, the first time, warnings). Raises UserError, RunFailed."""
    workers = max(experiment.resources.workers, 1)
    with tempfile.TemporaryDirectory(prefix="orchestrator-plan-") as folder:
        began = clocks()
        prepared = prepare(source, _here(overrides, folder), out=Path(folder, "run"), execute=False)
        spent = since(began)
        compiles = experiment.compile != "never"
        cold = _measured(prepared, experiment, workers, 0.0) if compiles else None
        warm = _measured(prepared, experiment, workers, BUDGET_S)
        warm["prepare"] = spent
        said = [e["message"] for e in read_jsonl(prepared.folder.events)[0] if e.get("event") == "warning"]
    return warm, cold or warm, list(dict.fromkeys(said))


def clocks() -> dict[str, float]:
    """Wall and CPU seconds of this process and of those it has waited for (git, for a run's provenance)."""
    times = os.times()
    return {"wall": time.perf_counter(), "cpu": times.user + times.system + times.children_user + times.children_system}


def since(began: Mapping[str, float]) -> dict[str, float]:
    """What the clocks show since then."""
    return {name: now - began[name] for name, now in clocks().items()}


def _here(overrides: Any, folder: str) -> Any:
    """The same experiment in this process's machine alone, with nothing written elsewhere."""
    ours = {"resources.workers": 0, "tracking.uri": f"sqlite:///{folder}/mlflow.db"}
    if isinstance(overrides, Mapping):
        return {**overrides, **ours}
    return [*(overrides or []), *(f"{path}={value}" for path, value in ours.items())]


def _measured(prepared: Prepared, experiment: Experiment, workers: int, budget: float) -> dict[str, Any]:
    resources = experiment.resources
    variables = environment(experiment.backend, resources.cpus_per_worker, experiment.device)
    answer = prepared.folder.path / "answer.json"
    ours = str(Path(__file__).resolve().parents[2])
    known = [
        ours,
        *(p for p in sys.path if p and Path(p).is_dir()),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    words = [str(prepared.folder.path), str(answer), str(workers), str(budget)]
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.planning.measure", *words],
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, known)))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            _, said = child.communicate()
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        why = lines[-1] if lines else "no message"
        if child.returncode == -9:
            why = "it was killed, as a rule because memory ran out: see the sizes of `network` and `points`"
        raise RunFailed(f"the probe failed: {why}")
    return json.loads(answer.read_text(encoding="utf-8"))
