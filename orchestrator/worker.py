"""One worker, the same on every host: run folder → task → backend → loop → report.

A worker reads everything from `experiment.yaml` in the run folder, so that all workers, a resumed run and a
sweep's trial start from the same text. Rank 0 writes; the others compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from backends.blame import place
from backends.errors import OrchestratorError, OwnCodeFailed
from backends.groups import Grouping, Groups
from backends.protocol import World
from backends.task import Task
from backends.weighting import Weighting
from orchestrator import uncertainty
from orchestrator.assemble import ALONE, CAPACITY, assemble
from orchestrator.callbacks import Ramp, named, own_objects
from orchestrator.config import Experiment
from orchestrator.epoch_hooks import epoch_of, hooked
from orchestrator.evaluate import Yardstick, predictor
from orchestrator.folder import RunFolder
from orchestrator.hooks import Outcome, Surroundings, call
from orchestrator.knobs import Knobs, initial
from orchestrator.loop import Live, Plan, train
from orchestrator.pieces import Pieces
from orchestrator.reader import read_experiment
from orchestrator.record import Recorder, Silent
from orchestrator.timeline import Timeline, periods
from orchestrator.watched_feed import WatchedFeed


@dataclass(frozen=True)
class Job:
    """What a worker is told; plain data, so it travels to any host."""

    folder: str
    """The run folder, with `experiment.yaml` in it."""
    resume: bool = False
    """Go on from the newest sound checkpoint, where there is one."""


@dataclass(frozen=True)
class Host:
    """What surrounds a worker."""

    world: World = ALONE
    report: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, metrics: None)
    change: Callable[[Task], Task] = field(default=lambda task: task)
    """What becomes of the task before it is compiled: `check --smoke` takes fewer points."""
    callbacks: Sequence[Any] = ()
    """Objects that a program passed to `run`, beside the callbacks of the file."""


def work(job: Job, host: Host) -> dict[str, Any]:
    """Train the run in `job.folder` on this host. Returns the outcome as plain data; raises OrchestratorError."""
    folder = RunFolder(Path(job.folder))
    experiment = read_experiment(folder.experiment).experiment
    recorder = Recorder(folder, experiment, resumed=job.resume) if host.world.rank == 0 else Silent()
    with recorder:
        try:
            outcome = _train(job, host, folder, experiment, recorder)
        except OrchestratorError:
            raise
        except Exception as error:
            where = place(error)
            if not where:
                raise
            raise OwnCodeFailed(f"{where}raised {type(error).__name__}: {error}") from error
    return dataclasses.asdict(outcome)


def _train(job: Job, host: Host, folder: RunFolder, experiment: Experiment, recorder: Recorder | Silent) -> Outcome:
    plan, live = ready(job, host, folder, experiment, recorder)
    if live.at.step == 0:
        recorder.domain(plan.task, plan.feed)
    try:
        return train(plan, live, resumed=live.at.step > 0)
    finally:
        recorder.compilations(plan.backend.compilations())


def ready(
    job: Job, host: Host, folder: RunFolder, experiment: Experiment, recorder: Recorder | Silent
) -> tuple[Plan, Live]:
    """Everything that a run needs, in place, and where it starts: what training, `plan` and `check --smoke` share."""
    recorder.phase(f"loading {experiment.backend}")
    made = assemble(experiment, folder.path, world=host.world, warn=recorder.warn, change=host.change)
    task, backend = made.task, made.backend
    recorder.about(made.device, made.module.versions(), host.world)
    feed = task.feed(experiment.seed)
    yardstick = Yardstick.of(task, experiment.evaluate.points)
    weighting = Weighting.of(experiment.weights, [t.name for t in task.terms if t.trained], experiment.seed)
    ramps = (*(c for c in experiment.callbacks if isinstance(c, Ramp)), *weighting.plans)
    knobs = Knobs(
        initial(task, weighting.weights),
        ramps,
        experiment.clip,
        groups=experiment.groups,
        noise=experiment.gradients.noise,
        task=task,
        weighting=weighting.spec.kind,
    )
    callbacks = named(experiment.callbacks, folder.path) | own_objects(host.callbacks)
    callbacks = hooked(callbacks, epoch_of(feed, experiment.accumulate))
    watched = WatchedFeed(feed)
    pieces = Pieces(made, feed, weighting, knobs, callbacks, folder, host.world, recorder, watched)
    recorder.phase(f"compiling for {made.device}, usually 5 to 15 s the first time")
    live = pieces.start(resume=job.resume)
    every = [
        experiment.evaluate.every,
        experiment.checkpoint.every,
        experiment.tracking.every,
        experiment.figures.every,
    ]
    every += [weighting.every, *pieces.feed_periods(), *(getattr(c, "every", None) for c in callbacks.values())]
    around = Surroundings(
        folder.path,
        made.device,
        host.world.rank,
        made.module,
        tuple(backend.layout(live.state)),
        group_of(experiment.groups, list(backend.parameters(live.state)) if experiment.groups else ()),
    )
    for callback in callbacks.values():
        call(callback, "attach", around)
    return Plan(
        backend=backend,
        task=task,
        timeline=Timeline(made.stages, periods(every), CAPACITY, marks_of(callbacks.values())),
        knobs=knobs,
        feed=watched,
        callbacks=list(callbacks.values()),
        evaluate_every=experiment.evaluate.every,
        checkpoint_every=experiment.checkpoint.every,
        record_every=experiment.tracking.every,
        figures_every=experiment.figures.every,
        best=experiment.checkpoint.best,
        measure=lambda state: {**yardstick.measure(backend, state), **pieces.weights.readings(state)},
        adapt=pieces.adapt,
        reweigh=pieces.reweigh,
        save=pieces.save,
        record=recorder.metrics,
        draw=lambda state, step: recorder.draw(
            task, predictor(task, backend, state), pieces.weights.shown(state), step
        ),
        report=host.report,
        stop=pieces.stop,
        keep=recorder.keep,
        note_end=recorder.note_end,
        conclude=partial(uncertainty.concluded, made, knobs, watched),
    ), live


def marks_of(callbacks: Iterable[Any]) -> tuple[int, ...]:
    """Steps at which callbacks want a dispatch to end."""
    return tuple(sorted({int(mark) for callback in callbacks for mark in getattr(callback, "marks", ())}))


def group_of(groups: Groups, names: Sequence[str]) -> dict[str, str]:
    """The group of each parameter that the file puts into one."""
    return {name: group for group, members in Grouping.of(groups, names).members for name in members}
