"""Trainer: the loop of every run for people who bring their own model, loss and data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends import checkpoint
from backends.errors import UserError
from backends.own.batches import Form, described
from backends.own.model import Loss
from orchestrator.epoch_hooks import EpochHooks
from orchestrator.trainer import folders
from orchestrator.trainer.adapting import Adapters
from orchestrator.trainer.callbacks import LearningRateScheduler
from orchestrator.trainer.configs import SchedulerConfig, TrainingConfig
from orchestrator.trainer.data import feed_of
from orchestrator.trainer.given import backend_of, checkpoints_at, is_batch, kept, said_as
from orchestrator.trainer.sampling import samples_of
from orchestrator.trainer.session import Session
from orchestrator.trainer.state import History, Trained, TrainingState, split

log = logging.getLogger("orchestrator")


class Trainer:
    """Trains a user's model.

        trainer = Trainer(model, TrainingConfig(num_epochs=20), loss="mse", data=(x, y), validation=(x_val, y_val))
        model, history = trainer.fit()

    `model`: a torch.nn.Module (trained in place), a flax.nnx or flax.linen module, an equinox module, a pytree of
    parameters, or a pair (init, apply) or (parameters, apply). `loss`: see `backends.own.model`. `data`: arrays, or
    whatever gives batches (`orchestrator.trainer.data`). Nothing is compiled before the first step, nothing is printed
    or written unless asked for.
    """

    def __init__(
        self,
        model: Any,
        config: TrainingConfig | Mapping[str, Any] | None = None,
        *,
        loss: Any = None,
        data: Any = None,
        optimizer: Any = None,
        validation: Any = None,
        callbacks: Sequence[Any] = (),
        backend: str | None = None,
    ) -> None:
        """`optimizer`: a name, OptimizerConfig or torch.optim object, instead of the config's. Raises UserError."""
        if config is not None and not isinstance(config, TrainingConfig | Mapping):
            raise UserError(f"the config is {described(config)}; give a TrainingConfig or a dict of its fields")
        self.config = config if isinstance(config, TrainingConfig) else TrainingConfig(**dict(config or {}))
        self.loss, self.optimizer = Loss.of(loss), optimizer
        self.backend = backend_of(model, backend)
        self.callbacks = list(callbacks)
        self.should_stop = False
        self.global_step = self.current_epoch = 0
        self.warnings: list[str] = []
        """What was changed or is slower than it could be."""
        self.folder: Any = None
        """The run folder, with `TrainingConfig(storage=…)`."""
        self._model, self._data, self._validation = model, data, kept(validation)
        self._session: Session | None = None
        self._restore: checkpoint.Snapshot | None = None
        self._adapters = Adapters()
        self._synced = 0

    # --- training ---

    def fit(
        self,
        data: Any = None,
        validation: Any = None,
        *,
        epochs: int | None = None,
        callbacks: Sequence[Any] | None = None,
        batch_size: int | None = None,
        **words_: Any,
    ) -> Trained:
        """Train up to `num_epochs` of the config in all, or `epochs` more; the trained model and its history.

        Other words: `train_data`, `train_loader`, `train_dataloader`; `val_data`, `val_loader`, `val_dataloader`;
        `num_epochs` (in all). Raises UserError, RunFailed; what was trained until then is in `state` and `model`.
        """
        data, validation, total, rest = said_as(data, validation, words_)
        if rest:
            raise UserError(f"fit takes data, validation, epochs, callbacks and batch_size, but no {sorted(rest)[0]!r}")
        changes = {"num_epochs": total, "batch_size": batch_size}
        if epochs is not None and self._session is None and not self.global_step and self._restore is None:
            changes["num_epochs"] = epochs  # so that a schedule ends with the training
        session = self._ready(data, validation, {k: v for k, v in changes.items() if v is not None})
        if callbacks is not None:
            self.callbacks = list(callbacks)
        until = (session.epoch + epochs if epochs is not None else self.config.num_epochs) * session.per_epoch
        self.should_stop = False
        if until > session.live.at.step:
            self._run(session, until)
        return Trained(self.model, self.history)

    train = fit

    def train_epoch(self, data: Any = None) -> dict[str, float]:
        """Train one epoch, without validating; the means of its terms, and `loss`. `fit` goes on after it."""
        session = self._ready(data, None, {})
        self._run(session, (session.epoch + 1) * session.per_epoch, whole=False)
        return session.epoch_means()

    def train_step(self, batch: Any) -> dict[str, float]:
        """One step on a batch; its terms before the step, and `loss`."""
        session = self._ready(None, None, {}, first=batch)
        found = session.step(batch)
        self.global_step = session.live.at.step
        self._sync()
        return found

    def validate_step(self, batch: Any) -> dict[str, float]:
        """The terms of a batch, and `loss`; nothing is changed."""
        session = self._ready(None, None, {}, first=batch)
        return session.evaluate(session.live.state, [batch])

    def evaluate(self, data: Any = None, batch_size: int | None = None) -> dict[str, float]:
        """The terms over the data (default: the validation data), and `loss`; every sample counts alike."""
        chosen = self._validation if data is None else data
        if chosen is None:
            raise UserError(
                "there is nothing to evaluate on: give evaluate(data) or Trainer(validation=…)", path="data"
            )
        session = self._ready(None, None, {}, first=chosen)
        return session.evaluate(session.live.state, chosen, batch_size)

    validate = evaluate

    def generate_samples(self, num_samples: int, rng: Any = None, *, seed: int | None = None, **arguments: Any) -> Any:
        """What the model's own `generate` (or `sample`) gives. Raises UserError where it has none."""
        return samples_of(self.model, num_samples, rng, seed, arguments, self.backend)

    # --- what there is ---

    @property
    def model(self) -> Any:
        """The trained model: a torch module itself, else a new object of the same form."""
        self._sync()
        return self._model

    @property
    def history(self) -> History:
        """One list per metric, one number per epoch."""
        return self._session.history if self._session is not None else History()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        return self._ready(None, None, {}).per_epoch

    @property
    def state(self) -> TrainingState:
        """Everything that training changes, at this moment."""
        session = self._ready(None, None, {})
        arrays, _ = session.made.backend.arrays(session.live.state)
        at = session.live.at.step
        return TrainingState(
            step=at,
            params=split(arrays, "params"),
            opt_state=split(arrays, "optimizer"),
            rng=np.array([self.config.seed, at]),
            best_loss=session.live.best,
            epoch=session.epoch,
            aux=split(arrays, "aux"),
            metrics=dict(session.live.latest),
        )

    training_state = state

    # --- checkpoints ---

    def save_checkpoint(
        self, path: str | Path | None = None, epoch: int | None = None, metrics: Mapping[str, float] | None = None
    ) -> Path:
        """Write all state into the folder `path` (default: the config's `checkpoint_dir`) and return its checkpoint.

        `metrics` are kept beside it; `epoch` is known and only checked. Raises StorageFailed.
        """
        place = checkpoints_at(path or self.config.checkpoint_dir)
        session = self._ready(None, None, {})
        if epoch is not None and not isinstance(epoch, int):
            raise UserError(f"save_checkpoint: epoch is a number, not {described(epoch)}")
        snapshot = session.pieces(self._adapters(self, session)).snapshot(session.live)
        meta = {**snapshot.meta, "epoch": session.epoch, "backend": self.backend}
        if metrics:
            meta["metrics"] = {**meta["metrics"], **{k: float(v) for k, v in metrics.items()}}
        return checkpoint.save(place, checkpoint.Snapshot(snapshot.step, snapshot.arrays, meta, snapshot.loop))

    def load_checkpoint(self, path: str | Path) -> dict[str, Any]:
        """Put all state back and go on from there; `step`, `epoch` and `metrics` of the checkpoint.

        `path`: a folder that `save_checkpoint` or `checkpoint_dir` wrote (its newest one is taken), or one of its
        checkpoints. Raises UserError, StorageFailed.
        """
        place = checkpoints_at(path)
        found = checkpoint.load(place) if (place / checkpoint.META).exists() else checkpoint.newest(place, self._warn)
        if found is None:
            raise UserError(f"there is no checkpoint in {place}", path="checkpoint")
        self._restore = found
        if self._session is not None or self._data is not None:
            self._ready(None, None, {})
        return {"step": found.step, "epoch": found.meta.get("epoch"), "metrics": dict(found.meta.get("metrics", {}))}

    # --- how it is put together ---

    def _ready(self, data: Any, validation: Any, changes: Mapping[str, Any], first: Any = None) -> Session:
        """The session, made from the first data there is; other data of the same form takes its place."""
        if changes:
            self._changed(changes)
        if validation is not None:
            self._validation = kept(validation)
        if data is not None and data is not self._data and self._session is not None:
            self._session.replace(*self._feed(data))
        if data is not None:
            self._data = data
        if self._session is None:
            source = self._data if self._data is not None else [first] if is_batch(first) else first
            if source is None:
                raise UserError("there is no data: give Trainer(data=…) or fit(data)", path="data")
            feed, form = self._feed(source)
            self._session = Session(
                self._model,
                self.loss,
                self.config,
                feed,
                form,
                backend=self.backend,
                optimizer=self.optimizer,
                warn=self._warn,
            )
        session = self._session
        session.validation = self._validation
        if self._restore is not None:
            snapshot, self._restore = self._restore, None
            session.live = session.pieces(self._adapters(self, session)).restored(snapshot)
            self.global_step, self.current_epoch = session.live.at.step, session.epoch
            self._synced = -1
        return session

    def _changed(self, changes: Mapping[str, Any]) -> None:
        """Fields of the config that `fit` was given; the batch size shapes what is compiled."""
        if self._session is not None and changes.get("batch_size", self.config.batch_size) != self.config.batch_size:
            raise UserError("the batch size can't change after the first step; make another Trainer", path="batch_size")
        self.config = self.config.model_copy(update=dict(changes))

    def _feed(self, data: Any) -> tuple[Any, Form]:
        config = self.config
        for callback in self.callbacks:
            if isinstance(callback, LearningRateScheduler) and isinstance(callback.schedule, str):
                self.config = config.model_copy(update={"scheduler": SchedulerConfig(scheduler_type=callback.schedule)})
        return feed_of(
            data,
            batch_size=config.batch_size,
            seed=config.seed,
            shuffle=config.shuffle,
            steps_per_epoch=config.steps_per_epoch,
        )

    def _run(self, session: Session, until: int, *, whole: bool = True) -> None:
        """The loop until a step, in a run folder where one is asked for."""
        callbacks = self._adapters(self, session)
        for callback in callbacks.values():
            if isinstance(callback, EpochHooks):
                callback.whole = whole
        try:
            if self.config.storage is None:
                session.run(until, callbacks, validate=whole, said=self._said)
            else:
                self.folder = self.folder or folders.made(session.experiment, str(self.config.storage))
                folders.train(self.folder, session, until, callbacks, validate=whole, said=self._said)
        finally:
            self.global_step, self.current_epoch = session.live.at.step, session.epoch
            self._synced = -1
            self._sync()

    def _said(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.current_epoch, self.global_step = epoch, epoch * (self._session.per_epoch if self._session else 0)
        self._synced = -1
        if self.config.verbose:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"epoch {epoch}/{self.config.num_epochs}: {numbers}", flush=True)

    def _sync(self) -> None:
        """The present numbers into the user's model."""
        session = self._session
        if session is not None and self._synced != session.live.at.step:
            self._model, self._synced = session.trained(), session.live.at.step

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            log.info("%s", message)
