"""The process of `plan`: a run's pieces at their real sizes, each timed, in a folder that is thrown away.

    python -m orchestrator.planning.measure RUN_FOLDER ANSWER.json WORKERS SECONDS

SECONDS 0: only compile everything, so that a second process finds the caches as the run will find them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import backends
from backends.chunks import chunk_size
from backends.task import Task
from orchestrator.evaluate import predictor
from orchestrator.folder import RunFolder
from orchestrator.loop import Live, Plan
from orchestrator.reader import read_experiment
from orchestrator.record import Recorder
from orchestrator.timeline import Position
from orchestrator.worker import Host, Job, ready

DISPATCHES = 4
"""Fewest measured dispatches of a stage, if they take no longer than LONGEST budgets."""
LONGEST = 3.0
RECORDS = 100


class Clock:
    """Wall and CPU seconds (all threads of this process) since the last look."""

    def __init__(self) -> None:
        self._at = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap."""
        before, self._at = self._at, self._now()
        return {"wall": self._at[0] - before[0], "cpu": self._at[1] - before[1]}


def share(workers: int) -> Callable[[Task], Task]:
    """The task with what one of several workers has of it."""

    def change(task: Task) -> Task:
        part: Any = task
        sets, samples = getattr(task, "sets", None), getattr(task, "samples", None)
        if workers < 2:
            return task
        if sets is not None:
            samplings = {b: s if s.fixed else s.of(s.count // workers) for b, s in sets.samplings.items()}
            counts = {b: n // workers for b, n in sets.counts.items()}
            return replace(part, sets=replace(sets, samplings=samplings, counts=counts))
        if samples is not None and samples.batch:
            return replace(part, samples=replace(samples, batch=samples.batch // workers))
        if samples is not None:
            return replace(
                part, samples=replace(samples, training=samples.training[: samples.training.size // workers])
            )
        return task

    return change


def measure(folder: RunFolder, workers: int, budget: float) -> dict[str, Any]:
    """Everything that an estimate needs, as plain data."""
    experiment = read_experiment(folder.experiment).experiment
    found: dict[str, Any] = {"memory": {"start": rss()}}
    with Recorder(folder, experiment, resumed=False) as recorder:
        module = backends.load(experiment.backend)
        found["memory"]["framework"] = rss()
        plan, live = ready(Job(str(folder.path)), Host(change=share(workers)), folder, experiment, recorder)
        found["memory"]["ready"] = rss()
        found["setup"] = {"wall": time.time() - psutil.Process().create_time(), "cpu": time.process_time()}
        clock = Clock()
        device = found["device"] = str(recorder.facts.get("device", ""))
        found["versions"] = module.versions()
        every = {"evaluate": plan.evaluate_every, "checkpoint": plan.checkpoint_every, "figures": plan.figures_every}
        adapts = list(getattr(plan.task.feed(experiment.seed), "periods", list)())
        found["every"] = {**every, "weights": getattr(experiment.weights, "every", None), "points": adapts}
        found["terms"] = {t.name: plan.knobs.values[f"weight/{t.name}"] for t in plan.task.terms if t.trained}
        parameters = plan.backend.parameters(live.state)
        found["parameters"] = {name: int(np.size(value)) for name, value in parameters.items()}
        found["samples"] = samples(plan)
        plan.measure(live.state)
        found["evaluate_compile"] = clock.lap()
        found["magnitudes"] = plan.measure(live.state)
        found["stages"] = []
        for i in range(len(plan.stages)):
            found["stages"].append(stage(plan, live, i, budget, folder))
            found["stages"][-1]["chunks"] = chunks(plan, found["samples"], found["stages"][-1]["precision"], device)
        recorded(plan, live, found["magnitudes"])
        found["figure_compile"], found["figure"] = figure(plan, live, folder, experiment, 2 if budget else 1)
        memory = getattr(module, "memory", None)
        found["memory"]["device"] = dict(memory(device)) if memory is not None else {}
    found["memory"]["peak"] = max([peak(), *(s["peak"] for s in found["stages"])])
    return found


def samples(plan: Plan) -> dict[str, int]:
    """Samples of each batch of the first step."""
    draw = plan.feed.take(0, 1)
    fixed = draw.fixed()
    out = {}
    for batch in {**fixed, **draw.stacked}:
        stacked = draw.stacked.get(batch, {})
        rows = next(iter(stacked.values()), None)
        out[batch] = int(np.shape(rows)[1] if rows is not None else len(next(iter(fixed[batch].values()))))
    return out


def chunks(plan: Plan, counts: dict[str, int], precision: str, device: str) -> dict[str, dict[str, int]]:
    """Samples per pass of each batch, and bytes of the widest layer of one pass, as the backends decide it."""
    task, out = plan.task, {}
    size = np.dtype(precision).itemsize
    for batch, count in counts.items():
        asked = None if task.reduced(batch) else task.chunk(batch)
        per_call = plan.backend.name == "torch"  # as its objective does
        chunk = chunk_size(count, asked, task.width(batch), size, device, per_call)
        out[batch] = {"chunk": chunk, "layer_bytes": chunk * task.width(batch) * size}
    return out


def stage(plan: Plan, live: Live, number: int, budget: float, folder: RunFolder) -> dict[str, Any]:
    """One stage: its compilation, its speed, its state, what happens between its steps."""
    this, backend = plan.stages[number], plan.backend
    start = sum(s.steps for s in plan.stages[:number])
    live.at = Position(start, number, 0)
    reset_peak()
    clock = Clock()
    if number:
        live.state = backend.enter(live.state, number)
    clock.lap()
    first = dispatch(plan, live, 1)
    found: dict[str, Any] = {"name": this.name, "kind": this.kind, "steps": this.steps, "first": first}
    found.update(speed(plan, live, number, budget))
    found["ok"] = found["ok"] and first["ok"]
    compiled = getattr(backend, "compiled", None)
    found["compiled"] = compiled(number) if compiled is not None else None
    arrays, meta = backend.arrays(live.state)
    found["precision"] = meta["precision"]
    found["optimizer_bytes"] = sum(v.nbytes for k, v in arrays.items() if k.startswith("optimizer/"))
    found["parameter_bytes"] = sum(v.nbytes for k, v in arrays.items() if k.startswith("params/"))
    last = one_more(plan, live)
    clock.lap()
    for name, action in between(plan, live, last).items():
        action()
        found[f"{name}_compile"] = clock.lap()
        if budget:
            action()
        found[name] = clock.lap()
    found["checkpoint_bytes"] = sum(p.stat().st_size for p in (folder.checkpoints / plan.save(live, False)).iterdir())
    found["peak"] = peak()
    return found


def between(plan: Plan, live: Live, last: Any) -> dict[str, Callable[[], Any]]:
    """What may happen after a dispatch, which reported `last`, each as an action."""
    due = replace(live, at=replace(live.at, step=0))  # every period is over at step 0
    return {
        "evaluate": lambda: plan.measure(live.state),
        "points": lambda: plan.adapt(live, now=True),
        "weights": lambda: plan.reweigh(due, last),
        "checkpoint": lambda: plan.save(live, False),
    }


def one_more(plan: Plan, live: Live) -> Any:
    """The report of one more step: what weightings look at."""
    row = plan.knobs.table(plan.stages[live.at.stage], live.at.step, 0, 1)
    live.state, steps = plan.backend.step(live.state, 1, row, plan.feed, live.at.step)
    return steps


def dispatch(plan: Plan, live: Live, n: int) -> dict[str, Any]:
    """n steps as the loop would do them."""
    at = live.at
    clock = Clock()
    table = plan.knobs.table(plan.stages[at.stage], at.step, at.within, n)
    live.state, steps = plan.backend.step(live.state, n, table, plan.feed, at.step)
    ok = steps.bad() is None
    spent = clock.lap()
    live.at = replace(at, step=at.step + n, within=at.within + n)
    done = int(np.count_nonzero(steps.evaluations))
    return {**spent, "n": n, "done": done, "evaluations": int(steps.evaluations.sum()), "ok": ok, "ended": steps.ended}


def speed(plan: Plan, live: Live, number: int, budget: float) -> dict[str, Any]:
    """Dispatches of growing length, up to those of the run, for about `budget` seconds."""
    laps: list[dict[str, Any]] = []
    spent, began, n = 0.0, live.at, 2
    while budget and (spent < budget or (len(laps) < DISPATCHES and spent < LONGEST * budget)):
        left = plan.stages[number].steps - live.at.within
        real = plan.timeline.dispatch(Position(began.step, number, 0))
        if left < 1:
            break
        lap = dispatch(plan, live, max(1, min(n, real, left)))
        spent += lap["wall"]
        laps.append(lap)
        if lap["ended"] or not lap["ok"]:
            break
        each = lap["wall"] / lap["n"]
        n = max(1, min(real, int(budget / DISPATCHES / max(each, 1e-7))))
    return {"laps": laps, "ok": all(lap["ok"] for lap in laps)}


def recorded(plan: Plan, live: Live, evaluated: dict[str, float]) -> None:
    """Histories as long as those of the run, at most RECORDS of them: they are drawn beside the pictures."""
    every = max(plan.record_every, plan.timeline.total // RECORDS, 1)
    names = [t.name for t in plan.task.terms if t.trained]
    moving = plan.knobs.moving(plan.knobs.now(plan.stages[live.at.stage], live.at.step, 0))
    losses = {"loss": 1.0, **{f"loss/{name}": 1.0 for name in names}}
    for step in range(every, plan.timeline.total + 1, every):
        plan.record(step, {**losses, **moving, **evaluated, "time/train_s": 1.0, "time/steps_per_s": 1.0})


def figure(
    plan: Plan, live: Live, folder: RunFolder, experiment: Any, times: int
) -> tuple[dict[str, float], dict[str, float]]:
    """All pictures: the first time with what they import, and the last time."""
    from orchestrator.figures import draw_all

    laps = []
    clock = Clock()
    for _ in range(times):
        with suppress(Exception):  # a picture that fails is a warning of the run
            drawn = plan.task.pictures(predictor(plan.task, plan.backend, live.state), plan.feed.take(0, 1).fixed())
            draw_all(drawn, folder, experiment, plan.timeline.total)
        laps.append(clock.lap())
    return laps[0], laps[-1]


# --- memory ---


def rss() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The most bytes since the last reset, where the system can tell, else since the start."""
    with suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Forget the peak so far (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(arguments: list[str]) -> None:
    """Measure, and write the answer."""
    path, answer, workers, budget = arguments
    found = measure(RunFolder(Path(path)), int(workers), float(budget))
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
