"""A user's own torch.nn.Module: parameters by name, buffers in aux, noise by (seed, step), clear messages."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import backends.torch as backend
from backends.data import Samples
from backends.errors import OwnCodeFailed, UserError
from backends.networks import MLP, Network
from backends.protocol import Settings
from backends.randomness import generator
from backends.spec import Points
from backends.stages import Adam, SsBroyden
from backends.task import Parts
from backends.tasks.burgers import Burgers
from backends.tasks.regression import RegressionTask
from backends.testing.setup import table


class Net(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int = 5, norm: bool = False, drop: float = 0.0) -> None:
        super().__init__()
        parts = [nn.Linear(inputs, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.Tanh()]
        self.body = nn.Sequential(*parts, nn.Dropout(drop), nn.Linear(width, outputs))

    def forward(self, x: Any) -> Any:
        return self.body(x)


def task(network: Network) -> RegressionTask:
    rng = generator(0, "rows")
    columns = {"a": rng.normal(size=24), "b": rng.normal(size=24), "y": rng.normal(size=24)}
    samples = Samples(columns, ("a", "b"), ("y",), np.arange(20), np.arange(20, 24))
    return RegressionTask(network, samples, {}, {})


def trained(network: Network, steps: int, dispatch: int, warn: Any = print, **settings: Any) -> tuple[Any, Any, Any]:
    t, stage = task(network), Adam(steps=100, lr=1e-2, precision="float64")
    made = backend.build(t, (stage,), Settings(seed=3, warn=warn, **settings))
    state, feed = made.init(0), t.feed(0)
    for step in range(0, steps, dispatch):
        state, report = made.step(state, dispatch, table(t, stage, dispatch), feed, step)
    return made, state, report


def test_parameters_are_the_modules_own_and_follow_the_seed() -> None:
    network = backend.adapt(Net, {"width": 4})
    first = network.init(generator(0, "init"), 2, 1)
    assert {k: v.shape for k, v in first.items()} == {
        "body.0.weight": (4, 2), "body.0.bias": (4,), "body.4.weight": (1, 4), "body.4.bias": (1,),
    }  # fmt: skip
    again, other = network.init(generator(0, "init"), 2, 1), network.init(generator(1, "init"), 2, 1)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["body.0.weight"], other["body.0.weight"])
    assert not network.jets and network.aux() == {} and network.widest() == 4


def test_making_a_module_leaves_the_users_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(backend.adapt(Net, {"drop": 0.5}), 2, 2)
    assert torch.equal(torch.rand(3), expected)


def test_a_module_trains_like_torch_itself() -> None:
    made, state, _ = trained(backend.adapt(Net, {}), 20, 10)
    t = made.task
    params = t.init(generator(0, "init"))
    module = Net(2, 1).double()
    module.load_state_dict({k: torch.tensor(v) for k, v in params.items()})
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    rows = t.samples.rows(t.samples.training)
    x, y = torch.tensor(np.stack([rows["a"], rows["b"]], 1)), torch.tensor(rows["y"])
    for _ in range(20):
        optimizer.zero_grad()
        ((module(x)[:, 0] - y) ** 2).mean().backward()
        optimizer.step()
    for name, p in module.named_parameters():
        np.testing.assert_allclose(made.parameters(state)[name], p.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_buffers_are_state_they_move_in_training_and_stay_in_evaluation() -> None:
    made, state, _ = trained(backend.adapt(Net, {"norm": True}), 6, 3)
    arrays, meta = made.arrays(state)
    assert arrays["aux/body.1.num_batches_tracked"] == 6 and arrays["aux/body.1.running_mean"].any()
    made.evaluate(state, made.task.held_out(4))
    after = made.arrays(state)[0]
    assert all(np.array_equal(arrays[k], after[k]) for k in arrays)
    one = made.predict(state, ["y"], {"a": np.zeros(1), "b": np.ones(1)})["y"]
    two = made.predict(state, ["y"], {"a": np.zeros(2), "b": np.array([1.0, 9.0])})["y"]
    assert np.isclose(one[0], two[0], rtol=1e-12), "evaluation uses the running statistics, not those of its samples"
    assert made.arrays(made.load(arrays, meta))[0].keys() == arrays.keys()


def test_a_buffer_that_the_module_replaces_is_kept() -> None:
    class Counting(Net):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Any) -> Any:
            self.calls = self.calls + 1
            return super().forward(x)

    made, state, _ = trained(backend.adapt(Counting, {}), 4, 2)
    assert made.arrays(state)[0]["aux/calls"] == 4


def test_dropout_is_a_function_of_seed_and_step() -> None:
    messages: list[str] = []
    whole, state, _ = trained(backend.adapt(Net, {"drop": 0.5}), 6, 6, warn=messages.append, compile="always")
    parts, restored, _ = trained(backend.adapt(Net, {"drop": 0.5}), 6, 2)
    one, two = whole.parameters(state), parts.parameters(restored)
    assert all(np.array_equal(one[k], two[k]) for k in one)
    plain, other, _ = trained(backend.adapt(Net, {"drop": 0.0}), 6, 6)
    assert not np.array_equal(one["body.0.weight"], plain.parameters(other)["body.0.weight"])
    assert len(messages) == 1 and "draws" in messages[0]


def test_dropout_is_off_in_evaluation() -> None:
    made, state, _ = trained(backend.adapt(Net, {"drop": 0.5}), 2, 2)
    points = {"a": np.linspace(-1, 1, 7), "b": np.zeros(7)}
    one, two = (made.predict(state, ["y"], points)["y"] for _ in range(2))
    assert np.array_equal(one, two)


def test_a_quasi_newton_stage_sees_one_mask_per_step() -> None:
    t, stage = task(backend.adapt(Net, {"drop": 0.3, "norm": True})), SsBroyden(steps=5)
    made = backend.build(t, (stage,), Settings())
    state, report = made.step(made.init(0), 5, table(t, stage, 5), t.feed(0), 0)
    assert report.ok.all() and np.isfinite(report.losses).all()
    assert made.arrays(state)[0]["aux/body.1.num_batches_tracked"] == 0, "aux stays within a quasi-Newton stage"


class Same(MLP):
    """Starts from the same numbers, whatever the seed."""

    def init(self, rng: Any, inputs: int, outputs: int) -> Any:
        return super().init(generator(9, "same"), inputs, outputs)


class Plain(nn.Module):
    """`Same`, as a user would write it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        start = Same(width=6, depth=2).init(generator(0), inputs, outputs)
        for name, value in start.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def forward(self, x: Any) -> Any:
        for k in range(2):
            x = torch.tanh(x @ getattr(self, f"w{k}") + getattr(self, f"b{k}"))
        return x @ self.w2 + self.b2


