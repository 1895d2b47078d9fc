"""Quasi-Newton stages: their formulas, what they converge to, and what they do when the ground gives way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends import quasi
from backends.errors import UserError
from backends.ops import NumpyOps
from backends.quasi import broyden, lbfgs
from backends.stages import Lbfgs, SsBroyden, dense

OPS = NumpyOps()
Vector = NDArray[np.float64]
BROYDEN, LBFGS = SsBroyden(steps=1), Lbfgs(steps=1, memory=8)
STAGES = pytest.mark.parametrize("stage", [BROYDEN, LBFGS], ids=["ssbroyden", "lbfgs"])
KEEP, DROP = np.array(True), np.array(False)


class Counted:
    """A function of loss and gradient that counts its calls."""

    def __init__(self, function: Callable[[Vector], tuple[Any, Vector]]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Vector) -> tuple[Vector, Any, Vector]:
        self.calls += 1
        f, g = self.function(x)
        return np.asarray([f], x.dtype), np.asarray(f, x.dtype), np.asarray(g, x.dtype)


def rosenbrock(x: Vector) -> tuple[Any, Vector]:
    d, g = x[1:] - x[:-1] ** 2, np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * d - 2 * (1 - x[:-1])
    g[1:] += 200 * d
    return np.sum(100 * d**2 + (1 - x[:-1]) ** 2), g


def bowl(n: int, condition: float, seed: int = 0) -> Callable[[Vector], tuple[Any, Vector]]:
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    A = (q * np.geomspace(1, condition, n)) @ q.T
    return lambda x: (0.5 * x @ A @ x, A @ x)


def minimise(
    stage: Lbfgs | SsBroyden, vg: Callable[..., Any], x: Vector, steps: int, below: float = 0.0
) -> tuple[Vector, dict[str, Any], int, int]:
    """(x, state, iterations, code) after at most `steps` iterations."""
    state, key = quasi.init(stage, OPS, x, 1, 1), np.zeros(1, x.dtype)
    for i in range(steps):
        x, state, losses, _, ended = quasi.iteration(stage, OPS, vg, x, state, key)
        if ended or losses[0] <= below:
            return x, state, i + 1, int(ended)
    return x, state, steps, 0


# --- formulas -----------------------------------------------------------------------------------------------------


def pair(seed: int, n: int, nonlinear: float) -> tuple[Vector, Vector, Vector, Vector, float]:
    """(H, g, s, y, alpha) with H positive definite, s = -alpha H g and y's > 0."""
    rng = np.random.default_rng(seed)
    root, other = rng.normal(size=(2, n, n))
    H, B = root @ root.T + 0.1 * np.eye(n), other @ other.T + 0.1 * np.eye(n)
    g, alpha = rng.normal(size=n), float(rng.uniform(0.1, 2))
    s = -alpha * H @ g
    y = B @ s + nonlinear * rng.normal(size=n)
    return (H + H.T) / 2, g, s, y if y @ s > 0 else -y, alpha


def plain_broyden(H: Vector, g: Vector, s: Vector, y: Vector, alpha: float) -> Vector:
    """The formulas as the papers print them."""
    n, Hy = len(s), H @ y
    rho = 1 / (y @ s)
    h, b = rho * y @ Hy, -alpha * rho * s @ g
    a = b * h - 1
    c = np.sqrt(abs(a) / (1 + a))
    rho_minus = min(1, h * (1 - c))
    theta_minus, theta_plus = (rho_minus - 1) / a, 1 / rho_minus
    theta = max(theta_minus, min(theta_plus, (1 - b) / b))
    sigma = 1 + theta * a
    sigma_n, r = abs(sigma) ** (1 / (1 - n)), min(1, 1 / b)
    tau = min(r * sigma_n, sigma) if theta <= 0 else r * min(sigma_n, 1 / theta)
    phi, v = (1 - theta) / (1 + a * theta), rho * s - Hy / (y @ Hy)
    return (H - np.outer(Hy, Hy) / (y @ Hy) + phi * (y @ Hy) * np.outer(v, v)) / tau + rho * np.outer(s, s)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0, 3))
