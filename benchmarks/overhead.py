"""What the loop costs: the product's loop against a bare one over the same compiled step, in turns in one process.

The bare loop does what a script written for the occasion would do and nothing else: samples, knobs and state lie on
the device, the compiled function is called, the losses are looked at once at the end. The product's loop asks for a
stop, draws the knob table, tells the callbacks and records every 100 steps. Neither evaluates or saves. Both start
from the same parameters, and their losses must be equal to the last bit.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import call
from benchmarks.results import Section, page, table
from orchestrator.assemble import CAPACITY, Assembled, assemble
from orchestrator.config import Experiment

EVERY = 100
"""Steps between records."""
WEIGHT, RATE = 1.0, 1e-3


@dataclass(frozen=True)
class Case:
    """One size of problem."""

    name: str
    width: int
    depth: int
    points: int
    steps: int
    """Per measurement."""
    rounds: int
    """Of bare, product, product, bare each."""
    target: float


CASES = (
    Case("2-64x4-1, 10,000 points", 64, 4, 10_000, 100, 5, 1.05),
    Case("2-20x3-1, 200 points", 20, 3, 200, 3_000, 10, 1.15),
)


def measure() -> Section:
    """Both backends, each in its own process."""
    rows = []
    for case in CASES:
        for backend in ("jax", "torch"):
            found = call("benchmarks.overhead:compared", backend, {"case": case.__dict__, "backend": backend})
            rows.append(
                [backend, case.name, *(f"{found[k]:.4f}" for k in ("bare_ms", "product_ms")),
                 *(f"{found[k]:.3f}" for k in ("least", "median", "wall")), f"{case.target}"]
            )  # fmt: skip
    head = [
        "backend",
        "network, points",
        "bare, ms/step",
        "product, ms/step",
        "ratio",
        "median ratio",
        "wall",
        "target",
    ]
    text = page(
        """Burgers with hard constraints, Adam in float32, one thread, rounds of bare, product, product, bare;
        losses equal to the last bit. Times are the least CPU milliseconds per step; `ratio` is that of the two,
        `median ratio` that of neighbours in turn, `wall` that of the least wall times.""",
        table(head, rows),
    )
    return Section("product / bare at most 1.05 for 10,000 points, 1.15 for 200 points, on both backends.", text)


def compared(case: dict[str, Any], backend: str) -> dict[str, float]:
    """The times of one case on one backend (runs in its own process)."""
    chosen = Case(**case)
    with tempfile.TemporaryDirectory(prefix="orchestrator-overhead-") as folder:
        made = assemble(experiment(chosen, backend), Path(folder))
        loops = [
            {"jax": _bare_jax, "torch": _bare_torch}[backend](made, chosen.steps),
            product(made, Path(folder)),
        ]
        losses = [loop() for loop in loops]  # compiles
        if not np.array_equal(losses[0], losses[1]):
            raise AssertionError(f"the two loops compute different things: {losses[0]} and {losses[1]}")
        times: list[list[tuple[float, float]]] = [[], []]
        for _ in range(chosen.rounds):
            for i in (0, 1, 1, 0):
                times[i].append(_timed(loops[i]))
    bare, ours = (np.array(t) for t in times)
    return {
        "bare_ms": 1e3 * bare[:, 0].min() / chosen.steps,
        "product_ms": 1e3 * ours[:, 0].min() / chosen.steps,
        "least": ours[:, 0].min() / bare[:, 0].min(),
        "median": statistics.median(ours[:, 0] / bare[:, 0]),
        "wall": ours[:, 1].min() / bare[:, 1].min(),
    }


def experiment(case: Case, backend: str) -> Experiment:
    """The experiment of a case."""
    return Experiment.model_validate(
        {
            "name": "overhead",
            "backend": backend,
            "task": {"kind": "burgers"},
            "network": {"kind": "mlp", "width": case.width, "depth": case.depth},
            "constraints": "hard",
            "points": {"pde": case.points},
            "stages": [{"name": "warm", "kind": "adam", "lr": RATE, "steps": case.steps}],
            "weights": {"kind": "fixed", "values": {"pde": WEIGHT}},
            "compile": "always",
            "evaluate": {"every": case.steps},
            "checkpoint": {"every": case.steps},
            "tracking": {"enabled": False, "every": EVERY},
        }
    )


Loop = Callable[[], Any]
"""Trains from the same start and returns the losses at the steps that the product records."""


def product(made: Assembled, folder: Path) -> Loop:
    """The product's loop with everything that a run in this process has, but its evaluations and checkpoints."""
    from backends.weighting import Weighting
    from orchestrator.folder import create, read_jsonl
    from orchestrator.knobs import Knobs, initial
    from orchestrator.loop import Live, Plan, train
    from orchestrator.pieces import Pieces
    from orchestrator.record import Recorder
    from orchestrator.timeline import Position, Timeline, periods
    from orchestrator.watched_feed import WatchedFeed
    from orchestrator.worker import Host

    experiment, task, backend, host = made.experiment, made.task, made.backend, Host()
    feed = task.feed(experiment.seed)
    watched = WatchedFeed(feed)
    weighting = Weighting.of(experiment.weights, [t.name for t in task.terms], experiment.seed)

    def loop() -> Any:
        run = create(folder, experiment.name)
        with Recorder(run, experiment, resumed=False) as recorder:
            knobs = Knobs(initial(task, weighting.weights), (), experiment.clip, task=task)
            pieces = Pieces(made, feed, weighting, knobs, {}, run, host.world, recorder, watched)
            every = experiment.evaluate.every, experiment.checkpoint.every, experiment.tracking.every
            plan = Plan(
                backend=backend,
                task=task,
                timeline=Timeline(made.stages, periods([*every, weighting.every, *pieces.feed_periods()]), CAPACITY),
                knobs=knobs,
                feed=watched,
                callbacks=[],
                evaluate_every=experiment.evaluate.every,
                checkpoint_every=experiment.checkpoint.every,
                record_every=experiment.tracking.every,
                figures_every=None,
                best=experiment.checkpoint.best,
                measure=lambda state: {},
                adapt=pieces.adapt,
                reweigh=pieces.reweigh,
                save=lambda live, improved: f"step-{live.at.step:09d}",
                record=recorder.metrics,
                draw=lambda state, step: None,
                report=host.report,
                stop=pieces.stop,
            )
            train(plan, Live(Position(), backend.init(experiment.seed)), resumed=True)
        return np.array([r["metrics"]["loss/pde"] for r in read_jsonl(run.metrics)[0]])

    return loop


