"""Every first-order optimizer takes the steps of optax on both backends, and torch.optim's where the two agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import optax
import torch
from optax import contrib

import backends
from backends.jax import first_order
from backends.stages import FIRST_ORDER, Adagrad, Adam, AdamW, Lamb, Lion, Muon, Nadam, Radam, RmsProp, Sgd
from backends.testing.setup import all_close
from backends.torch.first_order import optimizer
from backends.torch.layout import Layout

backends.load("jax")  # float64

SHAPES = (("b", (2,)), ("k", ()), ("w", (3, 2)))
STEPS = 40
MOMENTS: Any = {"b1": 0.8, "b2": 0.95, "eps": 1e-6}


def scaled(*parts: optax.GradientTransformation, decay: float = 0.0, last: Any = None) -> Any:
    return optax.chain(*parts, optax.add_decayed_weights(decay), *([last] if last else []))


CASES: dict[str, tuple[Any, Callable[[], Any]]] = {
    "adam": (Adam(steps=1, **MOMENTS), lambda: optax.adam(-1.0, 0.8, 0.95, 1e-6)),
    "adamw": (
        AdamW(steps=1, **MOMENTS, weight_decay=0.1),
        lambda: optax.adamw(-1.0, 0.8, 0.95, 1e-6, weight_decay=0.1),
    ),
    "nadam": (Nadam(steps=1, **MOMENTS), lambda: optax.nadam(-1.0, 0.8, 0.95, 1e-6)),
    "nadamw": (
        Nadam(steps=1, **MOMENTS, weight_decay=0.1),
        lambda: optax.nadamw(-1.0, 0.8, 0.95, 1e-6, weight_decay=0.1),
    ),
    "radam": (Radam(steps=1, **MOMENTS), lambda: optax.radam(-1.0, 0.8, 0.95, 1e-6)),
    "radam with decay": (
        Radam(steps=1, **MOMENTS, weight_decay=0.1),
        lambda: scaled(optax.scale_by_radam(0.8, 0.95, 1e-6), decay=0.1),
    ),
    "lamb": (Lamb(steps=1, **MOMENTS, weight_decay=0.1), lambda: optax.lamb(-1.0, 0.8, 0.95, 1e-6, weight_decay=0.1)),
    "muon": (
        Muon(steps=1, beta=0.8, **MOMENTS, weight_decay=0.1),
        lambda: contrib.muon(
            -1.0, beta=0.8, eps=1e-6, weight_decay=0.1, adam_b1=0.8, adam_b2=0.95, adam_weight_decay=0.1
        ),
    ),
    "lion": (Lion(steps=1, b1=0.8, b2=0.95, weight_decay=0.1), lambda: optax.lion(-1.0, 0.8, 0.95, weight_decay=0.1)),
    "rmsprop": (RmsProp(steps=1, decay=0.8, eps=1e-4), lambda: optax.rmsprop(-1.0, 0.8, 1e-4)),
    "rmsprop with all": (
        RmsProp(steps=1, decay=0.8, eps=1e-4, momentum=0.7, centered=True, initial=0.3, weight_decay=0.1),
        lambda: optax.chain(optax.scale_by_stddev(0.8, 1e-4, 0.3), optax.trace(0.7), optax.add_decayed_weights(0.1)),
    ),
    "rmsprop with momentum": (
        RmsProp(steps=1, decay=0.8, eps=1e-4, momentum=0.7, initial=0.3),
        lambda: optax.rmsprop(-1.0, 0.8, 1e-4, 0.3, momentum=0.7),
    ),
    "adagrad": (Adagrad(steps=1, eps=1e-5, initial=0.2), lambda: optax.adagrad(-1.0, 0.2, 1e-5)),
    "adagrad from zero": (
        Adagrad(steps=1, eps=1e-5, initial=0.0, weight_decay=0.1),
        lambda: scaled(optax.scale_by_rss(0.0, 1e-5), decay=0.1),
    ),
    "sgd": (Sgd(steps=1, momentum=0.7), lambda: optax.sgd(-1.0, momentum=0.7)),
    "sgd with nesterov": (Sgd(steps=1, momentum=0.7, nesterov=True), lambda: optax.sgd(-1.0, 0.7, nesterov=True)),
    "sgd with decay": (Sgd(steps=1, momentum=0.7, weight_decay=0.1), lambda: scaled(optax.trace(0.7), decay=0.1)),
}
"""Optax's optimizers at the rate -1 give our direction."""


def start() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.normal(size=shape)) for name, shape in SHAPES}


def gradient(step: int) -> dict[str, Any]:
    """Of changing size, and zero at times."""
    rng = np.random.default_rng([1, step])
    size = 10.0 ** (-step % 3) * (step % 7 > 0)
    return {name: np.asarray(rng.normal(size=shape) * size) for name, shape in SHAPES}