def test_self_scaled_broyden_is_the_published_formula_and_keeps_h_symmetric_and_positive(
    seed: int, n: int, nonlinear: float
) -> None:
    H, g, s, y, alpha = pair(seed, n, nonlinear)
    after = broyden.update(OPS, {"H": H, "g": g}, s, y, np.asarray(alpha), KEEP)["H"]
    np.testing.assert_allclose(after, plain_broyden(H, g, s, y, alpha), rtol=1e-6, atol=1e-8 * np.abs(after).max())
    np.testing.assert_array_equal(after, after.T)
    assert np.linalg.eigvalsh(after).min() > 0
    np.testing.assert_allclose(after @ y, s, rtol=1e-6, atol=1e-7 * np.linalg.norm(s))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_with_phi_and_tau_one_the_update_is_that_of_bfgs(seed: int, n: int) -> None:
    H, g, s, y, alpha = pair(seed, n, 1.0)
    rho, unit = 1 / (y @ s), np.eye(n)
    expected = (unit - rho * np.outer(s, y)) @ H @ (unit - rho * np.outer(y, s)) + rho * np.outer(s, s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broyden, "coefficients", lambda *_: (np.asarray(1.0), np.asarray(1.0)))
        after = broyden.update(OPS, {"H": H, "g": g}, s, y, np.asarray(alpha), KEEP)["H"]
    np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def two_loop(S: list[Vector], Y: list[Vector], g: Vector) -> Vector:
    """Algorithm 7.4 of Nocedal and Wright."""
    q, steps = g.copy(), []
    for s, y in reversed(list(zip(S, Y, strict=True))):
        a = s @ q / (y @ s)
        q -= a * y
        steps.append(a)
    q *= S[-1] @ Y[-1] / (Y[-1] @ Y[-1])
    for s, y, a in zip(S, Y, reversed(steps), strict=True):
        q += s * (a - y @ q / (y @ s))
    return q


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_compact_lbfgs_is_the_two_loop_recursion_before_and_after_the_memory_is_full(
    seed: int, pairs: int, memory: int
) -> None:
    rng, n = np.random.default_rng(seed), 15
    A = bowl(n, 100.0, seed % 1000)
    state, S, Y = lbfgs.init(OPS, np.zeros(n), memory), [], []
    for _ in range(pairs):
        s = rng.normal(size=n)
        y = A(s)[1] + 0.01 * rng.normal(size=n)
        state = lbfgs.update(OPS, state, s, y, np.ones(()), KEEP)
        if y @ s > 0:
            S, Y = [*S, s][-memory:], [*Y, y][-memory:]
    g = rng.normal(size=n)
    expected = two_loop(S, Y, g) if S else g
    np.testing.assert_allclose(lbfgs.times(OPS, state, g), expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@STAGES
def test_a_pair_without_positive_curvature_leaves_h_as_it_is_and_a_dropped_h_is_the_unit_matrix(stage: Any) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 6))
    state = quasi.init(stage, OPS, x, 1, 1) | {"g": g}
    s = rng.normal(size=6)
    state |= quasi.update(stage, OPS, state, s, 2 * s + 0.1 * g, np.ones(()), KEEP)
    before = quasi.direction(stage, OPS, state)[0]
    for y in (-s, 0 * s):
        after = quasi.update(stage, OPS, state, s, y, np.ones(()), KEEP)
        assert all(np.array_equal(after[k], state[k]) for k in after)
    dropped = state | quasi.update(stage, OPS, state, 0 * s, 0 * s, np.zeros(()), DROP)
    np.testing.assert_array_equal(quasi.direction(stage, OPS, dropped)[0], -g)
    assert not np.allclose(before, -g)


# --- convergence --------------------------------------------------------------------------------------------------


