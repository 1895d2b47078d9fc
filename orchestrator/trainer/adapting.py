"""A Trainer's callbacks, by the names that checkpoints know them by, as callbacks of the loop."""

from __future__ import annotations

from typing import Any

from orchestrator.callbacks.custom import own_objects
from orchestrator.epoch_hooks import EpochHooks, has_hooks
from orchestrator.trainer.callbacks import EarlyStopping, LearningRateScheduler, ModelCheckpoint
from orchestrator.trainer.epochs import words
from orchestrator.trainer.session import Session


class Adapters:
    """Keeps what was adapted, for a callback remembers from one call of `fit` to the next."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}
        self._stops: EarlyStopping | None = None

    def __call__(self, trainer: Any, session: Session) -> dict[str, Any]:
        """Every callback of a trainer, that of `early_stopping=True` included. Raises UserError."""
        config, given = trainer.config, list(trainer.callbacks)
        if config.early_stopping:
            monitor = config.monitor if session.validation is not None else "train_loss"
            self._stops = self._stops or EarlyStopping(monitor, config.patience, min_delta=config.min_delta)
            given.append(self._stops)
        adapted = [self._adapted(callback, trainer, session) for callback in given]
        named = own_objects(adapted)
        return {f"{type(getattr(c, 'callback', c)).__name__}#{i}": c for i, c in enumerate(named.values())}

    def _adapted(self, callback: Any, trainer: Any, session: Session) -> Any:
        if isinstance(callback, ModelCheckpoint):
            callback.trainer = trainer
        if isinstance(callback, LearningRateScheduler):
            callback.base, callback.every = float(getattr(session.stage, "lr", 1.0)), session.per_epoch
        if isinstance(callback, type) or not has_hooks(callback):
            return callback
        accumulated = session.config.gradient_accumulation

        def batch_of(step: int) -> Any:
            return session.form.batch(session.feed.batch_of(step * accumulated))

        if id(callback) not in self._known:
            self._known[id(callback)] = EpochHooks(
                callback,
                steps_per_epoch=session.per_epoch,
                view=trainer,
                batch_of=batch_of,
                words=lambda metrics: {words(name): value for name, value in metrics.items()},
            )
        return self._known[id(callback)]
