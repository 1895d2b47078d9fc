"""What the loop asks of a run's pieces: a start, new points, new weights, checkpoints, a stop."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from backends import checkpoint
from backends.errors import OwnCodeFailed
from backends.points.feed import PointFeed
from backends.protocol import Steps, World
from backends.task import Feed
from backends.weighting import Weighting
from backends.weighting.uncertainty import log_variances
from orchestrator.assemble import Assembled
from orchestrator.folder import RunFolder
from orchestrator.hooks import Status, call
from orchestrator.knobs import Knobs
from orchestrator.loop import Live
from orchestrator.point_weights import PointWeights
from orchestrator.record import Recorder, Silent
from orchestrator.start_from import refuse_misfits, shapes, taken_over
from orchestrator.timeline import Position, due

STOPS: tuple[Status, ...] = ("killed", "preempted", "stopped")


@dataclass
class Pieces:
    """A run, taken apart."""

    made: Assembled
    feed: Any
    weighting: Weighting
    knobs: Knobs
    callbacks: Mapping[str, Any]
    """By a name that a resumed run finds again (`orchestrator.callbacks.named`)."""
    folder: RunFolder
    world: World
    recorder: Recorder | Silent
    drawn: Feed
    """The feed as the backend sees it (arrays stay on the device as long as it is the same object)."""

    @cached_property
    def weights(self) -> PointWeights:
        """The weights of single points."""
        return PointWeights(self.made.task, self.made.backend, self.feed)

    # --- where it starts ---

    def start(self, *, resume: bool) -> Live:
        """A fresh state, the newest sound checkpoint, or another run's weights."""
        if resume:
            found = checkpoint.newest(self.folder.checkpoints, self.recorder.warn)
            if found is not None:
                return self.restored(found)
            if checkpoint.listing(self.folder.checkpoints):
                self.recorder.warn("there is no sound checkpoint in this run: it starts again from step 0")
        state = self.made.backend.init(self.made.experiment.seed)
        start_from = self.made.experiment.start_from
        if start_from:
            state = self._adopted(state, checkpoint.load(Path(start_from)))
        return Live(Position(), self.weights.settle(state, self.knobs.values))

    def restored(self, snapshot: checkpoint.Snapshot) -> Live:
        """Everything that a checkpoint holds, back in place."""
        loop = snapshot.loop
        state = self.made.backend.load(snapshot.arrays, snapshot.meta)
        self.feed.load(snapshot.points)
        self.weighting.load(loop["weighting"])
        self.knobs.values.update(loop["knobs"])
        for name, kept in loop["callbacks"].items():
            if name in self.callbacks:
                call(self.callbacks[name], "load", kept)
            else:
                self.recorder.warn(f"the callback {name!r}, whose state the checkpoint keeps, is no longer in this run")
        at = self._position(Position(**loop["position"]))
        if at.stage != snapshot.meta["stage"]:
            state = self.made.backend.enter(state, at.stage)
        return Live(
            at,
            state,
            best=self._best(loop["best"]),
            latest=dict(loop["latest"]),
            train_s=loop["train_s"],
            checkpoint=f"step-{snapshot.step:09d}",
            stalled=loop["stalled"],
        )

    def _best(self, kept: Mapping[str, Any]) -> float:
        """The best value so far, of the metric that still decides."""
        value = kept["value"]
        return (
            float(value) if value is not None and kept["metric"] == self.made.experiment.checkpoint.best else math.inf
        )

    def _position(self, at: Position) -> Position:
        """A stage that was over when the checkpoint was written may have been given more steps since."""
        last = len(self.made.stages) - 1
        if at.stage < last and at.within >= self.made.stages[at.stage].steps:
            return Position(at.step, at.stage + 1, 0)
        return at

    def _adopted(self, state: Any, snapshot: checkpoint.Snapshot) -> Any:
        """Another run's weights under this run's fresh optimizer; names and shapes must fit."""
        arrays, meta = self.made.backend.arrays(state)
        refuse_misfits(shapes(snapshot.arrays), shapes(arrays))
        theirs = {k: v.astype(arrays[k].dtype) for k, v in snapshot.arrays.items() if taken_over(k)}
        return self.made.backend.load({**arrays, **theirs}, meta)

    # --- what the loop asks for ---

    def feed_periods(self) -> tuple[int, ...]:
        """Periods at which the feed draws new points."""
        return (*self.feed.periods(), *self.weights.periods()) if isinstance(self.feed, PointFeed) else ()

    def adapt(self, live: Live, *, now: bool = False) -> bool:
        """Draw adaptive point sets again, where due or `now`; whether any were drawn."""
        if not isinstance(self.feed, PointFeed):
            return False
        step = live.at.step
        names = self.feed.adaptive() if now else self.feed.due(step)
        for name in names:
            candidates = self.feed.propose(name, step)
            blind = self.feed.blind(name)
            residuals = {} if blind else self.made.backend.candidates(live.state, name, candidates)
            kept = self.feed.adopt(name, step, candidates, residuals)
            live.state = self.weights.moved(live.state, name, kept)
        stage = self.made.stages[live.at.stage]
        live.state = self.weights.renew(live.state, step, self.knobs.values, line_search=not hasattr(stage, "lr"))
        return bool(names)

    def reweigh(self, live: Live, steps: Steps) -> None:
        """Let the weighting see what it needs, when its period is over."""
        at = live.at
        if not due(at.step, self.weighting.every):
            return
        seen: dict[str, Any] = {"losses": steps.losses[-1]}
        if "log_variances" in self.weighting.needs:
            parameters = self.made.backend.parameters(live.state)
            seen["log_variances"] = log_variances(parameters, self.weighting.terms)
        wanted = self.weighting.needs - seen.keys()
        if wanted:
            row = self.knobs.table(self.made.stages[at.stage], at.step, at.within, 1)[0]
            seen.update(self.made.backend.probe(live.state, wanted, self.drawn, at.step, row))
        weights = self.weighting.update(at.step, seen)
        self.knobs.values.update({f"weight/{name}": value for name, value in weights.items()})

    def stop(self) -> tuple[Status, str] | None:
        """Whether somebody asked the run to stop; several workers agree on it."""
        asked = self.folder.stop_requested()
        number = STOPS.index(asked) + 1 if asked in STOPS else 0
        if self.world.size > 1:
            number = self.made.module.agree(number, self.world)
        return (STOPS[number - 1], "asked to stop") if number else None

    def save(self, live: Live, best: bool) -> str:
        """Write a checkpoint (rank 0) and forget the ones that are not kept. Returns its name."""
        if self.world.rank != 0:
            return f"step-{live.at.step:09d}"
        path = checkpoint.save(self.folder.checkpoints, self.snapshot(live))
        self.recorder.saved(path, live.at.step, best)
        checkpoint.prune(self.folder.checkpoints, self.made.experiment.checkpoint.keep, self.recorder.best_steps)
        return path.name

    def snapshot(self, live: Live) -> checkpoint.Snapshot:
        """Everything that `restored` puts back."""
        arrays, meta = self.made.backend.arrays(live.state)
        return checkpoint.Snapshot(
            step=live.at.step,
            arrays=arrays,
            meta={**meta, **self.recorder.facts, "metrics": {k: v for k, v in live.latest.items() if math.isfinite(v)}},
            loop={
                "position": dataclasses.asdict(live.at),
                "knobs": dict(self.knobs.values),
                "weighting": self.weighting.state(),
                "callbacks": self._remembered(),
                "latest": {k: v for k, v in live.latest.items() if math.isfinite(v)},
                "best": {
                    "metric": self.made.experiment.checkpoint.best,
                    "value": live.best if math.isfinite(live.best) else None,
                },
                "stalled": live.stalled,
                "train_s": live.train_s,
            },
            points=self.feed.arrays(),
        )

    def _remembered(self) -> dict[str, Any]:
        """The state of every callback that has one. Raises OwnCodeFailed where it is no plain data."""
        found = {name: call(callback, "state") for name, callback in self.callbacks.items()}
        for name, state in found.items():
            try:
                json.dumps(state, default=lambda value: value.tolist())
            except (TypeError, ValueError, AttributeError) as error:
                raise OwnCodeFailed(
                    f"{name}: state() must return what JSON can hold (numbers, text, lists, dicts): {error}"
                ) from error
        return {name: state for name, state in found.items() if state is not None}
