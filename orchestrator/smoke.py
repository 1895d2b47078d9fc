"""`check`, and with `--smoke` a first try of everything that a run will do later, at a tiny scale.

Two steps of every stage, an evaluation, new points and weights, a figure, a checkpoint written and read again, the
callbacks: in a process of its own on the file's backend (`orchestrator.smoke_parts`). A tracker's round trip through a
temporary store goes on beside it. All of it happens in a temporary folder, of which nothing is left.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from backends.environment import environment
from orchestrator.config import Experiment
from orchestrator.folder import Lines, RunFolder, read_jsonl
from orchestrator.runs import Prepared, checked, prepare

PARTS = "smoke.jsonl"
"""What the parts' process writes, one line per part, so that nothing is lost where it dies."""
TINY = {"resources.workers": 0, "evaluate.points": 20, "tracking.enabled": True}


@dataclass(frozen=True)
class Part:
    """One part of a first try."""

    part: str
    """`build`, `steps/<stage>`, `evaluation`, `points`, `figure`, `checkpoint`, `callbacks`, `tracker`."""
    state: Literal["ok", "failed", "skipped"]
    message: str = ""
    seconds: float = 0.0


def check(
    source: str | Path | Experiment | Mapping[str, Any], overrides: Any = None, *, smoke: bool = False
) -> list[Part]:
    """Validate an experiment; with `smoke` try all its parts, and return how each did.

    Raises ConfigError with every mistake in the experiment. A part that fails is reported, not raised.
    """
    read = checked(source, overrides)
    if not smoke:
        return []
    with tempfile.TemporaryDirectory(prefix="orchestrator-smoke-") as folder:
        place = Path(folder).resolve()
        prepared = prepare(source, _tiny(overrides, place, read.experiment), out=place / "run", execute=False)
        return _tried(prepared, place, tracked=read.experiment.tracking.enabled)


def _tiny(overrides: Any, place: Path, experiment: Experiment) -> Any:
    """The overrides of the user and those that make it small and keep it in the temporary folder."""
    ours: dict[str, Any] = {**TINY, "tracking.uri": f"sqlite:///{place}/mlflow.db"}
    if experiment.backend == "torch" and experiment.compile == "auto":
        ours["compile"] = "never"  # two steps never pay for a compilation
    if isinstance(overrides, Mapping):
        return {**overrides, **ours}
    return [*(overrides or []), *(f"{path}={json.dumps(value)}" for path, value in ours.items())]


def _tried(prepared: Prepared, place: Path, *, tracked: bool) -> list[Part]:
    outcome: list[Part] = []
    copy = RunFolder(place / "tracked")
    shutil.copytree(prepared.folder.path, copy.path)
    tracker = threading.Thread(target=lambda: outcome.append(_tracker(copy, place)))
    if tracked:
        tracker.start()
    child = _spawn(prepared, place)
    try:
        _, said = child.communicate()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if tracked:
            tracker.join()
    parts = [Part(**entry) for entry in read_jsonl(prepared.folder.path / PARTS)[0]]
    if child.returncode:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        ended = f"its process ended with code {child.returncode}" + (f": {lines[-1][:300]}" if lines else "")
        parts.append(Part("process", "failed", ended))
    return [*parts, *(outcome if tracked else [Part("tracker", "skipped", "tracking.enabled is false")])]


def _spawn(prepared: Prepared, place: Path) -> subprocess.Popen[str]:
    """The parts' process. It works in the temporary folder, so what own code writes beside itself goes with it."""
    experiment = prepared.experiment
    variables = environment(experiment.backend, experiment.resources.cpus_per_worker, experiment.device)
    ours = str(Path(__file__).resolve().parent.parent)
    known = [
        ours,
        *(p for p in sys.path if p and Path(p).is_dir()),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.smoke_parts", str(prepared.folder.path)],
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, known)))},
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _tracker(folder: RunFolder, place: Path) -> Part:
    """Send a run with one metric to a fresh store, by the process that sends every run, and read it back."""
    from orchestrator.uploader import sync

    began = time.perf_counter()
    now = time.time()
    Lines(folder.metrics).append({"step": 2, "time": now, "metrics": {"loss": 0.25}})
    Lines(folder.events).append({"time": now, "step": 2, "event": "status", "status": "finished", "final": True})
    try:
        report = sync(folder, timeout=300.0)
        if not report.complete:
            return Part("tracker", "failed", report.error or str(report), time.perf_counter() - began)
        with sqlite3.connect(place / "mlflow.db") as store:
            found = store.execute("SELECT value, step FROM metrics WHERE key = 'loss'").fetchall()
        store.close()
    except (OSError, sqlite3.Error) as error:
        return Part("tracker", "failed", str(error), time.perf_counter() - began)
    spent = time.perf_counter() - began
    if found != [(0.25, 2)]:
        return Part("tracker", "failed", f"loss 0.25 at step 2 was sent, {found} came back", spent)
    return Part("tracker", "ok", "", spent)


def as_dicts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [asdict(part) for part in parts]


__all__ = ["Part", "as_dicts", "check"]
