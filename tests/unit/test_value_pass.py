"""Initial and boundary values share one pass: the same losses and gradients, and fewer passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from backends.networks import MLP
from backends.pde.problem import Problem, residual
from backends.pde.task import PdeTask
from backends.spec import Points
from backends.task import Parts
from backends.tasks import Burgers
from backends.testing.setup import ADAM, all_close, build, snapshot, table


class Mixed(Problem):
    """Two fields, terms on five regions: three of values, one of a slope, one of two ends."""

    coords = {"t": (0, 1), "x": (-1, 1)}
    fields = ("u", "v")
    time = "t"

    @residual
    def pde(self, f):
        return f("u_t") - f("v_xx"), f("v")

    @residual(t=0)
    def ic(self, f):
        return {"u": f("u") - f.ops.sin(f("x")), "v": f("v") * f("u")}

    @residual(x="low")
    def left(self, f):
        return f("u") - f("t")

    @residual(x="high")
    def slope(self, f):
        return f("u_x")

    @residual(x=0.5)
    def inner(self, f):
        return f("v") - 1.0

    @residual(x="periodic")
    def ends(self, f):
        low, high = f.ends("v")
        return low - high


class Alone(PdeTask):
    """The same without shared passes."""

    together = ()  # pyright: ignore[reportIncompatibleVariableOverride, reportAssignmentType]


def task(problem: Problem | None = None, **points: int) -> PdeTask:
    counts = {name: Points(count=n) for name, n in points.items()}
    return (problem or Mixed()).build(Parts(MLP(width=6, depth=2), points=counts))


def alone(built: PdeTask) -> PdeTask:
    return Alone(**{name: getattr(built, name) for name in built.__dataclass_fields__})


def test_batches_of_values_are_those_without_derivatives_and_without_two_ends():
    assert task().together == ("t=0", "x=low", "x=0.5")
    assert task(Burgers()).together == ("t=0", "x=ends")
    assert replace(task(), representation=replace(task().representation, network=Own(width=4))).together == ()


class Own(MLP):
    """As a user's module is."""

    jets = False


@pytest.mark.parametrize("name", ["jax", "torch"])
@pytest.mark.parametrize("count", [7, 30])
def test_a_shared_pass_gives_the_same_steps(name: str, count: int):
    built = task(pde=24, ic=count, left=11)
    paths = []
    for some in (built, alone(built)):
        backend = build(backends.load(name), some, compile="never")
        state, steps = backend.step(backend.init(0), 4, table(some, ADAM[0], 4), some.feed(0), 0)
        paths.append({**snapshot(backend, state), "losses": np.array(steps.losses)})
    all_close(paths[0], paths[1], name, rtol=1e-12)


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_one_pass_of_the_network_serves_all_values(name: str, monkeypatch: pytest.MonkeyPatch):
    passes: list[Any] = []
    apply = MLP.apply

    def counting(self: Any, ops: Any, params: Any, h: Any) -> Any:
        passes.append(h.shape)
        return apply(self, ops, params, h)

    monkeypatch.setattr(MLP, "apply", counting)
    built = task(pde=24, ic=7, left=11, inner=5, slope=4, ends=3)
    backend = build(backends.load(name), built, compile="never")
    passes.clear()
    backend.step(backend.init(0), 1, table(built, ADAM[0], 1), built.feed(0), 0)
    assert {(2, 7 + 11 + 5), (2, 24)} <= set(passes)
    assert not {(2, 7), (2, 11), (2, 5)} & set(passes)
