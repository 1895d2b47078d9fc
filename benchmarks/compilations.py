"""How often each function is compiled: once per stage, whatever changes in a run, and not again by the next process.

Counted three ways that can't all be wrong: by the backend itself (`Backend.compilations`), by JAX's own monitoring
events, and by the files that appear in the persistent cache.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from backends.points.feed import PointFeed
from benchmarks.processes import COMMAND, call, clean, command
from benchmarks.results import Section, page, table
from orchestrator.assemble import CAPACITY, assemble
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder, read_jsonl

EXPERIMENT: dict[str, Any] = {
    "name": "compilations",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 20, "depth": 3},
    "points": {"pde": {"count": 4000, "adapt": {"kind": "rad", "every": 20}}, "ic": 100, "bc": 100},
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-3, "steps": 40},
        {"name": "polish", "kind": "ssbroyden", "steps": 20},
    ],
    "weights": {"kind": "gradient_norms", "every": 20},
    "compile": "always",
    "evaluate": {"every": 20},
    "checkpoint": {"every": 20},
    "figures": {"every": 20},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 10},
}


def measure() -> Section:
    """Both backends: one process step by step, then a run that is resumed in another process."""
    found = {backend: call("benchmarks.compilations:counted", backend, {"backend": backend}) for backend in _BACKENDS}
    names = list(dict.fromkeys(row[0] for counts in found.values() for row in counts["rows"]))
    rows = [[name, *(dict(found[b]["rows"]).get(name, "–") for b in _BACKENDS)] for name in names]
    runs = [[b, *cells] for b in _BACKENDS for cells in _resumed(b)]
    text = page(
        """One process, Burgers with soft constraints, float32 Adam and float64 self-scaled Broyden; what each
        action compiled anew:""",
        table(["action", *_BACKENDS], rows),
        f"""JAX's own events for all of it (`backend_compile_duration`, its small helpers included):
        {found["jax"]["events"]}, of which after the first use of each function: {found["jax"]["late"]}.""",
        """The same experiment through the command line with an empty persistent cache: a run, and the run resumed
        for 10 more steps in a new process. (`predict` has one program per set of outputs and points: the
        reference and two pictures.)""",
        table(["backend", "process", "functions it built", "files it added to the cache"], runs),
    )
    target = "one compilation per stage and compiled function; a resumed process adds no file to the persistent cache."
    return Section(target, text)


_BACKENDS = ("jax", "torch")


def counted(backend: str) -> dict[str, Any]:
    """What each action compiles (runs in its own process)."""
    events: Counter[str] = Counter()
    if backend == "jax":
        import jax

        jax.monitoring.register_event_duration_secs_listener(
            lambda event, duration, **_: events.update([event.rsplit("/", 1)[-1]])
        )
    made = assemble(Experiment.model_validate({**EXPERIMENT, "backend": backend}), Path())
    task, b = made.task, made.backend
    feed, held_out = task.feed(0), task.held_out(2000)
    assert isinstance(feed, PointFeed)
    (name,) = feed.adaptive()
    reference = task.reference()
    assert reference is not None
    state = [b.init(0)]
    rows: list[tuple[str, str]] = []
    before: dict[str, int] = {}

    def knobs(stage: int, n: int, **changes: float) -> Any:
        from orchestrator.knobs import Knobs, initial

        weights = {t.name: changes.get(t.name, 1.0) for t in task.terms}
        made_ = Knobs(initial(task, weights), (), None, task=task)
        made_.values["task/nu"] = changes.get("nu", 0.003)
        found = made_.table(made.stages[stage], 0, 0, n)
        if stage == 0:
            found[:, 0] = changes.get("lr", 1e-3)
        return found

    def step(n: int, stage: int = 0, **changes: float) -> None:
        state[0], _ = b.step(state[0], n, knobs(stage, n, **changes), feed, 0)

    def predict() -> None:
        b.predict(state[0], tuple(reference.values), reference.points)

    def probe(stage: int) -> None:
        b.probe(state[0], frozenset({"grad_norms"}), feed, 0, knobs(stage, 1)[0])

    def adopt() -> None:
        candidates = feed.propose(name, 20)
        feed.adopt(name, 20, candidates, b.candidates(state[0], name, candidates))

    def enter() -> None:
        state[0] = b.enter(state[0], 1)

    def do(what: str, action: Callable[[], Any]) -> None:
        nonlocal before
        action()
        now = dict(b.compilations())
        added = {k: v - before.get(k, 0) for k, v in now.items() if v > before.get(k, 0)}
        rows.append((what, ", ".join(f"{k}: {v}" for k, v in sorted(added.items())) or "none"))
        before = now

    do("stage `warm`: 10 steps", lambda: step(10))
    do("evaluate", lambda: b.evaluate(state[0], held_out))
    do("predict at the reference", predict)
    do("gradient norms (probe)", lambda: probe(0))
    do("residuals of candidates", lambda: b.candidates(state[0], name, feed.propose(name, 20)))
    first = events["backend_compile_duration"]
    do("another weight", lambda: step(10, ic=20.0))
    do("another rate", lambda: step(10, lr=1e-2))
    do("another constant (nu)", lambda: step(10, nu=0.01))
    do("another n (7, 1, 500)", lambda: [step(n) for n in (7, 1, min(500, CAPACITY))])
    do("new points by residual", adopt)
    do("steps with the new points", lambda: step(10))
    do("second evaluation, prediction, probe", lambda: [b.evaluate(state[0], held_out), predict(), probe(0)])
    late = events["backend_compile_duration"] - first
    enter()
    do("stage `polish`: 5 steps", lambda: step(5, 1))
    do("its evaluate, predict, probe, candidates",
       lambda: [b.evaluate(state[0], held_out), predict(), probe(1), adopt()])  # fmt: skip
    first = events["backend_compile_duration"]
    do("all of it again with other values",
       lambda: [step(3, 1, nu=0.02, bc=3.0), b.evaluate(state[0], held_out), predict(), probe(1), adopt()])  # fmt: skip
    late += events["backend_compile_duration"] - first
    return {"rows": rows, "events": events["backend_compile_duration"], "late": late}


def _resumed(backend: str) -> list[list[object]]:
    """A run and its continuation in a new process: what each compiled, and the files that each added to the cache."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-compilations-") as scratch:
        file, cache, out = Path(scratch, "compilations.yaml"), Path(scratch, "cache"), Path(scratch, "run")
        file.write_text(yaml.safe_dump({**EXPERIMENT, "backend": backend}), encoding="utf-8")
        found: list[list[object]] = []
        known: set[Path] = set()
        for name, arguments in (
            ("run", ["run", str(file), "--out", str(out)]),
            ("resume --more 10", ["resume", str(out), "--more", "10"]),
        ):
            command([*COMMAND, *arguments, "-q"], env=clean(cache))
            counts = [e["counts"] for e in read_jsonl(RunFolder(out).events)[0] if e["event"] == "compilations"][-1]
            files = {p for p in cache.rglob("*") if p.is_file() and not p.name.endswith((".lock", "-atime"))}
            found.append([f"`{name}`", json.dumps(counts).strip("{}").replace('"', ""), len(files - known)])
            known = files
        return found
