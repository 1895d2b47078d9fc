"""Callbacks with the hook names of other systems, as callbacks of the loop (`orchestrator.hooks`).

A callback may have any of HOOKS under any of its names; each is called with the arguments that its signature asks
for, by their names: `on_batch_end(trainer, batch, logs)`, `on_batch_end(trainer, model, outputs, batch, batch_idx)`,
`on_epoch_end(epoch, logs)`, … Steps are done in blocks: the hooks of each step run when its block is done, in order,
with that step's numbers; `trainer.global_step` and `current_epoch` are right within each. A hook may return an `Ask`,
and `trainer.should_stop = True` stops the run after the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.errors import UserError
from orchestrator.hooks import METHODS, Ask, Moment, Outcome, call

HOOKS: dict[str, tuple[str, ...]] = {
    "train_start": ("on_train_start", "on_train_begin", "on_training_start", "on_fit_start"),
    "train_end": ("on_train_end", "on_training_end", "on_fit_end"),
    "epoch_start": ("on_epoch_start", "on_epoch_begin", "on_train_epoch_start"),
    "epoch_end": ("on_epoch_end", "on_train_epoch_end"),
    "batch_start": ("on_batch_start", "on_batch_begin", "on_train_batch_start", "on_step_start"),
    "batch_end": ("on_batch_end", "on_train_batch_end", "on_step_end"),
    "validation_start": ("on_validation_start", "on_validation_begin", "on_validation_epoch_start"),
    "validation_end": ("on_validation_end", "on_validation_epoch_end"),
}
"""What happens -> the names that a callback may have for it."""
WORDS: dict[str, tuple[str, ...]] = {
    "trainer": ("trainer", "run"),
    "model": ("model", "pl_module", "module", "net"),
    "logs": ("logs", "metrics", "outputs", "results"),
    "loss": ("loss",),
    "batch": ("batch", "data"),
    "batch_idx": ("batch_idx", "batch_index", "index", "i"),
    "epoch": ("epoch",),
    "step": ("step", "global_step"),
    "state": ("state",),
}
"""What a hook may ask for -> the names of such an argument."""
_BLOCKS = ("epoch_start", "epoch_end", "batch_start", "batch_end")


@dataclass
class View:
    """`trainer` of a callback in a run of an experiment file."""

    global_step: int = 0
    current_epoch: int = 0
    should_stop: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each."""
    model: Any = None
    state: Any = None


def has_hooks(callback: Any) -> bool:
    """Whether it has any of HOOKS."""
    return any(callable(getattr(callback, name, None)) for names in HOOKS.values() for name in names)


def epoch_of(feed: Any, accumulate: int = 1) -> float | None:
    """Optimizer steps of one pass over a feed's data; None where it draws points."""
    length = getattr(feed, "steps_per_epoch", None)
    return None if length is None else length / accumulate


def hooked(callbacks: Mapping[str, Any], steps_per_epoch: float | None) -> dict[str, Any]:
    """The callbacks of a run, those with hooks adapted. Raises UserError where one needs epochs and there are none."""
    made: dict[str, Any] = {}
    for name, callback in callbacks.items():
        made[name] = EpochHooks(callback, steps_per_epoch=steps_per_epoch) if has_hooks(callback) else callback
        if steps_per_epoch is None:
            refuse_epochs(callback)
    return made


def needs_epochs(callback: Any) -> list[str]:
    """The hooks of a callback (or its class) that wait for the start or end of an epoch."""
    return [n for what in ("epoch_start", "epoch_end") for n in HOOKS[what] if callable(getattr(callback, n, None))]


def refuse_epochs(callback: Any, path: str = "callbacks") -> None:
    """Raises UserError where a callback (or its class) has a hook of epochs: the task draws points."""
    found = needs_epochs(callback)
    if found:
        kind = callback if isinstance(callback, type) else type(callback)
        raise UserError(
            f"{kind.__name__}.{found[0]} would never be called: the task draws points and has no data, of which an "
            "epoch would be one pass; take on_batch_end, on_validation_end or step(moment)",
            path=path,
        )


