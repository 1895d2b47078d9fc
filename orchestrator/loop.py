"""The one training loop.

In a fixed order, at the end of every dispatch of n steps: points, weights, evaluation, callbacks, knobs,
record, save, report, stop. n depends on the file and the step alone, so a resumed run takes the same
dispatches as one that was never stopped, and gives the same bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from backends.errors import NonFinite
from backends.protocol import Backend, Steps, finite_terms
from backends.stages import Stage
from backends.task import Task
from orchestrator import tally
from orchestrator.hooks import Ask, Moment, Outcome, Status, Work, ask, call
from orchestrator.knobs import Knobs
from orchestrator.timeline import Position, Timeline, due
from orchestrator.watched_feed import WatchedFeed

Metrics = Mapping[str, float]
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass
class Live:
    """Everything that changes while a run trains."""

    at: Position
    """The next step."""
    state: Any
    stepped: tuple[str, dict[str, float]] | None = None
    """Stage and knobs of the last step that this process did."""
    best: float = float("inf")
    latest: dict[str, float] = field(default_factory=dict)
    train_s: float = 0.0
    rate: float = 0.0
    """Steps per second of the last dispatch."""
    work: Work = field(default_factory=Work)
    """What the last dispatch took."""
    checkpoint: str | None = None
    stalled: bool = False
    """The quasi-Newton stage stalled at the last dispatch (a second time in a row ends it)."""


class Adapt(Protocol):
    """Draw adaptive point sets again where due, or all of them `now`; whether any were drawn."""

    def __call__(self, live: Live, *, now: bool = False) -> bool: ...


@dataclass(frozen=True)
class Plan:
    """What a run does, fixed at its start."""

    backend: Backend[Any]
    task: Task
    timeline: Timeline
    knobs: Knobs
    feed: WatchedFeed
    callbacks: Sequence[Any]
    evaluate_every: int
    checkpoint_every: int
    record_every: int
    figures_every: int | None
    best: str | None
    measure: Callable[[Any], dict[str, float]]
    adapt: Adapt
    reweigh: Callable[[Live, Steps], None]
    save: Callable[[Live, bool], str]
    record: Callable[[int, Metrics], None]
    draw: Callable[[Any, int], None]
    report: Callable[[int, Metrics], None]
    stop: Callable[[], tuple[Status, str] | None]
    keep: Callable[[int, Sequence[str]], None] = field(default=lambda step, paths: None)
    """Send files of the run folder to the tracker."""
    note_end: Callable[[int, str, str], None] = field(default=lambda step, stage, why: None)
    """Record why a stage ended before its last step."""
    conclude: Callable[[Live], Metrics] = field(default=lambda live: NONE)
    """What is measured once, at the end of the last stage."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages in order."""
        return self.timeline.stages


def train(plan: Plan, live: Live, *, resumed: bool) -> Outcome:
    """Run from `live.at` to the end of the last stage, or until somebody asks to stop."""
    try:
        status, reason = _steps(plan, live, resumed)
        if status == "stopped":  # at the end of the last stage it was measured with the last evaluation
            live.latest.update(plan.conclude(live))
        if live.checkpoint is None or not live.checkpoint.endswith(f"{live.at.step:09d}"):
            live.checkpoint = plan.save(live, False)
        plan.draw(live.state, live.at.step)
    except Exception as error:
        with contextlib.suppress(Exception):  # the first failure is the one to tell
            _end(plan, live, "failed", str(error))
        raise
    return _end(plan, live, status, reason)


def _steps(plan: Plan, live: Live, resumed: bool) -> tuple[Status, str]:
    """All dispatches that are left; how they ended, and why."""
    evaluated = {} if resumed else _evaluate(plan, live)
    asks = _ask(plan, "start", _moment(plan, live, None, evaluated, _probed(plan, live)))
    _said(live, asks)
    if not resumed:
        plan.record(0, live.latest)
    if any(a.save for a in asks):
        live.checkpoint = plan.save(live, False)
    if plan.figures_every and not resumed:
        plan.draw(live.state, 0)
    while not plan.timeline.over(live.at):
        if stopping := plan.stop() or _asked_to_stop(asks):
            return stopping
        before = live.at.stage
        steps, ended = _dispatch(plan, live)
        step, last = live.at.step, plan.timeline.over(live.at)
        over = last or live.at.stage != before
        if (ended or over) and (why := tally.ending(steps, int(np.count_nonzero(steps.evaluations)), over=over)):
            plan.note_end(step, _stepped(plan, live)[0], why)
        plan.adapt(live)
        plan.reweigh(live, steps)
        evaluated = _evaluate(plan, live) if due(step, plan.evaluate_every) or last else {}
        if last:
            evaluated = {**evaluated, **plan.conclude(live)}
            live.latest.update(evaluated)
        asks = _ask(plan, "step", _moment(plan, live, steps, evaluated, _probed(plan, live)))
        said = _said(live, asks)
        if due(step, plan.record_every) or evaluated or ended or said:
            plan.record(step, {**_training_metrics(plan, live, steps), **evaluated, **said})
        improved = _improved(plan, live, evaluated)
        if due(step, plan.checkpoint_every) or last or improved or any(a.save for a in asks):
            live.checkpoint = plan.save(live, improved)
        if due(step, plan.figures_every) and not last:
            plan.draw(live.state, step)
        if evaluated:
            plan.report(step, live.latest)
    return "finished", ""


