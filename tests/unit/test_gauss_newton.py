"""Gauss-Newton: its systems are the textbook's, whichever solver; it damps, falls back and says why it ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends import gauss_newton, quasi
from backends.errors import UserError
from backends.gauss_newton import solving
from backends.gauss_newton.solving import Dense, Free, Samples
from backends.ops import NumpyOps
from backends.stages import GaussNewton

OPS = NumpyOps()
Vector = NDArray[Any]
TRUST = GaussNewton(steps=1)


def curvature(solver: str, J: Vector, rho: Vector, rest: Vector) -> solving.Curvature:
    if solver == "dense":
        return Dense(J.T @ J)
    return Samples(J, J @ J.T, rho, rest) if solver == "samples" else Free(lambda v: J.T @ (J @ v))


def problem(
    residuals: Callable[[Vector], Vector], jacobian: Callable[[Vector], Vector], solver: str = "dense"
) -> gauss_newton.Problem:
    def value(x: Vector) -> tuple[Vector, Vector]:
        squares = np.asarray(np.sum(residuals(x) ** 2))
        return squares[None], squares

    def assemble(x: Vector) -> tuple[Vector, Vector, Vector, solving.Curvature]:
        J, rho = jacobian(x), residuals(x)
        return *value(x), 2 * J.T @ rho, curvature(solver, J, rho, 0 * x)

    return gauss_newton.Problem(assemble, value)


def run(
    stage: GaussNewton, of: gauss_newton.Problem, x: Vector, steps: int, damping: float = 1e-2, momentum: float = 0.0
) -> tuple[Vector, dict[str, Any], list[float], int]:
    state, losses, ended = gauss_newton.init(OPS, x), [], 0
    for _ in range(steps):
        given = np.asarray(damping), np.asarray(momentum)
        x, state, loss, _, ended = gauss_newton.iteration(stage, OPS, of, x, state, *given)
        losses.append(float(loss[0]))
        if ended:
            break
    return x, state, losses, int(ended)


def valley(x: Vector) -> Vector:
    """Rosenbrock's, as residuals."""
    return np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def slopes_of_the_valley(x: Vector) -> Vector:
    return np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.floats(1e-4, 1e2))
@settings(max_examples=40, deadline=None)
def test_every_solver_solves_the_damped_system(seed: int, rows: int, n: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    J, rho, rest, anchor = rng.normal(size=(rows, n)), *(rng.normal(size=k) for k in (rows, n, n))
    g = 2 * (J.T @ rho + rest)
    expected = np.linalg.solve(J.T @ J + damping * np.eye(n), damping * anchor - 0.5 * g)
    for solver in ("dense", "samples", "cg"):
        p = solving.solve(TRUST, OPS, curvature(solver, J, rho, rest), g, np.asarray(damping), anchor)
        np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(), err_msg=solver)