@STAGES
@pytest.mark.parametrize(("n", "most"), [(2, 60), (20, 250)])
def test_rosenbrocks_valley_is_walked_to_its_end(stage: Any, n: int, most: int) -> None:
    vg = Counted(rosenbrock)
    x, _, steps, _ = minimise(stage, vg, np.tile([-1.2, 1.0], n // 2), most, 1e-18)
    np.testing.assert_allclose(x, 1.0, atol=1e-8)
    assert steps < most
    assert vg.calls < 1.5 * steps + 5


@pytest.mark.parametrize("stage", [BROYDEN, Lbfgs(steps=1, memory=30)], ids=["ssbroyden", "lbfgs"])
def test_a_quadratic_bowl_takes_a_few_steps_per_dimension(stage: Any) -> None:
    x, _, steps, _ = minimise(stage, Counted(bowl(10, 1e3)), np.ones(10), 100, 1e-24)
    assert np.abs(x).max() < 1e-10
    assert steps < 60


@STAGES
def test_turning_the_coordinates_turns_the_path(stage: Any) -> None:
    f = bowl(6, 50.0)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    straight, _, _, _ = minimise(stage, Counted(f), np.ones(6), 8)
    turned, _, _, _ = minimise(stage, Counted(lambda z: (f(q @ z)[0], q.T @ f(q @ z)[1])), q.T @ np.ones(6), 8)
    np.testing.assert_allclose(q @ turned, straight, rtol=1e-6, atol=1e-10)


@STAGES
def test_every_iteration_lowers_the_loss_and_reports_what_it_evaluated(stage: Any) -> None:
    vg, x = Counted(rosenbrock), np.array([-1.2, 1.0, -0.5, 2.0])
    state, key, before, evaluations = quasi.init(stage, OPS, x, 1, 1), np.zeros(1), np.inf, 0
    for _ in range(30):
        x, state, losses, count, _ = quasi.iteration(stage, OPS, vg, x, state, key)
        assert losses[0] < before
        assert losses[0] == state["f"] == rosenbrock(x)[0]
        np.testing.assert_array_equal(state["g"], rosenbrock(x)[1])
        before, evaluations = losses[0], evaluations + int(count)
    assert vg.calls == evaluations


def test_lbfgs_in_float32_goes_to_the_resolution_of_its_numbers_and_stays_float32() -> None:
    stage = Lbfgs(steps=1, memory=10)
    x, state, _, code = minimise(stage, Counted(rosenbrock), np.full(10, -0.3, np.float32), 500)
    assert code in (quasi.CONVERGED, quasi.STALLED)
    np.testing.assert_allclose(x, 1.0, atol=2e-3)
    assert x.dtype == np.float32
    assert {v.dtype for v in state.values()} == {np.dtype(np.float32)}


# --- when the ground gives way ------------------------------------------------------------------------------------


@STAGES
def test_new_points_make_stored_values_stale_and_keep_h(stage: Any) -> None:
    """The same H, f and g recomputed, and the full quasi-Newton step tried first."""
    scale, x = [1.0], np.array([-1.2, 1.0, 0.3, 0.7])
    vg = Counted(lambda z: (scale[0] * rosenbrock(z)[0], scale[0] * rosenbrock(z)[1]))
    state = quasi.init(stage, OPS, x, 1, 2)
    for _ in range(12):
        x, state, _, _, _ = quasi.iteration(stage, OPS, vg, x, state, np.array([0.0, 1.0]))
    scale[0], calls = 3.0, vg.calls
    p = quasi.direction(stage, OPS, state | {"g": 3 * state["g"]})[0]
    seen: list[Vector] = []

    def noting(z: Vector) -> Any:
        seen.append(z)
        return vg(z)

    new, state, losses, count, _ = quasi.iteration(stage, OPS, noting, x, state, np.array([0.0, 3.0]))
    assert vg.calls - calls == int(count) >= 2
    np.testing.assert_array_equal(seen[0], x)
    np.testing.assert_allclose(seen[1], x + p)
    assert losses[0] == pytest.approx(3 * rosenbrock(new)[0])
    np.testing.assert_array_equal(state["key"], [0.0, 3.0])


@STAGES
def test_a_first_point_that_is_not_finite_ends_the_stage_and_moves_nothing(stage: Any) -> None:
    x = np.array([1.0, 2.0])
    vg = Counted(lambda z: (np.nan, z * np.nan))
    state = quasi.init(stage, OPS, x, 1, 1)
    for _ in range(2):
        after, state, losses, count, code = quasi.iteration(stage, OPS, vg, x, state, np.zeros(1))
        np.testing.assert_array_equal(after, x)
        assert (int(code), int(count)) == (quasi.NOT_FINITE, 1)
        assert np.isnan(losses[0])
    good = Counted(rosenbrock)
    after, state, _, _, code = quasi.iteration(stage, OPS, good, x, state, np.zeros(1))
    assert int(code) == quasi.GOING_ON
    assert all(np.isfinite(v).all() for v in state.values())
    assert rosenbrock(after)[0] < rosenbrock(x)[0]


@STAGES
def test_a_region_that_is_not_finite_is_kept_out_of(stage: Any) -> None:
    """The minimum of a barrier function: beyond its edge all is NaN."""

    def barrier(x: Vector) -> tuple[Any, Vector]:
        if (x >= 1).any():
            return np.nan, x * np.nan
        return np.sum(-np.log(1 - x)) + 50 * np.sum((x - 2) ** 2), 1 / (1 - x) + 100 * (x - 2)

    x, _, _, code = minimise(stage, Counted(barrier), np.array([-3.0, 0.0, 0.5]), 60)
    np.testing.assert_allclose(x, (3 - np.sqrt(1.04)) / 2, rtol=1e-6)
    assert code in (quasi.GOING_ON, quasi.CONVERGED, quasi.STALLED)


@STAGES
def test_a_search_that_fails_even_from_steepest_descent_ends_the_stage(stage: Any) -> None:
    """The gradient points the wrong way: no step descends."""
    vg, x = Counted(lambda z: (z @ z, -2 * z)), np.ones(3)
    state, codes = quasi.init(stage, OPS, x, 1, 1), []
    for _ in range(3):
        x, state, _, _, code = quasi.iteration(stage, OPS, vg, x, state, np.zeros(1))
        codes.append(int(code))
    assert codes == [quasi.GOING_ON, quasi.GOING_ON, quasi.STALLED]
    np.testing.assert_array_equal(x, 1.0)
    x, state, _, _, code = quasi.iteration(stage, OPS, vg, x, state, np.ones(1))
    assert int(code) == quasi.GOING_ON, "new points: a new chance"


@STAGES
def test_a_failed_search_resets_h_and_the_next_iteration_goes_on_from_steepest_descent(stage: Any) -> None:
    x, state, _, _ = minimise(stage, Counted(rosenbrock), np.array([-1.2, 1.0]), 10)
    lost = Counted(lambda z: (np.nan, z * np.nan))
    after, state, losses, _, code = quasi.iteration(stage, OPS, lost, x, state, np.zeros(1))
    assert (int(code), losses[0]) == (quasi.GOING_ON, rosenbrock(x)[0])
    np.testing.assert_array_equal(after, x)
    np.testing.assert_array_equal(quasi.direction(stage, OPS, state)[0], -state["g"])
    after, state, losses, _, code = quasi.iteration(stage, OPS, Counted(rosenbrock), x, state, np.zeros(1))
    assert losses[0] < rosenbrock(x)[0]


def test_a_direction_that_does_not_descend_is_replaced_and_h_starts_again() -> None:
    x = np.array([-1.2, 1.0])
    state = quasi.init(BROYDEN, OPS, x, 1, 1) | {"H": -np.eye(2), "fresh": np.zeros(())}
    after, state, losses, _, _ = quasi.iteration(BROYDEN, OPS, Counted(rosenbrock), x, state, np.zeros(1))
    assert losses[0] < rosenbrock(x)[0]
    np.testing.assert_allclose(after - x, -rosenbrock(x)[1] * (after - x)[0] / -rosenbrock(x)[1][0])
    assert np.linalg.eigvalsh(state["H"]).min() > 0


@STAGES
def test_a_gradient_below_the_tolerance_ends_the_stage_without_a_step(stage: Any) -> None:
    stage = stage.model_copy(update={"tolerance": 1e-3})
    x, state, _, code = minimise(stage, Counted(bowl(4, 10.0)), np.ones(4), 100)
    assert code == quasi.CONVERGED
    assert 1e-9 < np.abs(state["g"]).max() <= 1e-3
    again, state, _, count, code = quasi.iteration(stage, OPS, Counted(bowl(4, 10.0)), x, state, np.zeros(1))
    np.testing.assert_array_equal(again, x)
    assert (int(code), int(count)) == (quasi.CONVERGED, 0)
    assert "tolerance" in quasi.WHY[quasi.CONVERGED]


@STAGES
def test_an_iteration_after_a_restart_from_saved_arrays_is_the_same_to_the_last_bit(stage: Any) -> None:
    x, state, _, _ = minimise(stage, Counted(rosenbrock), np.array([-1.2, 1.0, 0.5]), 7)
    saved: Mapping[str, Any] = {k: np.array(v) for k, v in state.items()}
    one = quasi.iteration(stage, OPS, Counted(rosenbrock), x, state, np.zeros(1))
    two = quasi.iteration(stage, OPS, Counted(rosenbrock), x.copy(), saved, np.zeros(1))
    np.testing.assert_array_equal(one[0], two[0])
    assert all(np.array_equal(one[1][k], two[1][k]) for k in one[1])


@STAGES
def test_shapes_and_types_of_the_state_never_change(stage: Any) -> None:
    x = np.array([-1.2, 1.0, 0.5])
    state = quasi.init(stage, OPS, x, 1, 4)
    after = quasi.iteration(stage, OPS, Counted(rosenbrock), x, state, np.arange(4.0))[1]
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}


def test_too_many_parameters_for_a_dense_matrix_are_refused_with_the_memory_it_would_take() -> None:
    dense.refuse_too_large([BROYDEN, LBFGS], 20_000, 10**10)
    dense.refuse_too_large([LBFGS, SsBroyden(steps=1, memory=50)], 10_000_000, 10**9)
    with pytest.raises(UserError, match=r"100,000 x 100,000 numbers, 240\.0 GB .*at most 20,000.*`kind: lbfgs`"):
        dense.refuse_too_large([LBFGS, BROYDEN], 100_000, 10**12)
    with pytest.raises(UserError, match=r"this machine has 2\.0 GB\. Take `memory: 100`"):
        dense.refuse_too_large([BROYDEN], 10_000, 2 * 10**9)
    with pytest.raises(UserError, match="lbfgs"):
        quasi.init(BROYDEN, OPS, np.broadcast_to(np.zeros(1), 50_000), 1, 1)
