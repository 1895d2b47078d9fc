"""The project's own tasks on the JAX backend: programs are shared, both backends agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import backends
from backends.data import Digits
from backends.networks import MLP, FourierFeatures, ModifiedMLP, VaeNetwork
from backends.spec import Points
from backends.stages import Adam, SsBroyden
from backends.task import Parts, Task
from backends.tasks.burgers import Burgers
from backends.tasks.inverse_heat import InverseHeat
from backends.tasks.vae import Vae
from backends.testing.setup import build, close, oracle, table

JAX = backends.load("jax")
TWO = (Adam(name="warm", steps=100, lr=5e-3, precision="float64"), SsBroyden(name="polish", steps=20))


def burgers(constraints: Any = "soft", nu: float = 0.01, **network: Any) -> Task:
    points = {
        "pde": Points(count=40),
        **({} if constraints == "hard" else {"ic": Points(count=8), "bc": Points(count=8)}),
    }
    net = network.pop("network", MLP(width=8, depth=2))
    return Burgers(nu=nu).build(Parts(net, constraints=constraints, points=points))


def other_tasks() -> dict[str, Task]:
    fourier = MLP(width=8, depth=2, features=FourierFeatures(count=4))
    heat = InverseHeat().build(Parts(fourier, points={"pde": Points(count=30)}))
    vae = Vae().build(Parts(VaeNetwork(latent=2, width=8), data=Digits(batch=20), folder=Path()))
    return {
        "soft": burgers(),
        "hard, gates": burgers("hard", network=ModifiedMLP(width=6, depth=2, activation="gelu")),
        "inverse heat, Fourier": heat,
        "vae": vae,
    }


def test_a_changed_constant_or_seed_takes_the_same_program():
    for constraints in ("soft", "hard"):
        one, other = burgers(constraints), burgers(constraints, nu=0.03)
        assert one.signature == other.signature is not None  # type: ignore[attr-defined]
        first = build(JAX, one, TWO)
        first.step(first.init(0), 2, table(one, TWO[0], 2), one.feed(0), 0)
        second = build(JAX, other, TWO, seed=5)
        second.step(second.init(1), 4, table(other, TWO[0], 4), other.feed(1), 0)
        assert second.compilations() == {"step/warm": 0}
    assert burgers("hard").signature != burgers().signature  # type: ignore[attr-defined]
    assert burgers(network=MLP(width=9, depth=2)).signature != burgers().signature  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", other_tasks())
def test_evaluations_are_those_of_numpy(name: str):
    task = other_tasks()[name]
    backend = build(JAX, task, TWO)
    state, samples = backend.init(0), task.held_out(20)
    expected = oracle(task, backend.parameters(state), samples)
    found = backend.evaluate(state, samples)
    for term in task.terms:
        close(found[term.name], expected[term.name], f"{name}: {term.name}", 1e-10)


@pytest.mark.parametrize("name", other_tasks())
def test_both_backends_agree_on_the_projects_tasks(name: str):
    torch = backends.load("torch")
    found = []
    for module in (JAX, torch):
        task = other_tasks()[name]
        backend, feed = build(module, task, TWO), task.feed(0)
        what = frozenset({"losses", "gradient", "grad_norms"})
        probe = backend.probe(backend.init(0), what, feed, 0, table(task, TWO[0], 1)[0])
        losses, state = [], backend.init(0)
        for step in range(0, 30, 10):
            state, steps = backend.step(state, 10, table(task, TWO[0], 10), feed, step)
            losses.append(np.array(steps.losses))
        if name == "hard, gates":
            state, steps = backend.step(backend.enter(state, 1), 10, table(task, TWO[1], 10), feed, 30)
            losses.append(np.array(steps.losses))
        found.append((probe, np.concatenate(losses)))
    for what in found[0][0]:
        close(found[0][0][what], found[1][0][what], f"{name}: {what} at step 0", 1e-12)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-9)
