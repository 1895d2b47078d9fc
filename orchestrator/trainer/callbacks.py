"""Callbacks by the names that other systems have for them, as callbacks of the loop.

Metrics are called `val_loss`, `val_<term>`, `train_loss`; names of ours (`validation/total`) are understood, too.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from backends.errors import UserError, nearest
from orchestrator.hooks import Ask, Moment
from orchestrator.trainer.epochs import words
from orchestrator.trainer.translate import metric_of

Mode = Literal["min", "max"]


def _watched(monitor: str, moment: Moment) -> float:
    """The watched metric of an evaluation. Raises UserError where there is none of that name."""
    name = metric_of(monitor)
    if name in moment.metrics:
        return moment.metrics[name]
    known = [words(n) for n in moment.metrics]
    without = "; nothing is validated: give validation data" if monitor.startswith("val") and len(known) <= 1 else ""
    raise UserError(f"there is no metric {monitor!r}{without or nearest(monitor, known)}", path="callbacks")


class EarlyStopping:
    """Stop where a metric has not improved for `patience` validations, or has gone where there is no way back."""

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        mode: Mode = "min",
        min_delta: float = 0.0,
        *,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        """`stopping_threshold`: good enough; `divergence_threshold`: hopeless; `check_finite`: NaN stops."""
        if mode not in ("min", "max") or patience < 1:
            raise UserError(f"EarlyStopping: mode is min or max (got {mode!r}), patience at least 1 (got {patience})")
        self.monitor, self.patience, self.mode, self.min_delta = monitor, patience, mode, min_delta
        self.check_finite, self.good, self.hopeless = check_finite, stopping_threshold, divergence_threshold
        self.best, self.waited = math.inf, 0

    def step(self, moment: Moment) -> Ask | None:
        """Look at a validation, where there is one."""
        if not moment.metrics or not moment.step:
            return None
        given, sign = _watched(self.monitor, moment), 1 if self.mode == "min" else -1
        value = sign * given
        if self.check_finite and not math.isfinite(given):
            return Ask(stop=f"{self.monitor} is {given}")
        if self.good is not None and value < sign * self.good:
            return Ask(stop=f"{self.monitor} = {given:.6g} has passed {self.good:g}")
        if self.hopeless is not None and value > sign * self.hopeless:
            return Ask(stop=f"{self.monitor} = {given:.6g} is beyond {self.hopeless:g}")
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        return Ask(stop=f"{self.monitor} has not improved for {self.waited} validation{'s' if self.waited > 1 else ''}")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.waited = int(state["waited"])


class ModelCheckpoint:
    """Keep the `save_top_k` best checkpoints by a metric (-1: all), and the last one with `save_last`.

    Each is a folder `dirpath/filename` in our format; `filename` may hold `{epoch}`, `{step}` and metrics:
    `model-{epoch:02d}-{val_loss:.4f}`.
    """

    def __init__(
        self,
        dirpath: str | Path = "checkpoints",
        filename: str = "model-{epoch:02d}-{val_loss:.4f}",
        monitor: str = "val_loss",
        mode: Mode = "min",
        save_top_k: int = 1,
        save_last: bool = False,
        every_n_epochs: int = 1,
        save_weights_only: bool = False,
    ) -> None:
        if save_weights_only:
            raise UserError("ModelCheckpoint: a checkpoint always holds all state; the weights are a file of it")
        if mode not in ("min", "max"):
            raise UserError(f"ModelCheckpoint: mode is min or max (got {mode!r})")
        self.dirpath, self.filename, self.monitor, self.mode = Path(dirpath), filename, monitor, mode
        self.save_top_k, self.save_last, self.every_n_epochs = save_top_k, save_last, every_n_epochs
        self.kept: list[tuple[float, str]] = []
        """(value, path), the best first."""
        self.trainer: Any = None
        """Set by the Trainer."""

    @property
    def best_model_path(self) -> str:
        """The best checkpoint so far; empty where there is none."""
        return self.kept[0][1] if self.kept else ""

    @property
    def best_model_score(self) -> float | None:
        """Its metric."""
        return self.kept[0][0] * (1 if self.mode == "min" else -1) if self.kept else None

    def step(self, moment: Moment) -> None:
        """Look at a validation, where there is one."""
        epoch = self.trainer.current_epoch
        if not moment.metrics or not moment.step or epoch % self.every_n_epochs:
            return
        named = {words(name): value for name, value in moment.metrics.items()}
        given = _watched(self.monitor, moment)
        if self.save_last:
            self._write(self.dirpath / "last")
        value = given if self.mode == "min" else -given
        if not math.isfinite(value) or (0 <= self.save_top_k <= len(self.kept) and not self._among(value)):
            return
        path = self.dirpath / self._named({**named, "epoch": epoch, "step": moment.step})
        self._write(path)
        self.kept = sorted([*((v, p) for v, p in self.kept if p != str(path)), (value, str(path))])
        while 0 <= self.save_top_k < len(self.kept):
            shutil.rmtree(self.kept.pop()[1], ignore_errors=True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"kept": [list(k) for k in self.kept]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.kept = [(float(v), str(p)) for v, p in state["kept"]]

    def _among(self, value: float) -> bool:
        return bool(self.save_top_k) and value < self.kept[-1][0]

    def _write(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        self.trainer.save_checkpoint(path)

    def _named(self, values: Mapping[str, Any]) -> str:
        try:
            return self.filename.format(**values)
        except (KeyError, ValueError, IndexError) as error:
            allowed = ", ".join(re.sub(r"\W", "_", name) for name in values)
            raise UserError(f"ModelCheckpoint: {self.filename!r} can't be filled in; there are: {allowed}") from error


class LearningRateScheduler:
    """The rate as a function of the epoch, `schedule(epoch) -> rate` or `schedule(epoch, rate) -> rate`, or a schedule
    by its name, as `TrainingConfig(scheduler=…)`."""

    def __init__(self, schedule: str | Callable[..., float]) -> None:
        self.schedule = schedule
        self.base = 0.0
        """The rate of the config; set by the Trainer, as is `every`."""
        self.every: int | None = None

    def start(self, moment: Moment) -> Ask | None:
        """The rate of the first epoch."""
        return self.step(moment)

    def step(self, moment: Moment) -> Ask | None:
        """The rate of the next epoch, where one is over."""
        if isinstance(self.schedule, str) or self.every is None or moment.step % self.every:
            return None
        epoch, present = moment.step // self.every, moment.knobs.get("lr", self.base)
        asked = self.schedule.__code__.co_argcount if hasattr(self.schedule, "__code__") else 1
        rate = float(self.schedule(epoch, present) if asked > 1 else self.schedule(epoch))
        return Ask(knobs={"lr_scale": rate / self.base})
