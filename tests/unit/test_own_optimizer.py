"""A user's own optimizer takes exactly its own steps, goes into checkpoints and comes back with its bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import optax
import torch

import backends
from backends.errors import UserError
from backends.randomness import generator
from backends.schedules import Cosine
from backends.stages import Adam, CustomOptimizer
from backends.testing.setup import all_close, build, differ, same_bits, snapshot, table
from backends.testing.tasks import Curves, LeastSquares

TEXT = """
import optax
import torch

def make(learning_rate, decay=0.9):
    return optax.chain(optax.scale_by_rms(decay), optax.trace(0.5), optax.scale_by_learning_rate(learning_rate))

def injected(learning_rate):
    return optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)

def keyed(learning_rate):
    import jax
    return optax.add_noise(0.1, 0.5, jax.random.key(0))

def for_torch(params, learning_rate, momentum=0.9):
    slow = [p for name, p in params if name == "offset"]
    fast = [p for name, p in params if name != "offset"]
    return torch.optim.SGD(
        [{"params": fast}, {"params": slow, "lr": 0.1 * learning_rate, "weight_decay": 0.01}],
        lr=learning_rate, momentum=momentum,
    )

def adam(params, learning_rate):
    return torch.optim.Adam(params, lr=learning_rate)

def line_search(params, learning_rate):
    return torch.optim.LBFGS([p for _, p in params], lr=learning_rate)

class Counting(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "total": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["total"] += group["lr"]
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                state["double"] = state.get("double", torch.zeros(p.shape, dtype=torch.float64)) + p.grad.double() / 3
                p -= (group["lr"] + 0.01 * group["total"]) * p.grad / state["count"]
                p -= 1e-3 * state["double"].to(p.dtype)

def counting(params, learning_rate):
    return Counting(params, learning_rate)

def explodes(params, learning_rate):
    raise KeyError("no such thing")

class Infinite(torch.optim.SGD):
    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p /= 0.0

def infinite(params, learning_rate):
    return Infinite(params, lr=learning_rate)

def nothing(learning_rate):
    return 3

def takes_no_rate(params):
    return torch.optim.SGD(params, lr=1e-3)

number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "own.py").write_text(TEXT)
    return path


def stage(name: str, **fields: Any) -> CustomOptimizer:
    given = {"steps": 20, "lr": 0.05, "precision": "float64", "target": f"own.py:{name}", **fields}
    return CustomOptimizer.model_validate(given)


def made(folder: Path, backend: str, name: str, task: Any = None, **fields: Any) -> Any:
    chosen = stage(name, **fields)
    settings: dict[str, Any] = {"optimizers": {chosen.name: chosen.load(folder, backend)}}
    if backend == "torch":
        settings["compile"] = "never"
    return build(backends.load(backend), task or LeastSquares(), [chosen], **settings), chosen


def rates(chosen: Any, n: int) -> Any:
    knobs = table(LeastSquares(), chosen, n)
    knobs[:, 0] *= np.linspace(1, 0.5, n)
    return knobs


def test_the_transformation_takes_its_own_steps(folder: Path) -> None:
    backend, chosen = made(folder, "jax", "make", decay=0.8)
    knobs = rates(chosen, 8)
    state, _ = backend.step(backend.init(0), 8, knobs, LeastSquares().feed(0), 0)
    params: Any = jax.tree.map(jnp.asarray, LeastSquares().init(generator(0, "init")))
    memory = None
    for lr in knobs[:, 0]:
        chain = optax.chain(optax.scale_by_rms(0.8), optax.trace(0.5), optax.scale_by_learning_rate(lr))
        memory = chain.init(params) if memory is None else memory
        updates, memory = chain.update(LeastSquares().gradient(params), memory, params)
        params = optax.apply_updates(params, updates)
    all_close(backend.parameters(state), params, "eight steps")


def test_a_rate_that_optax_keeps_in_its_state_follows_the_schedule(folder: Path) -> None:
    found = []
    for name, kind in (("injected", "own"), ("adam", "ours")):
        chosen = stage(name) if kind == "own" else Adam(steps=20, lr=0.05, precision="float64")
        backend = (
            made(folder, "jax", name)[0] if kind == "own" else build(backends.load("jax"), LeastSquares(), [chosen])
        )
        knobs = table(LeastSquares(), chosen, 6)
        knobs[:, 0] *= np.linspace(1, 0.1, 6)
        found.append(backend.parameters(backend.step(backend.init(0), 6, knobs, LeastSquares().feed(0), 0)[0]))
    all_close(found[0], found[1], "optax.adam with injected rate", 1e-12)


