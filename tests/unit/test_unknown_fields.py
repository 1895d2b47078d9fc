"""Fields that depend on some coordinates only: an unknown coefficient k(x) of a problem in time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import backends
from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, residual
from backends.protocol import Settings
from backends.stages import Adam
from backends.task import Context, Parts
from orchestrator.knobs import Knobs, initial

OPS = NumpyOps()


class Layered(Problem):
    """u_t = (k u_x)_x with k(x) to be found from measurements of u."""

    coords = {"t": (0, 1), "x": (0, 2), "y": (0, 2)}
    fields = ("u", "k", "p")
    time = "t"
    depends = {"k": ("x",), "p": ("y", "x")}

    @residual
    def pde(self, f):
        k, k_x, k_t, u_t, u_x, u_xx, p_y = f("k", "k_x", "k_t", "u_t", "u_x", "u_xx", "p_y")
        return u_t - k * u_xx - k_x * u_x + p_y + k_t

    @residual(t=0)
    def ic(self, f):
        return f("u") - f.ops.sin(math.pi * f("x"))


def task_of(problem: Problem | None = None) -> Any:
    return (problem or Layered()).build(Parts(MLP(width=5, depth=2)))


def test_a_field_has_no_derivative_by_a_coordinate_that_it_does_not_depend_on():
    task = task_of()
    params = task.init(np.random.default_rng(0))
    assert {n.split("/")[0] for n in params if "/" in n} == {"k", "p"}
    assert params["w0"].shape == (3, 5) and params["k/w0"].shape == (1, 5) and params["p/w0"].shape == (2, 5)
    at = {"t": np.array([0.1, 0.9]), "x": np.array([0.4, 0.4]), "y": np.array([0.2, 1.5])}
    found = task.predict(OPS, params, ["k", "k_t", "k_y", "k_x", "p", "p_t", "p_y", "u"], at, Context({}))
    assert found["k"][0] == found["k"][1] and found["p"][0] != found["p"][1] and found["u"][0] != found["u"][1]
    assert not found["k_t"].any() and not found["k_y"].any() and not found["p_t"].any()
    assert found["k_x"].all() and found["p_y"].all()
    moved = task.predict(OPS, params, ["k"], {**at, "x": at["x"] + 1e-6}, Context({}))["k"]
    np.testing.assert_allclose((moved - found["k"]) / 1e-6, found["k_x"], rtol=1e-4)


def test_problems_without_them_start_from_the_bits_that_they_always_had():
    class Plain(Layered):
        depends = {}

    params = task_of(Plain()).init(np.random.default_rng(3))
    again = MLP(width=5, depth=2).init(np.random.default_rng(3), 3, 3)
    assert set(params) == set(again)
    assert all((params[n] == again[n]).all() for n in again)


def test_both_backends_take_the_same_steps():
    task, stage = task_of(), Adam(lr=1e-2, steps=5, precision="float64")
    losses = []
    for name in ("jax", "torch"):
        pytest.importorskip(name)
        backend = backends.load(name).build(task, (stage,), Settings(compile="never" if name == "torch" else "auto"))
        knobs = Knobs(initial(task, {"pde": 1.0, "ic": 1.0}), task=task)
        _, steps = backend.step(backend.init(0), 5, knobs.table(stage, 0, 0, 5), task.feed(0), 0)
        losses.append(np.asarray(steps.losses))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


@pytest.mark.parametrize(
    ("depends", "told"),
    [
        ({"q": ("x",)}, "depends: 'q' is no field"),
        ({"k": ("z",)}, "depends: 'k': 'z' is no coordinate"),
        ({"k": "x"}, r'write \("x",\)'),
        ({"k": ()}, "needs a tuple of coordinates"),
    ],
)
def test_wrong_dependencies_are_refused_where_the_class_is_defined(depends: Any, told: str):
    with pytest.raises(UserError, match=told):
        type("Wrong", (Layered,), {"__module__": __name__, "depends": depends})
