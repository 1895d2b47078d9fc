"""From the command to the first step: imports, `check`, compilation cold and warm, in process and through Ray.

A run that records every step is watched from outside: when the record of step 1 appears, the clock and the CPU time of
the whole tree of processes are read, and the run is asked to stop. What is done before step 1 belongs to it: reading
the file, the run folder with its provenance, imports, the reference, the evaluation of step 0, compilation.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import COMMAND, ROOT, clean, command, cpu_of_tree, first_record
from benchmarks.results import Section, page, table
from orchestrator.folder import RunFolder, read_jsonl

FILE = ROOT / "experiments" / "burgers" / "burgers.yaml"
LOOK_S = 0.05
GIVE_UP_S = 300.0
IMPORTS, CHECKS, WARM = 7, 3, 3
"""How often each is measured."""


@dataclass(frozen=True)
class First:
    """Seconds from the command until the first step is recorded."""

    wall_s: float
    cpu_s: float
    """Of all processes of the run that live, but the uploader, which runs beside it."""
    imported_s: float
    """Wall time of these that the framework's import (and all before it) took."""


def measure() -> Section:
    """Smallest first."""
    rows: list[list[object]] = [
        [f"`{code}`, beyond `python -c pass`", _s(_beyond(code)), "–", "–", "0.5 CPU"]
        for code in ("import orchestrator", "from orchestrator import Experiment, run")
    ]
    checks = [command([*COMMAND, "check", str(FILE)]) for _ in range(CHECKS)]
    least = [_s(min(getattr(c, which) for c in checks)) for which in ("cpu_s", "wall_s")]
    rows.append(["`orchestrator check burgers.yaml`", *least, "–", "2 wall"])
    for workers, target in ((0, "4 after imports"), (1, "10 wall")):
        for backend in ("jax", "torch"):
            with tempfile.TemporaryDirectory(prefix="orchestrator-startup-") as scratch:
                found = [first_step(backend, workers, Path(scratch), str(i)) for i in range(1 + WARM)]
            where = "in process" if workers == 0 else "Ray, one worker"
            for name, firsts, goal in (("cold", found[:1], "–"), ("warm", found[1:], target)):
                best = min(firsts, key=lambda f: f.wall_s)
                after = _s(best.wall_s - best.imported_s) if workers == 0 else "–"
                rows.append([f"first step, {backend}, {where}, {name} cache", _s(min(f.cpu_s for f in firsts)),
                             _s(best.wall_s), after, goal])  # fmt: skip
    head = ["what", "CPU s", "wall s", "wall s after imports", "target, s"]
    text = page(
        f"""Least of {CHECKS} to {IMPORTS} (imports: median), of one where the cache is cold. CPU seconds are those
        of all processes of the run but the uploader, so with a core to itself nothing takes longer; wall times
        are those of this machine under its load. Warm: compiled programs come from the persistent cache, in a
        new process.""",
        table(head, rows),
    )
    target = (
        "`import orchestrator` under 0.5 s of CPU beyond Python's own start; `check` under 2 s; first step with a warm "
        "cache at most 4 s after imports in process, 10 s through Ray with one worker."
    )
    return Section(target, text)


def _beyond(code: str) -> float:
    """CPU seconds of a Python that does this, beyond one that does nothing; median of pairs."""
    pairs = [[command([sys.executable, "-c", c]).cpu_s for c in ("pass", code)] for _ in range(IMPORTS)]
    return statistics.median(ours - bare for bare, ours in pairs)


def first_step(backend: str, workers: int, scratch: Path, name: str) -> First:
    """Start `burgers.yaml` in a new process with the cache in `scratch`, and end it after its first steps."""
    out = RunFolder(scratch / name)
    settings = {
        "backend": backend,
        "resources.workers": workers,
        "tracking.every": 1,
        "tracking.uri": f"sqlite:///{scratch}/mlflow.db",
    }
    arguments = [*COMMAND, "run", str(FILE), "--out", str(out.path), "-q"]
    began = time.time()
    child = subprocess.Popen([*arguments, *_set(settings)], env=clean(scratch / "cache"), cwd=ROOT)
    try:
        while (record := first_record(out, 1)) is None:
            if child.poll() is not None or time.time() - began > GIVE_UP_S:
                raise RuntimeError(f"no first step: exit code {child.returncode}, {time.time() - began:.0f} s")
            time.sleep(LOOK_S)
        cpu = cpu_of_tree(child.pid, without="orchestrator.upload")
        out.request_stop("stopped")
        child.wait(GIVE_UP_S)
    finally:
        child.kill()
        child.wait()
    events = read_jsonl(out.events)[0]
    imported = next(e["time"] for e in events if e.get("status") == "running")
    return First(record["time"] - began, cpu, imported - began)


def _set(settings: Mapping[str, object]) -> list[str]:
    return [word for path, value in settings.items() for word in ("-s", f"{path}={value}")]


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"
