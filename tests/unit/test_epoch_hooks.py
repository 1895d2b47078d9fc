"""Hooks of other systems in runs of experiment files: when they are called, with what, and what they may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.errors import OwnCodeFailed, UserError
from orchestrator import Ask, run
from orchestrator.resuming import resume

FILE: dict[str, Any] = {
    "name": "hooks",
    "backend": "torch",
    "compile": "never",
    "task": {"kind": "regression"},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "data": {"kind": "diabetes", "batch": 118},  # 354 training rows: 3 steps per epoch
    "stages": [{"kind": "adam", "epochs": 2}],
    "evaluate": {"every": "1 epoch"},
    "checkpoint": {"every": "1 epoch"},
    "tracking": {"enabled": False},
    "resources": {"workers": 0},
}


class Diary:
    """Writes down every call."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def on_train_begin(self, trainer: Any) -> None:
        self.said.append("begin")

    def on_epoch_start(self, trainer: Any, epoch: int) -> None:
        self.said.append(("epoch", epoch, trainer.global_step))

    def on_batch_end(self, trainer: Any, batch_idx: int, step: int, logs: dict[str, float]) -> None:
        assert logs["loss"] == logs["data"] > 0
        self.said.append((batch_idx, step, trainer.global_step, trainer.current_epoch))

    def on_validation_end(self, metrics: dict[str, float]) -> None:
        assert metrics["val_loss"] == metrics["validation/total"]
        self.said.append("validated")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        assert {"train_loss", "val_loss", "lr"} <= set(logs)
        self.said.append(("end", epoch))

    def on_training_end(self, trainer: Any) -> None:
        self.said.append("done")


def test_hooks_are_called_in_order_for_every_step_and_epoch(tmp_path: Path):
    diary = Diary()
    run({**FILE, "storage": str(tmp_path)}, callbacks=[diary])
    assert diary.said == [
        "begin",
        "validated",
        ("epoch", 0, 0),
        (0, 1, 1, 0),
        (1, 2, 2, 0),
        (2, 3, 3, 0),
        "validated",
        ("end", 0),
        ("epoch", 1, 3),
        (0, 4, 4, 1),
        (1, 5, 5, 1),
        (2, 6, 6, 1),
        "validated",
        ("end", 1),
        "done",
    ]


def test_a_resumed_run_goes_on_within_its_epoch(tmp_path: Path):
    class Stops:
        def __init__(self, at: int) -> None:
            self.at, self.means = at, []

        def on_batch_end(self, trainer: Any, step: int) -> None:
            trainer.should_stop = step == self.at

        def on_epoch_end(self, logs: dict[str, float]) -> None:
            self.means.append(logs["train_loss"])

    whole, first, second = Stops(99), Stops(4), Stops(99)
    file = {**FILE, "storage": str(tmp_path), "evaluate": {"every": 2}, "checkpoint": {"every": 2}}
    run(file, callbacks=[whole])
    stopped = run(file, callbacks=[first])
    assert (stopped.status, stopped.step, stopped.reason) == ("stopped", 4, "a callback set should_stop")
    resume(str(stopped.folder.path), callbacks=[second])
    assert [*first.means, *second.means] == whole.means


def test_a_hook_may_ask_and_its_own_methods_still_work(tmp_path: Path):
    class Both:
        every = 2

        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_step_end(self, trainer: Any, step: int, metrics: dict[str, float]) -> Ask | None:
            return Ask(stop="enough") if step == 4 else None

        def step(self, moment: Any) -> None:
            self.steps.append(moment.step)

    both = Both()
    result = run({**FILE, "storage": str(tmp_path)}, callbacks=[both])
    assert (result.step, result.reason) == (4, "enough")
    assert both.steps == [2, 3, 4]


def test_a_hook_that_raises_is_named(tmp_path: Path):
    class Breaks:
        def on_batch_end(self, trainer: Any) -> None:
            raise ValueError("no")

    with pytest.raises(OwnCodeFailed, match=r"test_epoch_hooks.py:\d+: Breaks.on_batch_end: raised ValueError: no"):
        run({**FILE, "storage": str(tmp_path)}, callbacks=[Breaks()])


def test_hooks_of_epochs_need_data(tmp_path: Path):
    file = {**FILE, "task": {"kind": "poisson"}, "data": None, "points": {"pde": 8, "bc": 2}, "storage": str(tmp_path)}
    file |= {"stages": [{"kind": "adam", "steps": 4}], "evaluate": {"every": 2}, "checkpoint": {"every": 2}}
    with pytest.raises(UserError, match="Diary.on_epoch_start would never be called: the task draws points"):
        run(file, callbacks=[Diary()])

    class Steps:
        def __init__(self) -> None:
            self.said: list[int] = []

        def on_batch_end(self, trainer: Any, step: int) -> None:
            self.said.append(step)

    steps = Steps()
    run(file, callbacks=[steps])
    assert steps.said == [1, 2, 3, 4]
