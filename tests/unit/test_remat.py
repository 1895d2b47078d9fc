"""Activations that are computed again: less memory, the same numbers, on both backends."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends
from backends.data import Samples
from backends.networks.mlp import MLP
from backends.randomness import generator
from backends.stages import Adam, Lbfgs, Sgd
from backends.task import Task
from backends.tasks.regression import RegressionTask
from backends.testing.groups import DUEL
from backends.testing.setup import all_close, build, close, snapshot, table
from backends.testing.tasks import Curves, Duel, Noisy
from orchestrator.build import task_of
from orchestrator.config import Experiment

COMPILE = {"backends.jax": "auto", "backends.torch": "never"}
ROWS = 4000


class Whole(RegressionTask):
    """All rows in one pass."""

    def chunk(self, batch: str) -> Any:
        return None


def deep(activation: Any = "gelu", rows: int = ROWS) -> Task:
    rng = generator(0, "deep")
    x = rng.normal(size=rows)
    samples = Samples({"x": x, "y": np.sin(x)}, ("x",), ("y",), np.arange(rows), np.arange(0))
    return Whole(MLP(width=16, depth=10, activation=activation), samples, {}, {})


@pytest.fixture(params=["jax", "torch"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    pytest.importorskip(request.param)
    return backends.load(request.param)


CASES = {
    "tanh": deep("tanh", 50),
    "derivatives": Experiment.model_validate(
        {
            "name": "deep",
            "task": {"kind": "poisson"},
            "points": {"pde": 20, "bc": 4},
            "network": {"kind": "mlp", "depth": 4, "width": 6},
        }
        | {"stages": [{"kind": "sgd", "steps": 5}]}
    ),
    "buffers": Curves(counts=True, pass_size=4),
    "noise": Noisy(),
    "groups": Duel(),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_stay_the_same(module: ModuleType, case: str):
    given = CASES[case]
    task: Any = task_of(given, Path()) if isinstance(given, Experiment) else given
    groups = DUEL if isinstance(task, Duel) else {}
    stage, found = Sgd(steps=10, lr=1e-2, precision="float64"), []
    for remat in (False, True):
        made = build(module, task, [stage], remat=remat, compile=COMPILE[module.__name__], groups=groups)
        knobs = table(task, stage, 3, groups=groups)
        state, steps = made.step(made.init(0), 3, knobs, task.feed(0), 0)
        found.append(({"losses": steps.losses}, snapshot(made, state)))
    all_close(found[1][0], found[0][0], case)
    all_close(found[1][1], found[0][1], case)


@pytest.mark.slow
def test_jax_keeps_the_edges_of_segments_only():
    pytest.importorskip("jax")
    from backends.jax.steps import STEPS

    sizes, task = [], deep()
    for remat in (False, True):
        made: Any = build(backends.load("jax"), task, [Adam(steps=10)], remat=remat)
        with pytest.MonkeyPatch.context() as patch:
            asked: list[Any] = []
            patch.setattr("backends.jax.engine.STEPS", lambda *a, asked=asked: asked.append(a) or STEPS(*a))
            made.step(made.init(0), 1, table(task, Adam(steps=10), 1), task.feed(0), 0)
        state = made.init(0).arrays  # the one of the call was donated
        given = (asked[0][0], state, *asked[0][2:])
        sizes.append(STEPS.lower(*given).compile().memory_analysis().temp_size_in_bytes)  # pyright: ignore[reportOptionalMemberAccess]
    assert sizes[1] < 0.6 * sizes[0], sizes


def heard(seen: list[Any], get: Any, *arguments: Any) -> Any:
    """Calls `get`, and notes what it gives beside the example that it was given."""
    seen.append((get(*arguments), arguments[4]))
    return seen[-1][0]


def test_torch_keeps_the_edges_of_segments_only():
    pytest.importorskip("torch")
    import torch

    from backends.torch.tracing import Functions, leaves

    class Peak(torch.fx.Interpreter):
        """Runs a graph, and sees how many bytes its values hold together."""

        bytes = 0

        def run_node(self, n: Any) -> Any:
            found = super().run_node(n)
            tensors = [x for x in [*self.env.values(), found] if isinstance(x, torch.Tensor)]
            held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
            self.bytes = max(self.bytes, sum(held.values()))
            return found

    sizes, task = [], deep()
    for remat in (False, True):
        made: Any = build(backends.load("torch"), task, [Adam(steps=10)], remat=remat, compile="never")
        with pytest.MonkeyPatch.context() as patch:
            seen: list[Any] = []
            patch.setattr(Functions, "get", lambda *a, seen=seen, get=Functions.get: heard(seen, get, *a))
            made.step(made.init(0), 1, table(task, Adam(steps=10), 1), task.feed(0), 0)
        traced, example = seen[-1]
        peak = Peak(traced.flat)
        peak.run(*leaves(example))
        sizes.append(peak.bytes)
    assert sizes[1] < 0.6 * sizes[0], sizes


def test_line_searches_are_recomputed_too():
    pytest.importorskip("torch")
    module = backends.load("torch")
    task, stage = deep("tanh", 50), Lbfgs(steps=10, memory=3)
    losses = []
    for remat in (False, True):
        made = build(module, task, [stage], remat=remat, compile="never")
        _, steps = made.step(made.init(0), 4, table(task, stage, 4), task.feed(0), 0)
        losses.append(steps.losses)
    close(losses[1], losses[0], "losses", 1e-9)


def test_a_module_that_writes_and_draws_keeps_its_moments():
    """What a user's module draws or writes in its forward pass is not done twice."""
    torch = pytest.importorskip("torch")
    module = backends.load("torch")

    def net(inputs: int, outputs: int) -> Any:
        linear, norm, drop = torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.Dropout(0.3)
        layers = [linear(inputs, 8), norm(8), drop, torch.nn.ReLU(inplace=True)]
        layers += [layer for _ in range(5) for layer in (linear(8, 8), torch.nn.Tanh(), drop)]
        return torch.nn.Sequential(*layers, linear(8, outputs))

    stage, found = Sgd(steps=10, lr=1e-2, precision="float64"), []
    for remat in (False, True):
        samples = deep("tanh", 40).samples  # type: ignore[attr-defined]
        task = Whole(module.adapt(net, {}), samples, {}, {})
        task.init(generator(0, "init"))
        made = build(module, task, [stage], remat=remat, compile="never")
        state, steps = made.step(made.init(0), 4, table(task, stage, 4), task.feed(0), 0)
        found.append(({"losses": steps.losses}, snapshot(made, state)))
    all_close(found[1][0], found[0][0], "losses")
    all_close(found[1][1], found[0][1], "state")