def _end(plan: Plan, live: Live, status: Status, reason: str) -> Outcome:
    """Sum up, and tell the callbacks."""
    outcome = Outcome(status, live.at.step, reason, dict(live.latest), live.checkpoint, live.train_s)
    for callback in plan.callbacks:
        answer = call(callback, "end", _moment(plan, live, None, {}), outcome)
        if isinstance(answer, Ask) and answer.artifacts:
            plan.keep(live.at.step, answer.artifacts)
    return outcome


def _dispatch(plan: Plan, live: Live) -> tuple[Steps, bool]:
    """Do the steps up to the next event; enter the next stage where one is over. Raises NonFinite by term."""
    at = live.at
    stage = plan.stages[at.stage]
    n = plan.timeline.dispatch(at)
    table = plan.knobs.table(stage, at.step, at.within, n)
    waited, samples = plan.feed.waited_s, plan.feed.samples
    began = time.perf_counter()
    live.state, steps = plan.backend.step(live.state, n, table, plan.feed, at.step)
    bad = steps.bad()  # fetches the rows: the clock stops when the device is done
    spent = time.perf_counter() - began
    live.work = Work(spent, plan.feed.waited_s - waited, plan.feed.samples - samples)
    live.train_s, live.rate = live.train_s + spent, n / spent
    if bad is not None:
        terms = finite_terms([t for t in plan.task.terms if t.trained], steps.losses[bad])
        raise NonFinite(at.step + bad, terms, "loss" if terms else "gradient")
    ended, done = bool(steps.ended), n
    if ended:
        done = int(np.count_nonzero(steps.evaluations))
        # New points often help a stalled line search on; a stage that stalls twice in a row is over.
        if "stalled" in steps.ended and not live.stalled and done < n and plan.adapt(live, now=True):
            live.stalled, ended = True, False
    else:
        live.stalled = False
    live.stepped = (stage.name, plan.knobs.named(stage, table[max(done - 1, 0)]))
    live.at = plan.timeline.after(at, done, ended=ended)
    if live.at.stage != at.stage:
        live.state = plan.backend.enter(live.state, live.at.stage)
    return steps, ended


def _evaluate(plan: Plan, live: Live) -> dict[str, float]:
    metrics = plan.measure(live.state)
    live.latest.update(metrics)
    return metrics


def _training_metrics(plan: Plan, live: Live, steps: Steps) -> dict[str, float]:
    """The last step's terms, their weighted sum, its knobs and the speed."""
    _, knobs = _stepped(plan, live)
    names = [t.name for t in plan.task.terms if t.trained]
    done = max(int(np.count_nonzero(steps.evaluations)), 1)
    losses = dict(zip(names, steps.losses[done - 1].tolist()))
    metrics = {f"loss/{name}": value for name, value in losses.items()}
    metrics["loss"] = sum(knobs[f"weight/{name}"] * value for name, value in losses.items())
    metrics.update(plan.knobs.moving(knobs))
    metrics.update({name: float(values[done - 1]) for name, values in steps.readings.items()})
    metrics["time/train_s"] = live.train_s
    metrics["time/steps_per_s"] = live.rate
    live.latest.update(metrics)
    return metrics


def _probed(plan: Plan, live: Live) -> dict[str, Any]:
    """What callbacks need to see now, measured once for all of them."""
    at = live.at
    asking = [c for c in plan.callbacks if due(at.step, getattr(c, "every", None))]
    needs: frozenset[str] = frozenset().union(*(getattr(c, "needs", ()) for c in asking))
    if not needs:
        return {}
    row = plan.knobs.table(plan.stages[at.stage], at.step, at.within, 1)[0]
    return plan.backend.probe(live.state, needs, plan.feed, at.step, row)


def _moment(plan: Plan, live: Live, steps: Steps | None, metrics: Metrics, probe: Mapping[str, Any] = NONE) -> Moment:
    names = tuple(t.name for t in plan.task.terms if t.trained)
    stage, knobs = _stepped(plan, live)
    losses = steps.losses if steps is not None else np.zeros((0, len(names)))
    return Moment(live.at.step, stage, names, losses, knobs, metrics, probe, live.work if steps is not None else Work())


def _stepped(plan: Plan, live: Live) -> tuple[str, dict[str, float]]:
    """Stage and knobs of the last step; before the first one, those of the next."""
    stage = plan.stages[live.at.stage]
    return live.stepped or (stage.name, plan.knobs.now(stage, live.at.step, live.at.within))


def _ask(plan: Plan, method: str, moment: Moment) -> list[Ask]:
    """Ask every callback and write the knobs that they want."""
    asks: list[Ask] = []
    for number, callback in enumerate(plan.callbacks):
        answer = ask(callback, method, moment)
        if answer is not None:
            plan.knobs.set(answer.knobs, f"callback {number} ({type(callback).__name__})")
            if answer.artifacts:
                plan.keep(moment.step, answer.artifacts)
            asks.append(answer)
    return asks


def _said(live: Live, asks: Sequence[Ask]) -> dict[str, float]:
    """The metrics that callbacks want recorded."""
    said = {name: float(value) for answer in asks for name, value in answer.metrics.items()}
    live.latest.update(said)
    return said


def _asked_to_stop(asks: Sequence[Ask]) -> tuple[Status, str] | None:
    reasons = [answer.stop for answer in asks if answer.stop]
    return ("stopped", reasons[0]) if reasons else None


def _improved(plan: Plan, live: Live, evaluated: Metrics) -> bool:
    """Whether this evaluation is the best so far by the metric that the file names; ties keep the earlier."""
    value = evaluated.get(plan.best, float("nan")) if plan.best else float("nan")
    if not value < live.best:
        return False
    live.best = value
    return True
