"""Muon is `optax.contrib.muon` on both backends: the same steps, resumed and crossed over."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends
from backends.errors import MissingBackend
from backends.groups import Group
from backends.protocol import columns_of
from backends.randomness import generator
from backends.stages import Muon
from backends.testing.setup import all_close, build, close, differ, same_bits, snapshot, table
from backends.testing.tasks import Curves

STAGE = Muon(name="muon", steps=60, lr=1e-2, weight_decay=1e-2, precision="float64")
BACKENDS = pytest.mark.parametrize("name", backends.NAMES)


def module(name: str) -> ModuleType:
    try:
        return backends.load(name)
    except MissingBackend as missing:
        pytest.skip(str(missing))


def mode(name: str) -> dict[str, Any]:
    return {"compile": "never"} if name == "torch" else {}


@BACKENDS
def test_it_is_optax(name: str) -> None:
    contrib = pytest.importorskip("optax.contrib")
    task, backend = Curves(), build(module(name), Curves(), [STAGE], **mode(name))
    state, feed = backend.init(0), task.feed(0)
    layout = backend.layout(state)
    params = {k: np.asarray(v) for k, v in task.init(generator(0, "init")).items() if k in dict(layout)}
    theirs = contrib.muon(1e-2, weight_decay=1e-2, adam_weight_decay=1e-2)
    memory = theirs.init(params)
    for k in range(12):
        row = table(task, STAGE, 1)
        flat = backend.probe(state, frozenset({"gradient"}), feed, k, row[0])["gradient"]
        pieces = np.split(flat, np.cumsum([int(np.prod(shape)) for _, shape in layout])[:-1])
        gradient = {n: piece.reshape(shape) for (n, shape), piece in zip(layout, pieces, strict=True)}
        updates, memory = theirs.update(gradient, memory, params)
        params = {n: params[n] + np.asarray(updates[n]) for n in params}
        state, _ = backend.step(state, 1, row, feed, k)
    found = backend.parameters(state)
    all_close({n: found[n] for n in params}, params, name, 1e-10)


def test_both_backends_agree_and_their_checkpoints_cross() -> None:
    task = Curves()
    first, second = (build(module(n), task, [STAGE], **mode(n)) for n in ("jax", "torch"))
    here, there = first.init(0), second.init(0)
    for k in range(0, 50, 10):
        here, ours = first.step(here, 10, table(task, STAGE, 10), task.feed(0), k)
        there, theirs = second.step(there, 10, table(task, STAGE, 10), task.feed(0), k)
        close(theirs.losses, ours.losses, f"losses from step {k}", 1e-9)
    arrays, meta = first.arrays(here)
    moved = second.load({name: np.array(value) for name, value in arrays.items()}, dict(meta))
    same_bits(snapshot(second, moved), snapshot(first, here), "crossed over")
    moved, _ = second.step(moved, 5, table(task, STAGE, 5), task.feed(0), 50)
    here, _ = first.step(here, 5, table(task, STAGE, 5), task.feed(0), 50)
    all_close(second.parameters(moved), first.parameters(here), "after crossing", 1e-9)


@BACKENDS
def test_every_knob_acts_without_a_compilation_and_groups_may_have_their_rate(name: str) -> None:
    task = Curves()
    backend, rows = build(module(name), task, [STAGE], **mode(name)), table(task, STAGE, 4)
    expected = backend.parameters(backend.step(backend.init(0), 4, rows, task.feed(0), 0)[0])
    for k, knob in enumerate(columns_of(STAGE, task, None)):
        changed = rows.copy()
        changed[:, k] = changed[:, k] * 0.5 + 0.01
        got = backend.parameters(backend.step(backend.init(0), 4, changed, task.feed(0), 0)[0])
        assert differ(got, expected), f"{knob} changes nothing"
    assert max(backend.compilations().values()) <= 1
    groups = {"last": Group(params=("net/*1",), rate=0.5)}
    backend = build(module(name), task, [STAGE], groups=groups, **mode(name))
    state, _ = backend.step(backend.init(0), 4, table(task, STAGE, 4, groups=groups), task.feed(0), 0)
    assert differ(backend.parameters(state), expected)