def also_short(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a run, with `val_loss` for `validation/total`."""
    short = {"val_loss": metrics["validation/total"]} if "validation/total" in metrics else {}
    return {**metrics, **short}


class EpochHooks:
    """One callback, adapted. Its own `start`, `step`, `end`, `state`, `load` and attributes stay what they are."""

    def __init__(
        self,
        callback: Any,
        *,
        steps_per_epoch: float | None = None,
        view: Any = None,
        batch_of: Callable[[int], Any] | None = None,
        words: Callable[[Mapping[str, float]], Mapping[str, float]] = also_short,
    ) -> None:
        """`view` is what hooks get as `trainer`; `batch_of(step)` a batch that a step read; `words` translates the
        names of metrics. Raises UserError where a hook asks for something that a step does not have."""
        self.callback, self.view, self.batch_of, self.words = callback, view or View(), batch_of, words
        self.steps_per_epoch, self.whole = steps_per_epoch, True
        """`whole`: the training is not one of several calls, of which neither is the start or the end."""
        self._hooks = {what: found for what in HOOKS if (found := _hook(callback, what)) is not None}
        self._sums = np.zeros(0)
        self._steps = 0
        self._done = 0
        self._open = False

    def __getattr__(self, name: str) -> Any:
        if name in ("every", "marks", "needs", "attach"):
            return getattr(self.callback, name)
        raise AttributeError(name)

    def start(self, moment: Moment) -> Ask | None:
        """Before the first step."""
        self._done = moment.step
        self.view.global_step, self.view.current_epoch = moment.step, self._epoch(moment.step)
        found = [call(self.callback, "start", moment)]
        found += [self._call("train_start", {}, moment.step)] if self.whole else []
        found += self._validated(moment)
        return _merged(found, self.view)

    def step(self, moment: Moment) -> Ask | None:
        """After a block of steps: the hooks of each, in order."""
        found = []
        first = moment.step - len(moment.losses)
        for k, losses in enumerate(moment.losses if set(self._hooks) & set(_BLOCKS) else ()):
            found += self._one(first + k, losses, moment, last=k == len(moment.losses) - 1)
        self._done = self.view.global_step = moment.step
        if not self._hooks.keys() & set(_BLOCKS):
            found += self._validated(moment)
        found.append(call(self.callback, "step", moment))
        return _merged(found, self.view)

    def end(self, moment: Moment, outcome: Outcome) -> Any:
        """After the last step."""
        if self.whole:
            self._call("train_end", self.words(dict(outcome.metrics)), moment.step)
        return call(self.callback, "end", moment, outcome)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps."""
        kept = call(self.callback, "state")
        return {"own": kept, "sums": self._sums.tolist(), "steps": self._steps, "open": self._open}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self._sums, self._steps = np.array(state["sums"], float), int(state["steps"])
        self._open = bool(state["open"])
        if state["own"] is not None:
            call(self.callback, "load", state["own"])

    # --- the rest ---

    def _one(self, step: int, losses: Any, moment: Moment, *, last: bool) -> list[Any]:
        """The hooks of one step; `step` are done before it."""
        epoch, found = self._epoch(step), []
        if not self._open:
            self._open, self._sums, self._steps = True, np.zeros(len(losses)), 0
            found.append(self._call("epoch_start", {}, step, epoch=epoch))
        found.append(self._call("batch_start", {}, step, epoch=epoch, row=step))
        self._sums, self._steps = self._sums + losses, self._steps + 1
        self.view.global_step = step + 1
        found.append(self._call("batch_end", _logs(moment, losses), step + 1, epoch=epoch, row=step))
        if last:
            found += self._validated(moment)
        if self.steps_per_epoch and self._epoch(step + 1) > epoch:
            self._open = False
            logs = _logs(moment, self._sums / self._steps)
            logs |= {f"train_{name}": value for name, value in logs.items() if name != "lr"}
            logs |= self.words(moment.metrics) if last else {}
            found.append(self._call("epoch_end", logs, step + 1, epoch=epoch))
            self.view.current_epoch = epoch + 1
        return found

    def _validated(self, moment: Moment) -> list[Any]:
        if not any(name.startswith("validation/") for name in moment.metrics):
            return []
        logs, epoch = dict(self.words(moment.metrics)), self._epoch(max(moment.step - 1, 0))
        self._call("validation_start", {}, moment.step, epoch=epoch)
        return [self._call("validation_end", logs, moment.step, epoch=epoch)]

    def _epoch(self, step: int) -> int:
        """Epochs that are over after `step` steps."""
        return int(step / self.steps_per_epoch + 1e-9) if self.steps_per_epoch else 0

    def _call(
        self, what: str, logs: Mapping[str, float], step: int, *, epoch: int | None = None, row: int | None = None
    ) -> Any:
        hook = self._hooks.get(what)
        if hook is None:
            return None
        view, logs = self.view, dict(logs)
        if isinstance(view, View):
            view.metrics.update(logs)
        epoch = self._epoch(step) if epoch is None else epoch
        view.current_epoch = epoch
        values: dict[str, Callable[[], Any]] = {
            "trainer": lambda: view,
            "model": lambda: view.model,
            "logs": lambda: logs,
            "loss": lambda: logs.get("loss"),
            "batch": lambda: self.batch_of(row) if self.batch_of is not None and row is not None else None,
            "batch_idx": lambda: (row or 0) - self._begun(epoch),
            "epoch": lambda: epoch,
            "step": lambda: step,
            "state": lambda: view.state,
        }
        return call(self.callback, hook.name, *(values[w]() for w in hook.words))

    def _begun(self, epoch: int) -> int:
        """The first step of an epoch."""
        return int(np.ceil(epoch * self.steps_per_epoch - 1e-9)) if self.steps_per_epoch else 0


@dataclass(frozen=True)
class _Hook:
    """A method of a callback and what it asks for."""

    name: str
    words: tuple[str, ...]


def _hook(callback: Any, what: str) -> _Hook | None:
    name = next((n for n in HOOKS[what] if callable(getattr(callback, n, None))), None)
    if name is None:
        return None
    known = {alias: word for word, names in WORDS.items() for alias in names}
    words = []
    for p in inspect.signature(getattr(callback, name)).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY):
            continue
        if p.name in known:
            words.append(known[p.name])
        elif p.default is p.empty:
            raise UserError(
                f"{type(callback).__name__}.{name} asks for {p.name!r}; a hook may ask for "
                + ", ".join(names[0] for names in WORDS.values()),
                path="callbacks",
            )
        else:
            break
    return _Hook(name, tuple(words))


def _logs(moment: Moment, losses: Any) -> dict[str, float]:
    """Terms of one step and their weighted sum, with the rate."""
    named = dict(zip(moment.terms, np.asarray(losses, float).tolist(), strict=True))
    total = sum(moment.knobs.get(f"weight/{name}", 1.0) * value for name, value in named.items())
    rate = {"lr": moment.knobs["lr"]} if "lr" in moment.knobs else {}
    return {**named, "loss": float(total), **rate}


def _merged(answers: list[Any], view: Any) -> Ask | None:
    """All asks in one; `should_stop` is one, too."""
    asks = [a for a in answers if isinstance(a, Ask)]
    stop = next((a.stop for a in asks if a.stop), None)
    if stop is None and getattr(view, "should_stop", False):
        stop = "a callback set should_stop"
    if not asks and stop is None:
        return None
    return Ask(
        knobs={k: v for a in asks for k, v in a.knobs.items()},
        metrics={k: v for a in asks for k, v in a.metrics.items()},
        save=any(a.save for a in asks),
        stop=stop,
        artifacts=[p for a in asks for p in a.artifacts],
    )


__all__ = ["HOOKS", "METHODS", "EpochHooks", "View", "has_hooks"]