def _bare_jax(made: Assembled, steps: int) -> Loop:
    """The jitted function of n steps, called with what lies on the device, as many steps at a time as it takes."""
    import jax

    from backends.jax.steps import STEPS

    backend: Any = made.backend
    (program,) = backend._programs
    n = min(CAPACITY, steps)
    knobs = np.tile([RATE, 0.9, 0.999, 1e-8, WEIGHT, made.task.constants["nu"]], (CAPACITY, 1))
    _, fixed, stacked = backend._holder.take(made.task.feed(0), 0, n, CAPACITY, program.dtype)
    n_, table_, stamps, seed = map(backend._put, (np.int64(n), knobs, np.zeros(CAPACITY), np.int64(0)))
    starts = [backend._put(np.int64(at)) for at in range(0, steps, n)]

    def loop() -> Any:
        arrays, losses = backend.init(0).arrays, []
        for start in starts:
            arrays, rows = STEPS(program, arrays, n_, table_, fixed, stacked, stamps, seed, start)
            losses.append(rows["losses"])
        jax.block_until_ready(arrays)
        return np.concatenate([np.asarray(rows, np.float64)[:n, 0] for rows in losses])[EVERY - 1 :: EVERY]

    return loop


def _bare_torch(made: Assembled, steps: int) -> Loop:
    """A Python loop over the compiled functions with all their tensors ready."""
    import torch

    backend: Any = made.backend
    feed = made.task.feed(0)
    batches = backend._holder.batches(feed, feed.take(0, 1), 1, torch.float32)
    program = backend._program(0, batches)
    row = program.objective.row
    knobs = np.array([[RATE, 0.9, 0.999, 1e-8, WEIGHT, made.task.constants["nu"]]])
    (line,) = torch.unbind(backend._rows(row, knobs, 0), 0)
    out = torch.zeros(steps, 4)
    outs = torch.unbind(out, 0)

    def loop() -> Any:
        state = backend.init(0)
        work = program.work(state, batches, program.objective.layout.size + 1)
        parts, last = program.passes(work, line), program._last(work, line, outs[0])
        calls = [(p.traced.flat, (*p.head, line, *p.now[0])) for p in parts]
        step, head, now = last.traced.flat, (*last.head, line), last.now[0]
        for i in range(steps):
            for accumulate, arguments in calls:
                accumulate(*arguments)
            step(*head, outs[i], *now)
        return out[EVERY - 1 :: EVERY, 0].double().numpy()

    return loop


def _timed(loop: Loop) -> tuple[float, float]:
    """(CPU seconds, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    loop()
    return time.process_time() - cpu, time.perf_counter() - wall
