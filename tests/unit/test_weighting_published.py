"""NTK, Gram, GradNorm and dual ascent: their papers' equations and optimality conditions, evaluated directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends.errors import UserError
from backends.weighting import DualAscent, GradNorm, GramWeights, NtkWeights, Weighting, check
from backends.weighting.gram import equal_rates, gram_weights, normalised

TERMS = ("pde", "ic", "bc")
WIDE: dict[str, Any] = {"low": 1e-300, "high": 1e300}
POSITIVE = st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3)
SLOPES = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        (rng := np.random.default_rng(seed)).normal(size=(rng.integers(1, 6), 5))
        * 10.0 ** rng.uniform(-4, 4, size=(1, 1))
    )
)


def run(spec: Any, *seen: dict[str, Any], terms: tuple[str, ...] = TERMS) -> list[float]:
    """The weights after these updates."""
    weighting = Weighting.of(spec, terms, 0)
    for i, one in enumerate(seen):
        weighting.update(i, {name: np.asarray(value, float) for name, value in one.items()})
    return list(weighting.weights.values())


# --- NTK ---


@given(st.lists(POSITIVE, min_size=1, max_size=4), st.floats(0, 0.95))
def test_ntk_weights_follow_the_ratio_of_traces(rows: list[list[float]], alpha: float):
    expected = np.ones(3)
    for row in rows:
        expected = alpha * expected + (1 - alpha) * np.mean(row) / np.array(row)
    found = run(NtkWeights(alpha=alpha, samples=7, **WIDE), *[{"ntk/7": row} for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_kernel_of_zero_keeps_its_weight_and_does_not_count():
    assert run(NtkWeights(alpha=0.0, values={"ic": 7.0}), {"ntk/64": [2.0, 0.0, 4.0]}) == [1.5, 7.0, 0.75]


def test_ntk_weights_of_a_loss_that_is_no_residual_are_refused():
    with pytest.raises(UserError, match=r"'ntk' weighs residuals, and the term 'kl' is a loss") as caught:
        check(NtkWeights(), ("reconstruction", "kl"), losses=("kl",))
    assert caught.value.path == "weights.kind"
    check(GramWeights(), ("reconstruction", "kl"), losses=("kl",))


# --- the Gram matrix ---


@settings(deadline=None)
@given(SLOPES)
def test_the_program_is_solved_exactly(slopes: np.ndarray):
    """Karush, Kuhn, Tucker: at the minimum (C w)_k is the same for all weights above 0, and larger elsewhere."""
    gram = slopes @ slopes.T
    cosines, norms = normalised(gram)
    found = gram_weights(gram) * norms
    w = found / found.sum()
    pull = cosines @ w
    least = w @ pull
    assert (w >= 0).all() and (pull >= least - 1e-9).all()
    np.testing.assert_allclose(pull[w > 1e-9], least, atol=1e-9)
    assert (slopes @ (gram_weights(gram) @ slopes) >= -1e-9 * norms * norms.sum()).all(), "no term rises"


@settings(deadline=None)
@given(SLOPES, st.integers(0, 100))
def test_weighted_gradients_keep_the_sum_of_their_lengths(slopes: np.ndarray, seed: int):
    norms = np.linalg.norm(slopes, axis=1)
    losses = np.exp(np.random.default_rng(seed).normal(size=len(norms)))
    for weights in (gram_weights(slopes @ slopes.T), equal_rates(slopes @ slopes.T, losses)):
        np.testing.assert_allclose(weights @ norms, norms.sum(), rtol=1e-9)


@given(POSITIVE)
def test_orthogonal_gradients_become_equally_long(lengths: list[float]):
    np.testing.assert_allclose(gram_weights(np.diag(np.square(lengths))) * lengths, np.mean(lengths), rtol=1e-9)


@given(POSITIVE, POSITIVE)
def test_equal_rates_are_equal_where_gradients_do_not_conflict(lengths: list[float], losses: list[float]):
    """Orthogonal gradients: dL_j/dt = -w_j |g_j|^2 in proportion to L_j."""
    squares, values = np.square(lengths), np.array(losses)
    assume((values / lengths).max() / (values / lengths).min() < 1e6)
    rates = equal_rates(np.diag(squares), values) * squares / values
    np.testing.assert_allclose(rates, rates[0], rtol=1e-6)


def test_the_unit_of_a_term_does_not_change_its_share():
    slopes = np.random.default_rng(0).normal(size=(4, 9))
    scaled = slopes * np.array([[1.0], [1e3], [1e-3], [1.0]])
    shares = [w * np.linalg.norm(s, axis=1) for s in (slopes, scaled) for w in [gram_weights(s @ s.T)]]
    np.testing.assert_allclose(shares[0] / shares[0].sum(), shares[1] / shares[1].sum(), rtol=1e-9)


def test_gram_weights_move_by_the_moving_average_and_keep_terms_without_a_gradient():
    gram = np.diag([4.0, 0.0, 16.0])
    found = run(GramWeights(alpha=0.5, values={"ic": 7.0}), {"gram": gram, "losses": [1, 1, 1]})
    np.testing.assert_allclose(found, [0.5 + 0.5 * 1.5, 7.0, 0.5 + 0.5 * 0.75])
    rates = GramWeights(alpha=0.5, objective="equal_rates")
    assert run(rates, {"gram": np.eye(3), "losses": [1, 0, 1]}) == [1, 1, 1], "no rate of a loss of 0"


# --- GradNorm ---


@given(POSITIVE, st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3), st.floats(0, 2))
@settings(deadline=None)
def test_gradnorm_ends_where_weighted_gradients_follow_the_training_rates(
    norms: list[float], fallen: list[float], alpha: float
):
    first = {"losses": [3.0, 0.2, 1.0], "grad_norms": norms}
    later = {"losses": np.multiply(first["losses"], fallen), "grad_norms": norms}
    lengths = np.array(run(GradNorm(alpha=alpha, rate=3.0, **WIDE), first, *[later] * 200)) * norms
    relative = (np.array(fallen) / np.mean(fallen)) ** alpha
    np.testing.assert_allclose(lengths / lengths.sum(), relative / relative.sum(), rtol=1e-6)


def test_gradnorm_keeps_the_sum_of_the_weights_and_moves_at_most_by_its_rate():
    seen = {"losses": [1.0, 1.0, 1.0], "grad_norms": [100.0, 1.0, 1.0]}
    found = np.array(run(GradNorm(rate=0.1), seen))
    assert found.sum() == pytest.approx(3.0)
    np.testing.assert_allclose(found[1] / found[0], np.exp(0.2))


def test_a_term_that_started_at_zero_counts_as_falling_like_the_mean():
    seen = {"losses": [1.0, 0.0, 1.0], "grad_norms": [1.0, 1.0, 1.0]}
    assert run(GradNorm(), seen, {**seen, "losses": [0.5, 7.0, 0.5]}) == pytest.approx([1, 1, 1])


# --- dual ascent ---


def test_dual_ascent_finds_the_multiplier_of_a_constrained_minimum():
    """min (x - 2)^2 subject to x^2 <= 1/4: x = 1/2, and 2 (x - 2) + w 2 x = 0 there, so w = 3."""
    weighting = Weighting.of(DualAscent(tolerances={"c": 0.25}), ("f", "c"), 0)
    for step in range(200):
        x = 2 / (1 + weighting.weights["c"])  # the minimum at the present weights
        weighting.update(step, {"losses": np.array([(x - 2) ** 2, x**2])})
    assert weighting.weights == {"f": 1.0, "c": pytest.approx(3.0, abs=1e-9)}


def test_a_term_within_its_tolerance_loses_weight_down_to_the_bound():
    spec = DualAscent(tolerances={"bc": 0.5}, low=0.1, values={"bc": 1.0, "ic": 2.0})
    assert run(spec, {"losses": [1.0, 1.0, 0.3]}) == pytest.approx([1.0, 2.0, 0.8])
    assert run(spec, *[{"losses": [1.0, 1.0, 0.0]}] * 9) == pytest.approx([1.0, 2.0, 0.1])


def test_rho_grows_only_while_a_violation_does_not_fall():
    spec = DualAscent(tolerances={"bc": 0.0}, growth=10.0, rho_high=50.0)
    slow = [{"losses": [0, 0, v]} for v in (1.0, 0.9, 0.8, 0.7)]
    assert run(spec, *slow)[2] == pytest.approx(1 + 1.0 + 10 * 0.9 + 50 * 0.8 + 50 * 0.7)
    fast = [{"losses": [0, 0, v]} for v in (1.0, 0.2, 0.04)]
    assert run(spec, *fast)[2] == pytest.approx(1 + 1.24)


def test_a_lasting_violation_ends_at_the_bound():
    assert run(DualAscent(tolerances={"bc": 0.0}, high=20.0), *[{"losses": [1.0, 1.0, 3.0]}] * 50) == [1.0, 1.0, 20.0]


def test_a_tolerance_for_an_unknown_term_names_the_nearest():
    with pytest.raises(UserError, match=r"'bcs' is not a loss term.*did you mean 'bc'") as caught:
        check(DualAscent(tolerances={"bcs": 1e-3}), TERMS)
    assert caught.value.path == "weights.tolerances.bcs"
