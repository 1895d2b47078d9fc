"""Checks of what steps read: passes over a batch, rows by index, new samples, aux, and the caller's own arrays."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.protocol import Steps
from backends.stages import Sgd
from backends.task import trained_terms
from backends.testing.setup import ADAM, STAGES, all_close, build, close, oracle, same_bits, snapshot, table
from backends.testing.tasks import Curves, Noisy, plain


def check_chunks_and_the_whole_batch_agree(module: ModuleType, **settings: Any) -> None:
    """Passes over parts of a batch add up to the whole, to rounding (1e-10 after 4 steps)."""
    for stage in (STAGES[0], STAGES[4]):
        expected: dict[str, Any] = {}
        for size in (None, 4, 1):
            task = Curves(pass_size=size)
            backend = build(module, task, [stage], **settings)
            state, _ = backend.step(backend.init(0), 4, table(task, stage, 4), task.feed(0), 0)
            expected = expected or backend.parameters(state)
            all_close(backend.parameters(state), expected, f"{stage.name} in passes of {size}", rtol=1e-10)


def check_rows_picked_by_index(module: ModuleType, **settings: Any) -> None:
    """Each step sees the rows that the feed names, with the noise of (seed, step, row)."""
    task, stage = Noisy(), Sgd(steps=10, lr=0.05, precision="float64")
    backend, feed = build(module, task, [stage], **settings, seed=4), task.feed(9)
    state, steps = backend.step(backend.init(0), 5, table(task, stage, 5), feed, 20)
    data, params = task.batches()["rows"], backend.parameters(backend.init(0))
    for k in range(5):
        rows = feed.take(20 + k, 1).stacked["rows"]["index"][0]
        batch = {"rows": {name: value[rows] for name, value in data.items()}}
        one, got = backend.step(_at(backend, params), 1, table(task, stage, 1), feed, 20 + k)
        close(steps.losses[k], got.losses[0], f"step {k}")
        expected = oracle(task, params, batch, key=(4, 20 + k), training=True)
        close(steps.losses[k], [expected["match"], expected["size"]], f"step {k} against numpy", rtol=1e-9)
        params = backend.parameters(one)
    all_close(backend.parameters(state), params, "parameters")


def _at(backend: Any, params: dict[str, Any]) -> Any:
    arrays, meta = backend.arrays(backend.init(0))
    return backend.load({**arrays, **{f"params/{k}": v for k, v in params.items()}}, meta)


def check_new_values_of_aux_are_stored(module: ModuleType, **settings: Any) -> None:
    """What a task writes into `context.updates` is there in the next step; chunks hand it on in order."""
    for size, passes in ((None, 1), (4, 3)):
        task = Curves(counts=True, pass_size=size)
        backend = build(module, task, ADAM, **settings)
        state, _ = backend.step(backend.init(0), 3, table(task, ADAM[0], 3), task.feed(0), 0)
        arrays, _ = backend.arrays(state)
        assert arrays["aux/calls"] == 3 * passes and arrays["aux/calls"].dtype == np.int64
        assert np.all(np.isfinite(arrays["aux/mean"])) and np.any(arrays["aux/mean"] != 0)
        before = snapshot(backend, state)
        backend.evaluate(state, task.held_out(10))
        same_bits(snapshot(backend, state), before, "evaluate changes aux")


def check_nobody_writes_into_the_callers_arrays(module: ModuleType, **settings: Any) -> None:
    """Arrays given to a backend, and arrays it gave out, keep their values while training goes on."""
    task, stage = Curves(), ADAM[0]
    batches = {batch: plain(columns) for batch, columns in task.batches().items()}
    kept = {f"{b}/{n}": v.copy() for b, columns in batches.items() for n, v in columns.items()}
    backend, feed = build(module, task, ADAM, **settings), task.feed(0)
    feed.make = lambda version: batches
    knobs = table(task, stage, 5)
    state, steps = backend.step(backend.init(0), 5, knobs, feed, 0)
    arrays, meta = backend.arrays(state)
    copies, losses, params = {k: v.copy() for k, v in arrays.items()}, steps.losses.copy(), backend.parameters(state)
    params_copy = {k: v.copy() for k, v in params.items()}
    loaded = backend.load(arrays, meta)
    loaded, _ = backend.step(loaded, 5, knobs, feed, 5)
    state, _ = backend.step(state, 5, knobs, feed, 5)
    same_bits(arrays, copies, "arrays given out")
    same_bits(params, params_copy, "parameters given out")
    same_bits({"losses": steps.losses}, {"losses": losses}, "losses given out")
    same_bits({f"{b}/{n}": v for b, columns in batches.items() for n, v in columns.items()}, kept, "samples")
    same_bits(snapshot(backend, state), snapshot(backend, loaded), "the loaded and the first state")
    again = backend.load(arrays, meta)
    same_bits(snapshot(backend, again), copies, "a second load of the same arrays")


def check_new_samples_are_seen(module: ModuleType, **settings: Any) -> None:
    """A new version of the samples replaces what the device holds; the same version is fetched once."""
    task, stage = Curves(), Sgd(steps=10, lr=1e-3, precision="float64")
    backend, feed = build(module, task, [stage], **settings), task.feed(0)
    calls: list[int] = []
    feed.make = lambda version: (calls.append(version), task.batches(version))[1]
    feed.every = 2
    state = backend.init(0)
    for step in range(0, 6):
        expected = oracle(task, backend.parameters(state), task.batches(step // 2))
        state, steps = backend.step(state, 1, table(task, stage, 1), feed, step)
        close(steps.losses[0], [expected[t.name] for t in trained_terms(task.terms)], f"step {step}", rtol=1e-10)
        assert isinstance(steps, Steps)
    assert calls == [0, 1, 2], f"samples were fetched {calls}"


def check_equal_arrays_stay_apart(module: ModuleType, **settings: Any) -> None:
    """One host array in several places (two moments, two columns) is several arrays on the device."""
    task, stage = Curves(), ADAM[0]
    backend = build(module, task, ADAM, **settings)
    arrays, meta = backend.arrays(backend.init(0))
    batches, t = task.batches(), np.linspace(-1, 1, 4)
    apart = {"inside": {**batches["inside"], "t": np.tile(t, 3)}, "ends": {"t": t.copy(), "goal": t.copy()}}
    shared = {"inside": apart["inside"], "ends": {"t": t, "goal": t}}
    zeros = {name: np.zeros_like(value) for name, value in arrays.items() if name.startswith("optimizer/adam/mu/")}
    twice = {**arrays, **{name: zero for mu, zero in zeros.items() for name in (mu, mu.replace("/mu/", "/nu/"))}}
    found = []
    for given, samples in ((arrays, apart), (twice, shared)):
        feed = task.feed(0)
        feed.make = lambda version, samples=samples: samples
        state, _ = backend.step(backend.load(given, meta), 3, table(task, stage, 3), feed, 0)
        found.append(snapshot(backend, state))
    same_bits(found[0], found[1], "arrays given once and twice")
