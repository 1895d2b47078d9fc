"""Broyden with limited memory is the dense method until its directions are full, and stays sound afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends import quasi
from backends.ops import NumpyOps
from backends.stages import Lbfgs, SsBroyden

OPS = NumpyOps()
Vector = NDArray[Any]


def rosenbrock(x: Vector) -> tuple[Vector, Vector, Vector]:
    d, g = x[1:] - x[:-1] ** 2, np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * d - 2 * (1 - x[:-1])
    g[1:] += 200 * d
    f = np.sum(100 * d**2 + (1 - x[:-1]) ** 2)
    return f[None], f, g


def path(stage: Lbfgs | SsBroyden, x: Vector, steps: int) -> tuple[list[float], dict[str, Any]]:
    state, losses = quasi.init(stage, OPS, x, 1, 1), []
    for _ in range(steps):
        x, state, loss, _, ended = quasi.iteration(stage, OPS, rosenbrock, x, state, np.zeros(1))
        losses.append(float(loss[0]))
        if ended:
            break
    return losses, state


def inverse_hessian(state: dict[str, Any]) -> Vector:
    Q, gamma = state["Q"], state["gamma"]
    return gamma * (np.eye(Q.shape[1]) - Q.T @ Q) + Q.T @ state["M"] @ Q


START = np.tile([-1.2, 1.0, 0.3], 10)


def test_it_is_the_dense_method_until_its_directions_are_full() -> None:
    dense, exact = path(SsBroyden(steps=1), START, 12)
    limited, state = path(SsBroyden(steps=1, memory=24), START, 12)
    np.testing.assert_allclose(limited, dense, rtol=1e-9)
    np.testing.assert_allclose(inverse_hessian(state), exact["H"], rtol=1e-6, atol=1e-9 * np.abs(exact["H"]).max())


@pytest.mark.parametrize("memory", [2, 4, 16])
def test_full_it_stays_symmetric_positive_and_orthonormal_and_goes_on(memory: int) -> None:
    for steps in (5, 20, 60):
        losses, state = path(SsBroyden(steps=1, memory=memory), START, steps)
        Q, H = state["Q"], inverse_hessian(state)
        size = np.sum(Q * Q, 1)
        np.testing.assert_allclose(Q @ Q.T, np.diag(np.round(size)), atol=1e-9)
        assert np.linalg.eigvalsh((H + H.T) / 2).min() > 0
        np.testing.assert_allclose(H, H.T, atol=1e-10 * np.abs(H).max())
        assert (np.diff(losses) < 0).all()
    assert state["counts"][2] == 0, "a direction did not descend"


def test_it_finds_a_minimum_with_fewer_directions_than_parameters() -> None:
    losses, _ = path(SsBroyden(steps=1, memory=10), np.tile([0.8, 1.1, 0.9], 10), 300)
    assert losses[-1] < 1e-18