def test_the_torch_optimizer_takes_its_own_steps_with_options_by_parameter(folder: Path) -> None:
    backend, chosen = made(folder, "torch", "for_torch", momentum=0.7)
    knobs = rates(chosen, 8)
    state, _ = backend.step(backend.init(0), 8, knobs, LeastSquares().feed(0), 0)
    params = {k: torch.tensor(v, requires_grad=True) for k, v in LeastSquares().init(generator(0, "init")).items()}
    reference = torch.optim.SGD(
        [{"params": [params["slope"]]}, {"params": [params["offset"]], "weight_decay": 0.01}], lr=0.05, momentum=0.7
    )
    for lr in knobs[:, 0]:
        for name, slope in LeastSquares().gradient({k: v.detach().numpy() for k, v in params.items()}).items():
            params[name].grad = torch.tensor(slope)
        for group, factor in zip(reference.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = lr * factor
        reference.step()
    all_close(backend.parameters(state), {k: v.detach().numpy() for k, v in params.items()}, "eight steps")


CASES = [("jax", "make"), ("jax", "injected"), ("torch", "for_torch"), ("torch", "adam"), ("torch", "counting")]


@pytest.mark.parametrize(("name", "target"), CASES)
@pytest.mark.parametrize(
    "task", [LeastSquares(), Curves(pass_size=4), Curves(counts=True)], ids=["plain", "passes", "aux"]
)
def test_single_steps_and_a_checkpoint_give_the_same_bits(folder: Path, name: str, target: str, task: Any) -> None:
    backend, chosen = made(folder, name, target, task, precision="float32")
    knobs, feed = table(task, chosen, 6), task.feed(0)
    knobs[:, 0] *= np.linspace(0.2, 0.1, 6)
    whole = snapshot(backend, backend.step(backend.init(0), 6, knobs, feed, 0)[0])
    one = backend.init(0)
    for k in range(6):
        one, _ = backend.step(one, 1, knobs[k : k + 1], feed, k)
    same_bits(snapshot(backend, one), whole, "single steps")
    half, _ = backend.step(backend.init(0), 3, knobs[:3], feed, 0)
    arrays, meta = backend.arrays(half)
    other, _ = made(folder, name, target, task, precision="float32")
    resumed = other.load({k: np.array(v) for k, v in arrays.items()}, dict(meta))
    same_bits(snapshot(other, resumed), snapshot(backend, half), "loaded")
    same_bits(snapshot(other, other.step(resumed, 3, knobs[3:], feed, 3)[0]), whole, "resumed")
    assert any(key.startswith(f"optimizer/custom/{name}/") for key in whole)
    assert differ(whole, snapshot(backend, backend.init(0)))
    assert max(backend.compilations().values()) <= 1, backend.compilations()


def test_a_checkpoint_of_an_own_optimizer_opens_on_its_own_backend_only(folder: Path) -> None:
    for here, target, there, other in (("jax", "make", "torch", "adam"), ("torch", "adam", "jax", "make")):
        one, chosen = made(folder, here, target)
        state, _ = one.step(one.init(0), 2, rates(chosen, 2), LeastSquares().feed(0), 0)
        arrays, meta = one.arrays(state)
        with pytest.raises(
            UserError, match=rf"own optimizer of {here}, which {there} can't continue.*--start-from RUN"
        ):
            made(folder, there, other)[0].load(arrays, meta)


def test_a_step_to_infinity_is_taken_back(folder: Path) -> None:
    backend, chosen = made(folder, "torch", "infinite")
    state, steps = backend.step(backend.init(0), 2, rates(chosen, 2), LeastSquares().feed(0), 0)
    assert steps.ok.tolist() == [False, False]
    same_bits(backend.parameters(state), backend.parameters(backend.init(0)), "parameters")


@pytest.mark.parametrize(
    ("backend", "name", "expected"),
    [
        ("jax", "nothing", r"own.py:nothing must return an optax.GradientTransformation .*; it returned 3 \(int\)"),
        ("torch", "explodes", r"own.py:\d+: own.py:explodes raised KeyError: 'no such thing'"),
        ("torch", "line_search", r"own.py:line_search raised TypeError.*closure"),
        ("jax", "keyed", r"keeps a typed random key .*jax.random.PRNGKey"),
    ],
)
def test_a_target_that_makes_something_else_is_told(folder: Path, backend: str, name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        made_, chosen = made(folder, backend, name)
        made_.step(made_.init(0), 1, rates(chosen, 1), LeastSquares().feed(0), 0)


@pytest.mark.parametrize(
    ("backend", "name", "fields", "expected"),
    [
        ("jax", "maek", {}, "has no 'maek'; did you mean 'make'?"),
        ("jax", "number", {}, "own.py:number is no function, it is 3"),
        ("jax", "make", {"deccay": 0.8}, r"unexpected keyword argument 'deccay'; did you mean 'decay'?"),
        ("torch", "make", {}, "is called as make(params, learning_rate=…), which it does not take"),
        ("torch", "takes_no_rate", {}, "got an unexpected keyword argument 'learning_rate'"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(
    folder: Path, backend: str, name: str, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        stage(name, **fields).load(folder, backend)
    assert expected in str(caught.value)


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float16 skips steps.*use `compute: bfloat16`"):
        stage("make", precision="float32", compute="float16", schedule=Cosine())