def knobs(stage: Any) -> dict[str, float]:
    return {name: float(getattr(stage, name)) for name in stage.knob_fields}


def path_of_jax(stage: Any, rates: Any) -> list[dict[str, Any]]:
    free: Any = start()
    state = first_order.init(stage.method, free, getattr(stage, "initial", 0.0))
    step = jax.jit(lambda g, s, p, k: first_order.direction(stage.method, g, s, p, k))
    path = []
    for i, lr in enumerate(rates):
        found, state = step(gradient(i), state, free, knobs(stage))
        free = {name: np.asarray(value - lr * found[name]) for name, value in free.items()}
        path.append(free)
    return path


def path_of_torch(stage: Any, rates: Any) -> list[dict[str, Any]]:
    layout = Layout(SHAPES)
    ours, x = optimizer(stage, layout), torch.tensor(layout.flat(start()))
    given = {name: torch.tensor(value, dtype=torch.float64) for name, value in knobs(stage).items()}
    parts, path = ours.init(x), []
    for i, lr in enumerate(rates):
        found, parts = ours.direction(torch.tensor(layout.flat(gradient(i))), x, parts, given)
        x = x - lr * found
        path.append(layout.arrays(x.numpy()))
    return path


def path_of_optax(make: Callable[[], Any], rates: Any) -> list[dict[str, Any]]:
    chain, params = make(), jax.tree.map(jnp.asarray, start())
    state, path = chain.init(params), []
    for i, lr in enumerate(rates):
        found, state = chain.update(gradient(i), state, params)
        params = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params, found)
        path.append({name: np.asarray(value) for name, value in params.items()})
    return path


def test_every_kind_has_a_case() -> None:
    assert {type(stage) for stage, _ in CASES.values()} == set(FIRST_ORDER)
    assert {stage.method for stage, _ in CASES.values()} == {m for cls in FIRST_ORDER for m in methods(cls)}


def methods(cls: Any) -> list[str]:
    plain = cls(steps=1)
    return [plain.method, *(cls(steps=1, **{choice: True}).method for choice in cls.choices)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", [path_of_jax, path_of_torch], ids=["jax", "torch"])
def test_every_step_is_that_of_optax(case: str, path: Callable[..., list[Any]]) -> None:
    stage, make = CASES[case]
    rates = np.linspace(0.1, 0.01, STEPS)
    for i, (ours, theirs) in enumerate(zip(path(stage, rates), path_of_optax(make, rates), strict=True)):
        all_close(ours, theirs, f"{case}, step {i}")


TORCH: dict[str, tuple[Any, Callable[[Any, float], torch.optim.Optimizer]]] = {
    "adam": (Adam(steps=1, **MOMENTS), lambda p, lr: torch.optim.Adam(p, lr, (0.8, 0.95), 1e-6)),
    "adamw": (
        AdamW(steps=1, **MOMENTS, weight_decay=0.1),
        lambda p, lr: torch.optim.AdamW(p, lr, (0.8, 0.95), 1e-6, weight_decay=0.1),
    ),
    "radam": (
        Radam(steps=1, b1=0.8, b2=0.95, eps=1e-16, weight_decay=0.1),
        lambda p, lr: torch.optim.RAdam(p, lr, (0.8, 0.95), 1e-16, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    "rmsprop": (
        RmsProp(steps=1, decay=0.8, eps=1e-16, momentum=0.7),
        lambda p, lr: torch.optim.RMSprop(p, lr, 0.8, 1e-16, momentum=0.7),
    ),
    "adagrad": (
        Adagrad(steps=1, eps=1e-16, initial=0.2),
        lambda p, lr: torch.optim.Adagrad(p, lr, eps=1e-16, initial_accumulator_value=0.2),
    ),
    "sgd": (Sgd(steps=1, momentum=0.7), lambda p, lr: torch.optim.SGD(p, lr, 0.7)),
    "nesterov": (Sgd(steps=1, momentum=0.7, nesterov=True), lambda p, lr: torch.optim.SGD(p, lr, 0.7, nesterov=True)),
}


@pytest.mark.parametrize("case", TORCH)
def test_steps_are_those_of_torch_where_the_two_agree(case: str) -> None:
    """With the rate that changes; with an eps so small that its place does not matter where it differs."""
    stage, make = TORCH[case]
    rates = np.linspace(0.1, 0.01, STEPS)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    reference = make(list(theirs.values()), 0.1)
    for i, ours in enumerate(path_of_torch(stage, rates)):
        for name, value in gradient(i).items():
            theirs[name].grad = torch.tensor(value)
        reference.param_groups[0]["lr"] = rates[i]
        reference.step()
        all_close(ours, {n: v.detach().numpy() for n, v in theirs.items()}, f"{case}, step {i}", rtol=1e-10)
