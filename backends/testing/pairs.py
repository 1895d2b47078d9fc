"""Checks of two backends against each other: agreement, and states that cross over."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.stages import Adam
from backends.testing.groups import DUEL
from backends.testing.setup import STAGES, all_close, build, close, same_bits, table
from backends.testing.tasks import Curves, Duel, Noisy


def check_gradients_at_step_0_agree(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Losses and the flat gradient before the first step, float64, to 1e-12."""
    for task in (Curves(), Curves(pass_size=4), Noisy()):
        found = []
        for module in (one, other):
            backend = build(module, task, **settings)
            statistics = {"grad_norms", "grad_max", "grad_mean_abs", "grad_std", "gram", "ntk/5"}
            what = frozenset({"losses", "gradient"} | statistics)
            found.append(backend.probe(backend.init(0), what, task.feed(0), 0, table(task, STAGES[0], 1)[0]))
        for values in found:
            values["ntk/5"] = np.nan_to_num(values["ntk/5"])  # of a loss there is none
        all_close(found[0], found[1], "at step 0")


def check_100_steps_agree(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Losses of 100 first-order steps: to 1e-9 in float64, to 1e-4 in float32; 10 quasi-Newton iterations to 1e-9."""
    single = Adam(name="single", steps=100, lr=1e-2, precision="float32")
    for task, stages in (
        (Curves(), (*STAGES[:3], single)),
        (Curves(pass_size=4), STAGES[:1]),
        (Noisy(), (*STAGES[:1], single)),
    ):
        for stage in stages:
            losses = [_losses(module, task, stage, 10, **settings) for module in (one, other)]
            tolerance = 1e-4 if stage.precision == "float32" else 1e-9
            np.testing.assert_allclose(losses[0], losses[1], rtol=tolerance, err_msg=stage.name)
    for stage in STAGES[3:]:
        losses = [_losses(module, Curves(), stage, 1, **settings) for module in (one, other)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9, err_msg=stage.name)


def _losses(module: ModuleType, task: Any, stage: Any, dispatches: int, **settings: Any) -> Any:
    backend, feed, rows = build(module, task, [stage], **settings), task.feed(0), []
    feed.every = 50
    state = backend.init(0)
    for k in range(dispatches):
        state, steps = backend.step(state, 10, table(task, stage, 10, shift=1 + 0.01 * k), feed, 10 * k)
        rows.append(np.array(steps.losses))
    return np.concatenate(rows)


def check_a_state_crosses_over(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Arrays of one are loaded by the other with their bits, and both go on alike, optimizer state and all."""
    for index, stage in enumerate(STAGES):
        task = Curves(counts=index == 0)
        first, second = (build(module, task, STAGES, **settings) for module in (one, other))
        state = first.init(0)
        for k in range(1, index + 1):
            state = first.enter(state, k)
        state, _ = first.step(state, 5, table(task, stage, 5), task.feed(0), 0)
        arrays, meta = first.arrays(state)
        arrays = {name: np.array(value) for name, value in arrays.items()}
        moved = second.load(arrays, dict(meta))
        same_bits({k: np.array(v) for k, v in second.arrays(moved)[0].items()}, arrays, f"{stage.name}: crossed over")
        state, here = first.step(state, 5, table(task, stage, 5), task.feed(0), 5)
        moved, there = second.step(moved, 5, table(task, stage, 5), task.feed(0), 5)
        close(there.losses, here.losses, f"{stage.name}: losses after crossing", 1e-11)
        all_close(second.parameters(moved), first.parameters(state), f"{stage.name}: parameters", 1e-9)


def check_groups_agree_and_cross_over(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Groups with all that they may have: 30 steps to 1e-9, a checkpoint after 15 of one goes on in the other."""
    task, stage = Duel(), Adam(steps=30, lr=1e-2, precision="float64")
    first, second = (build(module, task, [stage], **settings, groups=DUEL) for module in (one, other))
    state, moved, losses = first.init(0), second.init(0), []
    for k in range(3):
        knobs = table(task, stage, 10, groups=DUEL, step=10 * k)
        state, here = first.step(state, 10, knobs, task.feed(0), 10 * k)
        moved, there = second.step(moved, 10, knobs, task.feed(0), 10 * k)
        losses.append((np.array(here.losses), np.array(there.losses)))
        arrays, meta = first.arrays(state)
        arrays = {name: np.array(value) for name, value in arrays.items()}
        crossed = second.load(arrays, dict(meta))
        same_bits({k: np.array(v) for k, v in second.arrays(crossed)[0].items()}, arrays, "crossed over")
        moved = crossed
    for here, there in losses:
        np.testing.assert_allclose(there, here, rtol=1e-9)
