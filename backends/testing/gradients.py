"""Checks of what becomes of a gradient: a user's function, clipping by value and norm, noise."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.errors import UserError
from backends.gradients import Noise
from backends.ops import NumpyOps
from backends.randomness import generator, normal
from backends.spec import Clip
from backends.stages import Sgd
from backends.testing.setup import all_close, build, close, differ, same_bits, snapshot, table
from backends.testing.tasks import Curves, LeastSquares

PLAIN = Sgd(steps=5, lr=0.1, precision="float64")


def normalized(ops: Any, gradients: dict[str, Any], params: dict[str, Any], step: Any) -> dict[str, Any]:
    """Each array's gradient at length 1 / (1 + step), plus a tenth of the parameter."""
    return {
        name: g / (ops.sqrt(ops.sum(g * g)) * (1.0 + ops.astype(step, like=g))) + 0.1 * params[name]
        for name, g in gradients.items()
    }


def nothing(ops: Any, gradients: dict[str, Any], params: dict[str, Any], step: Any) -> dict[str, Any]:
    """Forgets one of them."""
    return {name: g for name, g in gradients.items() if name != "slope"}


def broken(ops: Any, gradients: dict[str, Any], params: dict[str, Any], step: Any) -> dict[str, Any]:
    """Infinite."""
    return {name: g / (0.0 * g) for name, g in gradients.items()}


def check_gradients_are_processed_in_order(module: ModuleType, **settings: Any) -> None:
    """The user's function, the cut by value, the norm, the noise: sgd moves along what numpy makes of them."""
    task, clip, noise = LeastSquares(), Clip(value=0.4, norm=0.5), Noise(eta=0.04, gamma=0.7)
    backend = build(module, task, [PLAIN], **settings, clip=clip, noise=noise, process=normalized, seed=11)
    knobs = table(task, PLAIN, 3, clip=clip, noise=noise)
    state, _ = backend.step(backend.init(0), 3, knobs, task.feed(0), 7)
    params = task.init(generator(0, "init"))
    for step in (7, 8, 9):
        found = normalized(NumpyOps(), task.gradient(params), params, np.asarray(step))
        vector = np.clip(np.concatenate([np.ravel(found[name]) for name in sorted(found)]), -0.4, 0.4)
        vector *= min(1.0, 0.5 / np.linalg.norm(vector))
        like = np.zeros(0)
        drawn = normal(NumpyOps(), (11, step), "gradient noise", np.arange(len(vector)), 1, like)[0]
        vector = vector + np.sqrt(0.04 / (1 + step) ** 0.7) * drawn
        at = 0
        for name in sorted(params):
            size = np.size(params[name])
            params[name] = params[name] - 0.1 * vector[at : at + size].reshape(np.shape(params[name]))
            at += size
    all_close(backend.parameters(state), params, "three steps")


def check_noise_and_limits_are_knobs(module: ModuleType, **settings: Any) -> None:
    """Each changes the step, none compiles anything; noise repeats itself after a load."""
    task, clip, noise = Curves(), Clip(value=0.05, norm=0.1), Noise(eta=0.01)
    backend = build(module, task, [PLAIN], **settings, clip=clip, noise=noise)
    knobs = table(task, PLAIN, 4, clip=clip, noise=noise)
    whole = snapshot(backend, backend.step(backend.init(0), 4, knobs, task.feed(0), 0)[0])
    half, _ = backend.step(backend.init(0), 2, knobs[:2], task.feed(0), 0)
    half = backend.load(*backend.arrays(half))
    same_bits(snapshot(backend, backend.step(half, 2, knobs[2:], task.feed(0), 2)[0]), whole, "resumed")
    before = backend.compilations()
    for k in range(1, 6):
        changed = knobs.copy()
        changed[:, k] = changed[:, k] * 0.5 + 0.01
        got, _ = backend.step(backend.init(0), 4, changed, task.feed(0), 0)
        assert differ(snapshot(backend, got), whole), f"column {k} of the table changes nothing"
    assert backend.compilations() == before


def check_an_own_function_of_gradients_is_watched(module: ModuleType, **settings: Any) -> None:
    """A gradient that it leaves out is named; one that it makes infinite changes nothing."""
    task = LeastSquares()
    backend = build(module, task, [PLAIN], **settings, process=nothing)
    try:
        backend.step(backend.init(0), 1, table(task, PLAIN, 1), task.feed(0), 0)
    except UserError as error:
        assert "nothing returns no gradient for 'slope'" in str(error), str(error)
    else:
        raise AssertionError("a missing gradient is not noticed")
    backend = build(module, task, [PLAIN], **settings, process=broken)
    state, steps = backend.step(backend.init(0), 2, table(task, PLAIN, 2), task.feed(0), 0)
    assert steps.ok.tolist() == [False, False], steps.ok
    same_bits(snapshot(backend, state), snapshot(backend, backend.init(0)), "after steps that are not finite")
    close(steps.losses[0], steps.losses[1], "losses")
