"""Accumulation: k minibatches per step are one batch k times as large, in the memory of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends
from backends.data import BatchFeed
from backends.errors import UserError
from backends.protocol import World, drawn
from backends.stages import Adam, Lbfgs, Sgd
from backends.testing.setup import all_close, build, close, same_bits, snapshot, table
from backends.testing.tasks import Curves, LeastSquares, Noisy

COMPILE = {"backends.jax": "auto", "backends.torch": "never"}
STAGE = Adam(steps=20, lr=1e-2, precision="float64")


@pytest.fixture(params=["jax", "torch"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    pytest.importorskip(request.param)
    return backends.load(request.param)


@dataclass(frozen=True)
class Rows(LeastSquares):
    """Least squares on minibatches."""

    size: int = 4

    def feed(self, seed: int) -> Any:
        return BatchFeed(self.batches()["data"], self.size, seed, "data")


@dataclass(frozen=True)
class Means(Rows):
    """The same with a term that takes its mean itself, as a user's loss does."""

    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Any) -> dict[str, Any]:
        r = super().per_sample(ops, params, batch, columns, context)["fit"]
        return {"fit": ops.sqrt(ops.mean(r * r))}

    def reduced(self, batch: str) -> bool:
        return True

    def chunk(self, batch: str) -> None:
        return None


def ran(module: ModuleType, task: Any, accumulate: int, stage: Any = STAGE, steps: int = 6) -> tuple[Any, Any]:
    backend = build(module, task, [stage], compile=COMPILE[module.__name__], accumulate=accumulate)
    state, found = backend.step(backend.init(0), steps, table(task, stage, steps), task.feed(0), 0)
    return snapshot(backend, state), np.array(found.losses)


@pytest.mark.parametrize("stage", [STAGE, Sgd(steps=20, lr=0.1, precision="float64")], ids=lambda s: s.kind)
def test_the_numbers_are_those_of_a_larger_batch(module: ModuleType, stage: Any):
    """To 1e-12, over epochs' ends too: 24 rows, minibatches of 4, 5 of them per step."""
    small, large = Rows(samples=24), Rows(samples=24, size=20)
    state, losses = ran(module, small, 5, stage)
    expected, wanted = ran(module, large, 1, stage)
    close(losses, wanted, "losses")
    all_close(state, expected, "state")


def test_noise_and_indices_are_those_of_a_larger_batch(module: ModuleType):
    """Noise follows (seed, step, row): it is that of the optimizer's step, whichever pass the row comes in."""
    task = Noisy(rows=3)
    feed = task.feed(0)
    index = np.concatenate([feed.take(s, 1).stacked["rows"]["index"][0] for s in range(12)]).reshape(6, 6)
    large = replace(task, rows=6)
    state, losses = ran(module, task, 2)
    backend = build(module, large, [STAGE], compile=COMPILE[module.__name__])

    class Given:
        def take(self, step: int, n: int) -> Any:
            draw = feed.take(0, 1)
            return replace(draw, stacked={"rows": {"index": index[step : step + n]}})

    given: Any = Given()
    one, found = backend.step(backend.init(0), 6, table(large, STAGE, 6), given, 0)
    close(losses, found.losses, "losses")
    all_close(state, snapshot(backend, one), "state")


def test_a_loss_that_reduces_itself_becomes_the_mean_over_minibatches(module: ModuleType):
    task = Means(samples=24)
    _, losses = ran(module, task, 3, steps=1)
    backend = build(module, task, [STAGE], compile=COMPILE[module.__name__])
    each = []
    for k in range(3):
        found = backend.step(backend.init(0), 1, table(task, STAGE, 1), task.feed(0), k)[1]
        each.append(found.losses[0, 0])
    close(losses[0, 0], np.mean(each), "mean of three losses")


def test_each_pass_has_the_rows_of_one_minibatch():
    """The memory of one: a pass sees 4 rows, not 20."""
    torch = pytest.importorskip("torch")
    seen: list[int] = []

    class Watched(Rows):
        def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Any) -> dict[str, Any]:
            seen.append(int(columns["y"].shape[0]))
            return super().per_sample(ops, params, batch, columns, context)

    assert torch
    ran(backends.load("torch"), Watched(samples=24, label="watched"), 5, steps=1)
    assert set(seen) == {4}


def test_it_resumes_with_its_bits(module: ModuleType):
    task = Rows(samples=24)
    backend = build(module, task, [STAGE], compile=COMPILE[module.__name__], accumulate=3)
    whole, _ = ran(module, task, 3, steps=9)
    state, _ = backend.step(backend.init(0), 4, table(task, STAGE, 4), task.feed(0), 0)
    state, _ = backend.step(backend.load(*backend.arrays(state)), 5, table(task, STAGE, 5), task.feed(0), 4)
    same_bits(snapshot(backend, state), whole, "9 steps")


def test_both_backends_agree():
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    found = [ran(backends.load(name), Noisy(), 2) for name in ("jax", "torch")]
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9)


def test_samples_that_stay_are_not_accumulated(module: ModuleType):
    with pytest.raises(UserError, match="every step reads the same samples"):
        ran(module, Curves(), 2)


def test_a_draw_joins_the_rows_of_its_minibatches():
    feed: Any = Rows(samples=24).feed(3)
    joined = drawn(feed, 2, 3, 4).stacked["data"]["index"]
    apart = np.concatenate([feed.take(s, 1).stacked["data"]["index"][0] for s in range(8, 20)])
    assert joined.shape == (3, 16) and np.array_equal(joined.reshape(-1), apart)
    assert World().size == 1


def test_line_searches_see_the_larger_batch_too(module: ModuleType):
    stage = Lbfgs(steps=10, memory=3)
    losses = [ran(module, task, k, stage, 3)[1] for task, k in ((Rows(samples=24), 5), (Rows(samples=24, size=20), 1))]
    close(losses[0], losses[1], "losses", 1e-9)


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_the_noise_of_a_line_search_follows_the_samples(name: str):
    """Full batch: the same noise in every iteration, so that gradients of different points can be compared; minibatches
    change it."""
    pytest.importorskip(name)
    module = backends.load(name)
    task = Noisy(rows=12)
    data = task.batches()["rows"]
    stage, losses = Lbfgs(steps=40, memory=5), []
    for start in (0, 17):
        backend = build(module, task, [stage], compile=COMPILE[module.__name__])
        feed: Any = BatchFeed(data, None, 0, "rows")
        _, steps = backend.step(backend.init(0), 10, table(task, stage, 10), feed, start)
        losses.append(steps.losses @ [1.0, 1.0])
    assert np.array_equal(losses[0], losses[1]), "the noise depends on the step"
    assert (np.diff(losses[0]) <= 0).all(), "the loss is not one function"