@pytest.mark.parametrize("constraints", ["soft", "hard"])
def test_nested_differentiation_of_a_module_gives_what_jets_give(constraints: Any) -> None:
    stage, found = Adam(steps=10, lr=1e-2, precision="float64"), []
    for network in (Same(width=6, depth=2), backend.adapt(Plain, {})):
        points = {"pde": Points(count=12)}
        pde = Burgers().build(Parts(network=network, constraints=constraints, points=points))
        made = backend.build(pde, (stage,), Settings())
        state, steps = made.step(made.init(0), 5, table(pde, stage, 5), pde.feed(0), 0)
        derivative = made.predict(state, ["u_xx"], {"t": np.full(3, 0.5), "x": np.linspace(-1, 1, 3)})["u_xx"]
        found.append([steps.losses, derivative, *made.parameters(state).values()])
    for ours, nested in zip(*found, strict=True):
        np.testing.assert_allclose(nested, ours, rtol=1e-9, atol=1e-12)


def test_parameters_without_gradient_are_frozen() -> None:
    def make(inputs: int, outputs: int) -> nn.Module:
        net = Net(inputs, outputs)
        net.body[0].weight.requires_grad_(False)
        return net

    made, state, _ = trained(backend.adapt(make, {}), 3, 3)
    start = made.task.init(generator(0, "init"))
    assert "frozen/body.0.weight" in start and "frozen/body.0.weight" not in dict(made.layout(state))
    assert np.array_equal(made.parameters(state)["frozen/body.0.weight"], start["frozen/body.0.weight"])


def test_a_network_of_ours_passes_through() -> None:
    assert backend.adapt(MLP, {"width": 7}) == MLP(width=7)
    with pytest.raises(UserError, match="MLP: width"):
        backend.adapt(MLP, {"width": -7})


def test_a_forward_that_branches_on_numbers_runs_uncompiled_with_one_warning() -> None:
    class Branching(Net):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if float(x.detach().sum()) > -1e9 else x

    messages: list[str] = []
    made, state, _ = trained(backend.adapt(Branching, {}), 4, 2, warn=messages.append, compile="always")
    plain, other, _ = trained(backend.adapt(Net, {}), 4, 2)
    assert len(messages) == 1 and "can't be recorded" in messages[0]
    one, two = made.parameters(state), plain.parameters(other)
    assert all(np.allclose(one[k], two[k], rtol=1e-12, atol=0) for k in one)


@pytest.mark.parametrize(
    ("target", "fields", "message"),
    [
        (Net, {"widht": 3}, "Net takes no 'widht'; did you mean 'width'"),
        (lambda inputs, outputs: "x", {}, "returned an object of the type str, not a torch.nn.Module"),
        (lambda inputs, outputs: nn.Identity(), {}, "has no parameters"),
        (lambda inputs, outputs: nn.LazyLinear(outputs), {}, "has no shape yet"),
        (lambda inputs, outputs, slope: Net(inputs, outputs), {}, "needs a value for 'slope'"),
        (lambda inputs, outputs: nn.Linear(inputs, 3), {}, r"shape \[20, 3\].*\[samples, outputs\] = \[20, 1\]"),
        (Net(2, 1), {}, "an object of the type Net; give a class"),
        (dict, {}, "the class dict is no torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_told(target: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that lazy modules are a new feature
        trained(backend.adapt(target, fields), 1, 1)


def test_own_code_that_raises_is_told_with_the_shapes() -> None:
    with pytest.raises(OwnCodeFailed, match=r"raised RuntimeError for an input of the shape.*\[20, 2\]"):
        trained(backend.adapt(lambda inputs, outputs: nn.Linear(inputs + 1, outputs), {}), 1, 1)
    with pytest.raises(OwnCodeFailed, match="making the network Net raised"):
        trained(backend.adapt(Net, {"width": -3}), 1, 1)