def test_the_product_of_blocks_is_the_whole_product() -> None:
    for n in (5, 191, 192, 200, 331):
        J = np.random.default_rng(n).normal(size=(7, n))
        np.testing.assert_allclose(solving.gram(OPS, J), J.T @ J, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", ["dense", "samples", "cg"])
@pytest.mark.parametrize("step", ["trust", "line_search"])
def test_it_finds_the_end_of_a_curved_valley(solver: str, step: Any) -> None:
    stage = GaussNewton(steps=1, step=step, tolerance=1e-9)
    x, _, losses, ended = run(stage, problem(valley, slopes_of_the_valley, solver), np.array([-1.2, 1.0]), 60)
    np.testing.assert_allclose(x, [1.0, 1.0], rtol=1e-8)
    assert ended == quasi.CONVERGED
    assert all(b <= a for a, b in itertools.pairwise(losses)), "a step made the loss larger"


def test_the_damping_follows_the_quality_of_the_prediction() -> None:
    """Linear residuals are predicted exactly: the damping falls by 3 an iteration."""
    J = np.random.default_rng(0).normal(size=(8, 3))
    linear = problem(lambda x: J @ x - 1.0, lambda x: J)
    _, state, _, _ = run(TRUST, linear, np.zeros(3), 2)
    np.testing.assert_allclose(state["scale"], 3.0**-2)
    _, state, _, _ = run(TRUST, problem(valley, slopes_of_the_valley), np.array([-1.2, 1.0]), 1, damping=1e-12)
    assert state["scale"] > 1.0, "a step that was refused must raise the damping"


def test_momentum_pulls_the_step_towards_the_last_one() -> None:
    J = np.random.default_rng(1).normal(size=(2, 5))
    linear = problem(lambda x: J @ x - 1.0, lambda x: J)
    plain, before, _, _ = run(TRUST, linear, np.zeros(5), 1)
    moved, _, _, _ = run(TRUST, linear, np.zeros(5), 2, momentum=0.5)
    rho, damping = J @ plain - 1.0, 1e-2 / 3
    expected = np.linalg.solve(J.T @ J + damping * np.eye(5), -J.T @ rho + damping * 0.5 * before["step"])
    np.testing.assert_allclose(moved - plain, expected, rtol=1e-9)


def test_a_singular_system_is_damped_counted_and_left_behind() -> None:
    """Two equal columns at a damping below rounding: Cholesky fails until there is enough damping."""
    column = np.random.default_rng(2).normal(size=(6, 1))
    J = np.hstack([column, -column])
    linear = problem(lambda x: J @ x - 1.0, lambda x: J)
    x, state, losses, _ = run(TRUST, linear, np.zeros(2), 3, damping=1e-22)
    best = np.linalg.lstsq(J, np.ones(6), rcond=None)[0]
    np.testing.assert_allclose(losses[-1], np.sum((J @ best - 1) ** 2), rtol=1e-9)
    iterations, evaluations, resets, failures = state["counts"]
    assert resets >= 1 and failures == 0 and evaluations > 2 * iterations + 3
    assert np.isfinite(x).all()


@pytest.mark.parametrize("step", ["trust", "line_search"])
def test_a_wrong_jacobian_stalls_with_the_reason_and_moves_nothing(step: Any) -> None:
    wrong = problem(valley, lambda x: -slopes_of_the_valley(x))
    stage = GaussNewton(steps=1, step=step, trials=5)
    x, state, losses, ended = run(stage, wrong, np.array([0.5, 0.5]), 10)
    assert ended == quasi.UNDAMPED and "stalled" in quasi.WHY[ended]
    np.testing.assert_array_equal(x, [0.5, 0.5])
    assert state["counts"][3] == len(losses) == 2


def test_what_is_not_finite_is_told_and_reaches_no_parameter() -> None:
    bad = problem(lambda x: valley(x) / np.where(x[0] > 0, 1.0, np.nan), slopes_of_the_valley)
    x, _, _, ended = run(TRUST, bad, np.array([-1.0, 1.0]), 3)
    assert ended == quasi.NOT_FINITE
    np.testing.assert_array_equal(x, [-1.0, 1.0])
    cliff = problem(lambda x: valley(x) if x[0] < 0.9 else valley(x) * np.nan, slopes_of_the_valley)
    x, _, losses, _ = run(TRUST, cliff, np.array([-1.2, 1.0]), 30)
    assert np.isfinite(x).all() and losses[-1] < 0.2, "a wall of NaN is damped away from"


def test_the_solver_is_chosen_by_residuals_and_parameters() -> None:
    auto = [solving.chosen(TRUST, rows, n) for rows, n in ((100, 900), (4000, 900), (100_000, 50_000), (600, 50_000))]
    assert auto == ["samples", "dense", "cg", "samples"]
    for solver, rows, n in (("dense", 10, 30_000), ("samples", 30_000, 10)):
        with pytest.raises(UserError, match=r"30,000 x 30,000 numbers \(7\.2 GB\).*`solver: cg`.*`kind: lbfgs`"):
            solving.chosen(GaussNewton(steps=1, solver=solver), rows, n)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["compute", "precision"])
def test_it_needs_double_precision(field: str) -> None:
    value = {"compute": "bfloat16", "precision": "float32"}[field]
    with pytest.raises(ValueError, match="which `compute: bfloat16` does not have|gauss_newton needs float64"):
        GaussNewton.model_validate({"kind": "gauss_newton", "steps": 5, field: value})
