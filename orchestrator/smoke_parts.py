"""The process of `check --smoke`: every part of a run once, each reported by itself.

python -m orchestrator.smoke_parts RUN_FOLDER
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backends import checkpoint
from backends.blame import place
from backends.errors import NonFinite, OrchestratorError, RunFailed
from backends.protocol import finite_terms
from backends.task import Task
from orchestrator.evaluate import predictor
from orchestrator.folder import Lines, RunFolder
from orchestrator.hooks import Moment, Outcome, ask, call
from orchestrator.loop import Live, Plan
from orchestrator.reader import read_experiment
from orchestrator.record import Recorder
from orchestrator.smoke import PARTS, Part
from orchestrator.worker import Host, Job, ready

STEPS = 2
POINTS = 60
"""Points of a set: a multiple of 1 to 6, so that sets made of a few single points can be cut to it."""
ROWS = 64


def cut(task: Task) -> Task:
    """The same task with few points or rows; its terms, scalings and networks stay."""
    small: Any = task
    sets, samples = getattr(task, "sets", None), getattr(task, "samples", None)
    if sets is not None:
        samplings = {b: s if s.fixed else s.of(min(s.count, POINTS)) for b, s in sets.samplings.items()}
        counts = {b: samplings[b].size if b in samplings else min(n, POINTS) for b, n in sets.counts.items()}
        small = replace(small, sets=replace(sets, samplings=samplings, counts=counts, chunks={}))
    elif samples is not None:
        training, held_out = samples.training[:ROWS], samples.held_out[:ROWS]
        batch = min(samples.batch, ROWS // 2) if samples.batch else None
        small = replace(small, samples=replace(samples, training=training, held_out=held_out, batch=batch))
    return small


@dataclass
class Try:
    """A run that is tried part by part."""

    folder: RunFolder
    plan: Plan
    live: Live
    moment: Moment

    def parts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and content of each part after `build`."""
        for i, stage in enumerate(self.plan.stages):
            yield f"steps/{stage.name}", lambda i=i: self.steps(i)
        yield "evaluation", self.evaluation
        if getattr(self.plan.task.feed(0), "adaptive", list)():
            yield "points", self.points
        yield "figure", self.figure
        yield "checkpoint", self.checkpoint
        if self.plan.callbacks:
            yield "callbacks", self.callbacks

    def steps(self, number: int) -> None:
        """Two steps of a stage, with the knobs of its beginning; then its weights, where they adapt."""
        plan, live = self.plan, self.live
        stage, at = plan.stages[number], STEPS * number
        if number:
            live.state = plan.backend.enter(live.state, number)
        n = min(STEPS, stage.steps)
        table = plan.knobs.table(stage, at, 0, n)
        try:
            live.state, steps = plan.backend.step(live.state, n, table, plan.feed, at)
            bad = steps.bad()
        except BaseException:  # the state was spent on it; the other parts need one
            live.state = plan.backend.enter(plan.backend.init(0), number)
            raise
        names = tuple(t.name for t in plan.task.terms if t.trained)
        if bad is not None:
            raise NonFinite(at + bad, finite_terms([t for t in plan.task.terms if t.trained], steps.losses[bad]))
        live.at = replace(live.at, step=at + n, stage=number, within=n)
        self.moment = Moment(live.at.step, stage.name, names, steps.losses, plan.knobs.named(stage, table[-1]), {})
        due = replace(live.at, step=0)  # every period is over at step 0
        plan.reweigh(replace(live, at=due), steps)

    def evaluation(self) -> None:
        """Every metric of the yardstick is a finite number."""
        metrics = self.plan.measure(self.live.state)
        bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        if bad:
            raise RunFailed(f"the evaluation gives no finite number for {', '.join(bad)}")
        self.live.latest.update(metrics)
        self.moment = replace(self.moment, metrics=metrics)

    def points(self) -> None:
        """Adaptive sets are drawn again."""
        self.plan.adapt(self.live, now=True)

    def figure(self) -> None:
        """All pictures of the present state."""
        from orchestrator.figures import draw_all

        plan, state = self.plan, self.live.state
        samples = plan.feed.take(self.live.at.step, 1).fixed()
        pictures = plan.task.pictures(predictor(plan.task, plan.backend, state), samples)
        draw_all(pictures, self.folder, read_experiment(self.folder.experiment).experiment, self.live.at.step)

    def checkpoint(self) -> None:
        """Written, read, and put back in place: the same numbers."""
        name = self.plan.save(self.live, False)
        snapshot = checkpoint.load(self.folder.checkpoints / name)
        again, _ = self.plan.backend.arrays(self.plan.backend.load(snapshot.arrays, snapshot.meta))
        for key, value in self.plan.backend.arrays(self.live.state)[0].items():
            if not np.array_equal(value, again[key], equal_nan=True):
                raise RunFailed(f"{key} is not what it was after a checkpoint was written and read")

    def callbacks(self) -> None:
        """Each method of each callback, once."""
        moment = self.moment
        begun = replace(moment, losses=moment.losses[:0], metrics={})
        outcome = Outcome("finished", moment.step, metrics=dict(self.live.latest))
        for callback in self.plan.callbacks:
            for method, now in (("start", begun), ("step", moment)):
                answer = ask(callback, method, now)
                if answer is not None:
                    self.plan.knobs.set(answer.knobs, type(callback).__name__)
            call(callback, "end", moment, outcome)


def main(path: str) -> None:
    """Try everything; one line per part in PARTS."""
    folder = RunFolder(Path(path))
    lines = Lines(folder.path / PARTS)
    experiment = read_experiment(folder.experiment).experiment
    with Recorder(folder, experiment, resumed=False) as recorder:
        made: list[Try] = []

        def build() -> None:
            plan, live = ready(Job(path), Host(change=cut), folder, experiment, recorder)
            made.append(Try(folder, plan, live, Moment(0, "", (), np.zeros((0, 0)), {})))

        lines.append(asdict(tried("build", build)))
        for name, content in made[0].parts() if made else ():
            lines.append(asdict(tried(name, content)))


def tried(name: str, content: Callable[[], None]) -> Part:
    """One part, and what it raised."""
    began = time.perf_counter()
    try:
        content()
    except OrchestratorError as error:
        return Part(name, "failed", str(error), time.perf_counter() - began)
    except Exception as error:
        return Part(name, "failed", f"{place(error)}{type(error).__name__}: {error}", time.perf_counter() - began)
    return Part(name, "ok", "", time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1])
