"""A Trainer at work: task, compiled functions and loop of a model with its loss and data, put together once.

It is the loop of every run (`orchestrator.loop.train`) with another feed and another yardstick: the user's batches,
and the loss on the validation data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import backends
from backends import checkpoint
from backends.errors import NonFinite, UserError
from backends.own.batches import BATCH, Form, samples
from backends.own.model import Loss
from backends.own.task import OwnTask
from backends.protocol import Settings, Steps, finite_terms, precision_of
from backends.weighting import Weighting
from backends.weighting.uncertainty import without
from orchestrator.assemble import ALONE, CAPACITY, Assembled
from orchestrator.folder import RunFolder
from orchestrator.hooks import Outcome
from orchestrator.knobs import Knobs, initial
from orchestrator.loop import Live, Plan, train
from orchestrator.pieces import Pieces
from orchestrator.record import Recorder, Silent
from orchestrator.timeline import Position, Timeline, periods
from orchestrator.trainer.configs import TrainingConfig
from orchestrator.trainer.data import OneBatch, TrainFeed, evaluated
from orchestrator.trainer.epochs import Epochs
from orchestrator.trainer.state import History, split
from orchestrator.trainer.stream import StreamFeed
from orchestrator.trainer.translate import OwnSpec, experiment_of
from orchestrator.watched_feed import WatchedFeed

BLOCK_BYTES, BLOCK = 64_000_000, 200
"""A dispatch takes at most so much of a loader's batches."""


