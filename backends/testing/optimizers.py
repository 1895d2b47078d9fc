"""Checks of every first-order optimizer: the same bits in any dispatch and after a load, knobs that act, one state."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.protocol import columns_of
from backends.stages import Adagrad, Lamb, Lion, Nadam, Radam, RmsProp, Sgd, Stage
from backends.testing.setup import STAGES, all_close, build, close, differ, same_bits, snapshot, table
from backends.testing.tasks import LeastSquares

OPTIMIZERS: tuple[Stage, ...] = (
    *STAGES[:3],
    Nadam(name="nadam", steps=60, lr=1e-2, weight_decay=1e-2, precision="float64"),
    Radam(name="radam", steps=60, lr=1e-2, precision="float64"),
    Lamb(name="lamb", steps=60, lr=1e-2, weight_decay=1e-2, precision="float64"),
    Lion(name="lion", steps=60, lr=1e-2, precision="float64"),
    RmsProp(name="rmsprop", steps=60, lr=1e-3, momentum=0.5, initial=0.1, precision="float64"),
    RmsProp(name="centered", steps=60, lr=1e-3, centered=True, eps=1e-3, precision="float64"),
    Adagrad(name="adagrad", steps=60, lr=1e-1, precision="float64"),
    Sgd(name="nesterov", steps=60, lr=1e-2, momentum=0.5, nesterov=True, precision="float64"),
)
"""One of each method."""


def check_every_optimizer_repeats_itself(module: ModuleType, **settings: Any) -> None:
    """Six steps are the bits of six single ones, and of three, a checkpoint and three; every knob acts; losses fall."""
    task = LeastSquares()
    for stage in OPTIMIZERS:
        backend, feed, knobs = build(module, task, [stage], **settings), task.feed(0), table(task, stage, 6)
        knobs[:, 0] *= np.linspace(1, 0.5, 6)
        state, reported = backend.step(backend.init(0), 6, knobs, feed, 0)
        whole = snapshot(backend, state)
        one = backend.init(0)
        for k in range(6):
            one, _ = backend.step(one, 1, knobs[k : k + 1], feed, k)
        same_bits(snapshot(backend, one), whole, f"{stage.name}: single steps")
        half, _ = backend.step(backend.init(0), 3, knobs[:3], feed, 0)
        arrays, meta = backend.arrays(half)
        other = backend.load({name: np.array(value) for name, value in arrays.items()}, dict(meta))
        other, _ = backend.step(other, 3, knobs[3:], feed, 3)
        same_bits(snapshot(backend, other), whole, f"{stage.name}: resumed")
        assert any(name.startswith(f"optimizer/{stage.kind}/") for name in whole), sorted(whole)
        assert reported.losses[-1, 0] < reported.losses[0, 0], f"{stage.name}: the loss does not fall"
        for k, name in enumerate(columns_of(stage, task, None)):
            changed = knobs.copy()
            # A sign notices its knob only where that turns it.
            changed[:, k] = changed[:, k] * 0.5 + (2.0 if (stage.kind, name) == ("lion", "b1") else 0.01)
            got, _ = backend.step(backend.init(0), 6, changed, feed, 0)
            assert differ(snapshot(backend, got), whole), f"{stage.name}: the knob {name} changes nothing"
        assert max(backend.compilations().values()) <= 1, f"{stage.name}: {backend.compilations()}"


def check_every_optimizer_agrees(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Parameters after 50 steps of least squares to 1e-12, in each other's arrays, from each other's checkpoints."""
    task = LeastSquares()
    for stage in OPTIMIZERS:
        first, second = (build(module, task, [stage], **settings) for module in (one, other))
        here, there = first.init(0), second.init(0)
        for k in range(0, 50, 10):
            knobs = table(task, stage, 10)
            here, ours = first.step(here, 10, knobs, task.feed(0), k)
            there, theirs = second.step(there, 10, knobs, task.feed(0), k)
            close(theirs.losses, ours.losses, f"{stage.name}: losses from step {k}", 1e-11)
        all_close(second.parameters(there), first.parameters(here), f"{stage.name}: parameters")
        arrays, meta = first.arrays(here)
        moved = second.load({name: np.array(value) for name, value in arrays.items()}, dict(meta))
        same_bits(snapshot(second, moved), snapshot(first, here), f"{stage.name}: crossed over")
        moved, _ = second.step(moved, 5, table(task, stage, 5), task.feed(0), 50)
        here, _ = first.step(here, 5, table(task, stage, 5), task.feed(0), 50)
        all_close(second.parameters(moved), first.parameters(here), f"{stage.name}: after crossing")