class Session:
    """What a Trainer builds from its first batch on, and keeps."""

    def __init__(
        self,
        model: Any,
        loss: Loss,
        config: TrainingConfig,
        feed: TrainFeed,
        form: Form,
        *,
        backend: str,
        optimizer: Any,
        warn: Callable[[str], None],
    ) -> None:
        """Raises UserError where model, loss, data and config do not fit together."""
        self.config, self.form, self.feed = config, form, feed
        self.batches = feed.steps_per_epoch
        self.per_epoch = max(self.batches // config.gradient_accumulation, 1)
        module = backends.load(backend)
        columns = _first(feed)
        self.model = module.own_model(model, form.batch(columns))
        looked_at = config.weights.kind in ("fixed", "schedule")
        self.task = OwnTask.of(self.model, loss, form, columns, trained_metrics=looked_at)
        spec = OwnSpec(model=self.model.name, loss=loss.name, terms=tuple(t.name for t in self.task.terms))
        self.experiment = experiment_of(config, spec, backend, self.per_epoch, optimizer)
        self.weighting = Weighting.of(self.experiment.weights, self.task.losses, config.seed, self.task.losses)
        self.stage = self.experiment.stages[0].model_copy(
            update={"precision": precision_of(self.experiment.stages[0], self.experiment.precision)}
        )
        device = module.resolve_device(config.device)
        settings = Settings(
            seed=config.seed,
            device=device,
            compile=config.compile,
            clip=self.experiment.clip,
            capacity=_capacity(feed, config, self.per_epoch),
            accumulate=config.gradient_accumulation,
            remat=config.gradient_checkpointing,
            trained_weights=self.experiment.weights.trained(self.task.losses),
            warn=warn,
        )
        self._settings, self._module = settings, module
        backend_ = module.build(self.task, (self.stage,), settings)
        self.made = Assembled(self.experiment, module, device, self.task, (self.stage,), backend_)
        weights = {**dict.fromkeys(self.task.metrics if looked_at else (), 0.0), **self.weighting.weights}
        self.knobs = Knobs(
            initial(self.task, weights),
            self.weighting.plans,
            self.experiment.clip,
            task=self.task,
            weighting=self.weighting.spec.kind,
        )
        self.live = Live(Position(), backend_.init(config.seed))
        self.history = History()
        self._buffered = bool(self.model.aux())
        self.sums, self.counted = np.zeros(len(self.terms)), 0
        self._single: Any = None
        self._watched = WatchedFeed(feed)
        self.validation: Any = None
        self.best_steps: frozenset[int] = frozenset()

    @property
    def terms(self) -> tuple[str, ...]:
        """What the rows of a dispatch hold."""
        return tuple(t.name for t in self.task.terms if t.trained)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.live.at.step // self.per_epoch

    # --- the loop ---

    def run(
        self,
        until: int,
        callbacks: Mapping[str, Any],
        *,
        recorder: Recorder | Silent | None = None,
        folder: RunFolder | None = None,
        validate: bool = True,
        said: Callable[[int, Mapping[str, float]], None] = lambda epoch, metrics: None,
    ) -> Outcome:
        """Train until step `until`. `said` hears of each epoch that is over. Raises what the loop raises."""
        recorder = recorder or Silent()
        pieces = self.pieces(callbacks, recorder, folder)
        ends, tracked = self.experiment.evaluate.every, folder is not None
        every = [self.per_epoch, self.experiment.checkpoint.every, self.weighting.every]
        every += [self.experiment.tracking.every] if tracked else []
        every += [getattr(c, "every", None) for c in callbacks.values()]

        def seen(live: Live, steps: Steps) -> None:
            pieces.reweigh(live, steps)
            self._count(steps)

        def measure(state: Any) -> dict[str, float]:
            over = self.live.at.step and self.live.at.step % self.per_epoch == 0
            means = self.epoch_means() if over else {}
            found = self.validated(state) if validate and self.validation is not None else {}
            return {**({"loss": means["loss"]} if means and validate else {}), **found}

        stage = self.stage.model_copy(update={"steps": until})  # its schedule has a length of its own
        plan = Plan(
            backend=self.made.backend,
            task=self.task,
            timeline=Timeline((stage,), periods(every), self._settings.capacity),
            knobs=self.knobs,
            feed=self._watched,
            callbacks=[Epochs(self, said), *callbacks.values()],
            evaluate_every=ends,
            checkpoint_every=self.experiment.checkpoint.every,
            record_every=self.experiment.tracking.every if tracked else 0,
            figures_every=None,
            best=self.experiment.checkpoint.best if self.validation is not None else "loss",
            measure=measure,
            adapt=lambda live, now=False: False,
            reweigh=seen,
            save=lambda live, best: self._saved(pieces, live, best, recorder),
            record=recorder.metrics,
            draw=lambda state, step: None,
            report=lambda step, metrics: None,
            stop=pieces.stop if tracked else (lambda: None),
            keep=recorder.keep,
        )
        return train(plan, self.live, resumed=self.live.at.step > 0)

    def pieces(
        self, callbacks: Mapping[str, Any], recorder: Recorder | Silent | None = None, folder: RunFolder | None = None
    ) -> Pieces:
        """What the loop asks of a run."""
        remembered = {"epochs": Epochs(self, lambda epoch, metrics: None), **callbacks}
        where, recorder = folder or RunFolder(self.config.checkpoint_dir or Path()), recorder or Silent()
        return Pieces(
            self.made, self.feed, self.weighting, self.knobs, remembered, where, ALONE, recorder, self._watched
        )

    def _saved(self, pieces: Pieces, live: Live, best: bool, recorder: Recorder | Silent) -> str:
        """A checkpoint, where one is asked for."""
        place = self.config.checkpoint_dir
        if isinstance(recorder, Recorder):
            return pieces.save(live, best)
        if place is None:
            return f"step-{live.at.step:09d}"
        path = checkpoint.save(place, pieces.snapshot(live))
        if best:
            self.best_steps = frozenset({live.at.step})
        checkpoint.prune(place, self.config.max_checkpoints, self.best_steps)
        return path.name

    def _count(self, steps: Steps) -> None:
        if self.counted >= self.per_epoch:
            self.sums, self.counted = np.zeros(len(self.terms)), 0
        self.sums, self.counted = self.sums + steps.losses.sum(0), self.counted + len(steps.losses)

    def epoch_means(self) -> dict[str, float]:
        """Each term over the steps of this epoch, and their weighted sum `loss`."""
        if not self.counted:
            return {}
        means = dict(zip(self.terms, (self.sums / self.counted).tolist(), strict=True))
        return {**means, "loss": self.total(means)}

    def total(self, values: Mapping[str, float]) -> float:
        """The terms' weighted sum, at the present weights."""
        return sum(self.knobs.values.get(f"weight/{name}", 0.0) * values[name] for name in self.task.losses)

    def replace(self, feed: TrainFeed, form: Form) -> None:
        """Go on with other data of the same form. Raises UserError where it is of another one."""
        if form != self.form:
            raise UserError(
                f"the batches now have {form.template!r}, before they had {self.form.template!r}", path="data"
            )
        self.feed, self.batches = feed, feed.steps_per_epoch
        self._watched = WatchedFeed(feed)
        self.per_epoch = max(self.batches // self.config.gradient_accumulation, 1)

    # --- single calls ---

    def validated(self, state: Any) -> dict[str, float]:
        """`validation/<term>` and `validation/total` (at the weights of the file where they are fixed)."""
        means = self.evaluate(state, self.validation)
        return {f"validation/{'total' if name == 'loss' else name}": value for name, value in means.items()}

    def evaluate(self, state: Any, data: Any, batch_size: int | None = None) -> dict[str, float]:
        """Every term over the data, and their weighted sum `loss`. Raises UserError where there are no samples."""
        sums: dict[str, float] = {}
        rows = 0
        for columns in evaluated(data, self.form, batch_size or self.config.batch_size, self.config.seed):
            count = samples(columns)
            for name, value in self.made.backend.evaluate(state, {BATCH: columns}).items():
                sums[name] = sums.get(name, 0.0) + count * value
            rows += count
        if not rows:
            raise UserError("there are no samples to evaluate on", path="data")
        means = {name: value / rows for name, value in sums.items()}
        return {**means, "loss": self.total(means)}

    def step(self, batch: Any) -> dict[str, float]:
        """One optimizer step on a batch of the user's."""
        columns = self.form.columns(batch)
        if self._single is None:
            settings = dataclasses.replace(self._settings, capacity=1, accumulate=1)
            shared = self.experiment.backend == "torch" and self._settings.accumulate == 1  # torch pads nothing
            self._single = self.made.backend if shared else self._module.build(self.task, (self.stage,), settings)
        at = self.live.at
        table = self.knobs.table(self.stage, at.step, at.within, 1)
        self.live.state, steps = self._single.step(self.live.state, 1, table, OneBatch(columns), at.step)
        if steps.bad() is not None:
            terms = finite_terms([t for t in self.task.terms if t.trained], steps.losses[0])
            raise NonFinite(at.step, terms, "loss" if terms else "gradient")
        self.live.at = Position(at.step + 1, 0, at.within + 1)
        means = dict(zip(self.terms, steps.losses[0].tolist(), strict=True))
        return {**means, "loss": self.total(means)}

    # --- state ---

    def trained(self) -> Any:
        """The user's model with the present numbers."""
        backend, state = self.made.backend, self.live.state
        aux = split(backend.arrays(state)[0], "aux") if self._buffered else {}
        return self.model.trained(without(backend.parameters(state)), aux)


def _first(feed: TrainFeed) -> dict[str, Any]:
    """The columns of the first step."""
    if isinstance(feed, StreamFeed):
        return feed.first
    return feed.batch_of(0)


def _capacity(feed: TrainFeed, config: TrainingConfig, per_epoch: int) -> int:
    """Most steps per dispatch, and as many in each of an epoch's dispatches."""
    most = CAPACITY
    if isinstance(feed, StreamFeed):
        most = max(1, min(BLOCK, BLOCK_BYTES // max(feed.bytes * config.gradient_accumulation, 1)))
    most = min(most, config.steps_per_call or most, per_epoch)
    return math.ceil(per_epoch / math.ceil(per_epoch / most))
