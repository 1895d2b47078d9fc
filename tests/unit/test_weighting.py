"""Weightings: the published formulas, bounds that hold whatever is seen, and states that are plain JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from backends import randomness
from backends.errors import UserError
from backends.weighting import (
    DualAscent,
    FixedWeights,
    GradientNorms,
    GradNorm,
    GramWeights,
    InverseDirichlet,
    LearningRateAnnealing,
    NtkWeights,
    ReLoBRaLo,
    ScheduledWeights,
    SoftAdapt,
    Weighting,
    WeightsSpec,
    check,
)

TERMS = ("pde", "ic", "bc")
ADAPTIVE = (
    GradientNorms(),
    ReLoBRaLo(),
    SoftAdapt(),
    LearningRateAnnealing(),
    InverseDirichlet(),
    NtkWeights(),
    GramWeights(),
    GramWeights(objective="equal_rates"),
    GradNorm(),
    DualAscent(tolerances={"bc": 0.5, "ic": 1e-3}, growth=2.0),
)
SEEN = ("losses", "grad_norms", "grad_max", "grad_mean_abs", "grad_std", "ntk/64")


def seen(values: Any) -> dict[str, Any]:
    """Every statistic with these values; gradients at 60 degrees to each other."""
    row = np.array(values, dtype=float)
    with np.errstate(all="ignore"):
        gram = np.outer(row, row) * (0.5 + 0.5 * np.eye(len(row)))
    return {**dict.fromkeys(SEEN, row), "gram": gram}


def after(spec: Any, *values: Any, seed: int = 0, terms: Any = TERMS) -> dict[str, float]:
    """The weights after the strategy has seen these, one per update."""
    weighting = Weighting.of(spec, terms[: len(values[0])], seed)
    for i, row in enumerate(values):
        weighting.update(100 * (i + 1), seen(row))
    return weighting.weights


# --- what they compute ---


def test_fixed_weights_are_those_of_the_file_and_one_elsewhere() -> None:
    weighting = Weighting.of(FixedWeights(values={"bc": 10, "ic": 0}), TERMS, 0)
    assert weighting.weights == {"pde": 1.0, "ic": 0.0, "bc": 10.0}
    assert weighting.update(100, {}) == weighting.weights
    assert weighting.every is None and weighting.needs == frozenset()


def test_gradient_norms_balance_as_in_the_paper_after_smoothing() -> None:
    norms = np.array([4.0, 1.0, 1.0])
    weights = after(GradientNorms(alpha=0.9), norms)
    np.testing.assert_allclose(list(weights.values()), 0.9 * 1 + 0.1 * norms.mean() / norms)


def test_without_smoothing_all_weighted_gradients_are_equally_long_and_their_sum_stays() -> None:
    norms = np.array([30.0, 0.2, 5.0])
    weighted = np.array(list(after(GradientNorms(alpha=0.0), norms).values())) * norms
    np.testing.assert_allclose(weighted, weighted[0])
    assert weighted.sum() == pytest.approx(norms.sum())


def test_equal_gradients_have_the_weight_one() -> None:
    assert after(GradientNorms(alpha=0.0), [3.0, 3.0, 3.0]) == dict.fromkeys(TERMS, 1.0)


def test_the_moving_average_starts_from_the_values_of_the_file() -> None:
    weights = after(GradientNorms(alpha=0.5, values={"bc": 9.0}), [1.0, 1.0, 1.0])
    assert weights == {"pde": 1.0, "ic": 1.0, "bc": 5.0}


def relobralo_by_hand(losses: list[list[float]], spec: ReLoBRaLo, seed: int) -> np.ndarray:
    """The paper's equations, written out."""

    def balanced(now: list[float], then: list[float]) -> np.ndarray:
        grown = np.exp(np.array(now) / (spec.temperature * np.array(then)))
        return len(now) * grown / grown.sum()

    weights = np.ones(len(losses[0]))
    for t in range(1, len(losses)):
        keep = randomness.generator(seed, "relobralo", 100 * (t + 1)).random() < spec.beta
        history = weights if keep else balanced(losses[t], losses[0])
        weights = spec.alpha * history + (1 - spec.alpha) * balanced(losses[t], losses[t - 1])
    return weights


@pytest.mark.parametrize("seed", range(5))
def test_relobralo_follows_the_papers_equations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.normal(size=(12, 3))).tolist()
    spec = ReLoBRaLo(alpha=0.7, beta=0.5, temperature=1.0)
    np.testing.assert_allclose(
        list(after(spec, *losses, seed=seed).values()), relobralo_by_hand(losses, spec, seed), rtol=1e-12
    )


def test_relobralo_gives_more_weight_to_the_term_that_fell_least() -> None:
    weights = after(ReLoBRaLo(), [1.0, 100.0, 1.0], [0.9, 10.0, 0.1])
    assert weights["pde"] > weights["ic"] == pytest.approx(weights["bc"], rel=1e-6)


def test_relobralo_keeps_the_sum_of_the_weights() -> None:
    rng = np.random.default_rng(3)
    weights = after(ReLoBRaLo(temperature=1.0), *np.exp(rng.normal(size=(20, 3))))
    assert sum(weights.values()) == pytest.approx(3.0)


def test_relobralos_lookback_depends_on_seed_and_step_alone() -> None:
    losses = [[1.0, 1.0, 1.0], [0.5, 0.9, 0.1], [0.2, 0.8, 0.05], [0.1, 0.9, 0.01]]
    spec = ReLoBRaLo(beta=0.5)
    runs = [tuple(after(spec, *losses, seed=seed).values()) for seed in range(20)]
    assert runs == [tuple(after(spec, *losses, seed=seed).values()) for seed in range(20)]
    assert len(set(runs)) > 1, "the seed matters"


# --- what they must survive ---


@pytest.mark.parametrize("spec", ADAPTIVE, ids=lambda s: s.kind)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_something_not_finite_leaves_weights_and_state_as_they_are(spec: Any, bad: float) -> None:
    weighting = Weighting.of(spec, TERMS, 0)
    weighting.update(100, seen([1.0, 2.0, 3.0]))
    weighting.update(200, seen([1.0, 3.0, 2.0]))
    before, state = weighting.weights, weighting.state()
    assert weighting.update(300, seen([1.0, bad, 1.0])) == before
    assert weighting.state() == state


def test_a_gradient_that_vanishes_drives_its_weight_to_the_bound_and_no_further() -> None:
    history = [[1.0, 10.0**-k, 1.0] for k in range(0, 320, 4)]
    weights = after(GradientNorms(high=50.0), *history)
    assert weights["ic"] == pytest.approx(50.0, rel=1e-2) and weights["ic"] <= 50.0
    assert 0.5 < weights["pde"] < 1.0


def test_a_gradient_that_is_exactly_zero_keeps_its_weight_and_the_others_balance_without_it() -> None:
    weights = after(GradientNorms(alpha=0.0, values={"ic": 7.0}), [2.0, 0.0, 4.0])
    assert weights == {"pde": 1.5, "ic": 7.0, "bc": 0.75}
    assert after(GradientNorms(alpha=0.0), [0.0, 0.0, 0.0]) == dict.fromkeys(TERMS, 1.0)


def test_one_exploding_gradient_pushes_its_weight_to_the_lower_bound() -> None:
    assert after(GradientNorms(alpha=0.0), [1e300, 1.0, 1.0]) == {"pde": 1e3 / 3 * 1e-3, "ic": 1e3, "bc": 1e3}


def test_a_term_of_exactly_zero_counts_as_unchanged_for_relobralo() -> None:
    weights = after(ReLoBRaLo(), [1.0, 0.0, 1.0], [1.0, 5.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert all(np.isfinite(w) and w > 0 for w in weights.values())
    assert after(ReLoBRaLo(), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == dict.fromkeys(TERMS, 1.0)


def test_equal_losses_leave_relobralo_at_one() -> None:
    weights = after(ReLoBRaLo(), *[[0.3, 0.3, 0.3]] * 5)
    np.testing.assert_allclose(list(weights.values()), 1.0)


def test_one_term_alone_keeps_the_weight_one() -> None:
    for spec in ADAPTIVE:
        if spec.kind != "dual_ascent":  # whose constraints are other terms
            assert after(spec, [3.0], [2.0], [1e-9], terms=("only",)) == {"only": pytest.approx(1.0)}


SIZES = st.one_of(
    st.just(0.0), st.floats(0, 1e308), st.floats(1e-320, 1e-200), st.sampled_from([np.nan, np.inf, 5e-324, -1.0])
)


@settings(max_examples=200, deadline=None)
@given(
    spec=st.one_of(
        st.builds(GradientNorms, alpha=st.floats(0, 0.999)),
        st.builds(ReLoBRaLo, alpha=st.floats(0, 0.999), beta=st.floats(0, 1), temperature=st.floats(1e-3, 10)),
        st.builds(SoftAdapt, beta=st.floats(-1e9, 1e9), normalized=st.booleans(), loss_weighted=st.booleans()),
        st.builds(LearningRateAnnealing, alpha=st.floats(0, 0.999), reference=st.sampled_from([None, *TERMS])),
        st.builds(InverseDirichlet, alpha=st.floats(0, 0.999)),
        st.builds(NtkWeights, alpha=st.floats(0, 0.999)),
        st.builds(GramWeights, alpha=st.floats(0, 0.999), objective=st.sampled_from(["min_norm", "equal_rates"])),
        st.builds(GradNorm, alpha=st.floats(0, 10), rate=st.floats(1e-3, 1e3)),
        st.builds(
            DualAscent,
            tolerances=st.fixed_dictionaries({"bc": st.floats(0, 1e300)}, optional={"ic": st.floats(0, 1)}),
            rho=st.floats(1e-6, 1e4),
            growth=st.floats(1, 1e6),
        ),
    ),
    history=st.lists(st.lists(SIZES, min_size=3, max_size=3), min_size=1, max_size=8),
)  # fmt: skip
def test_no_weight_ever_leaves_its_bounds_and_the_state_stays_json(spec: Any, history: list[list[float]]) -> None:
    weighting = Weighting.of(spec, TERMS, 1)
    for i, row in enumerate(history):
        weights = weighting.update(i, seen(row))
        assert list(weights) == list(TERMS)
        assert all(spec.low <= w <= spec.high for w in weights.values())
        assert weights == weighting.weights
    assert json.loads(json.dumps(weighting.state(), allow_nan=False)) == weighting.state()


# --- checkpoints ---


@pytest.mark.parametrize("spec", [FixedWeights(values={"bc": 3}), *ADAPTIVE], ids=lambda s: s.kind)
def test_going_on_from_a_saved_state_gives_the_same_weights(spec: Any) -> None:
    rng = np.random.default_rng(0)
    history = np.exp(rng.normal(size=(10, 3)))
    whole, part = Weighting.of(spec, TERMS, 4), Weighting.of(spec, TERMS, 4)
    for i, row in enumerate(history):
        if i == 6:
            kept = json.loads(json.dumps(part.state()))
            part = Weighting.of(spec, TERMS, 4)
            part.load(kept)
        whole.update(100 * i, seen(row))
        part.update(100 * i, seen(row))
    assert whole.weights == part.weights and whole.state() == part.state()


@pytest.mark.parametrize("spec", ADAPTIVE, ids=lambda s: s.kind)
def test_update_is_pure(spec: Any) -> None:
    state, _ = spec.update(spec.init(TERMS), step=0, seen=seen([1.0, 2.0, 3.0]), seed=0)
    before = json.dumps(state)
    first = spec.update(state, step=1, seen=seen([3.0, 2.0, 1.0]), seed=0)
    assert spec.update(state, step=1, seen=seen([3.0, 2.0, 1.0]), seed=0) == first
    assert json.dumps(state) == before


def test_the_weights_of_other_terms_are_refused() -> None:
    weighting = Weighting.of(ReLoBRaLo(), TERMS, 0)
    with pytest.raises(UserError, match="pde, data, this task trains pde, ic, bc"):
        weighting.load(ReLoBRaLo().init(("pde", "data")))


# --- what the file may say ---


def test_a_weight_for_an_unknown_term_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'bcs' is not a loss term.*did you mean 'bc'") as caught:
        check(GradientNorms(values={"bcs": 1.0}), TERMS)
    assert caught.value.path == "weights.values.bcs"


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        check(FixedWeights(values={"pde": 0, "ic": 0.0, "bc": 0}), TERMS)
    check(FixedWeights(values={"pde": 0, "ic": 0}), TERMS)


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "fixed", "values": {"pde": -1}},
        {"kind": "fixed", "values": {"pde": True}},
        {"kind": "fixed", "values": {"pde": "1"}},
        {"kind": "fixed", "values": {"pde": float("nan")}},
        {"kind": "fixed", "every": 10},
        {"kind": "gradient_norms", "alpha": 1.0},
        {"kind": "gradient_norms", "every": 0},
        {"kind": "gradient_norms", "low": 2.0, "high": 1.0},
        {"kind": "gradient_norms", "values": {"pde": 0.0}},
        {"kind": "relobralo", "temperature": 0},
        {"kind": "relobralo", "beta": 1.5},
        {"kind": "softadapt", "beta": float("inf")},
        {"kind": "annealing", "reference": 3},
        {"kind": "inverse_dirichlet", "alpha": -0.1},
        {"kind": "schedule"},
        {"kind": "schedule", "terms": {}},
        {"kind": "schedule", "terms": {"pde": {"kind": "linear", "start": 1, "end": 2}}},
        {"kind": "schedule", "terms": {"pde": {"kind": "linear", "start": -1, "end": 2, "steps": 3}}},
        {"kind": "schedule", "terms": {"pde": {"kind": "exponential", "start": 0, "end": 2, "steps": 3}}},
        {"kind": "schedule", "terms": {"pde": {"kind": "step", "start": 0, "end": 2, "milestones": [4, 4]}}},
        {"kind": "schedule", "terms": {"pde": {"kind": "step", "start": 0, "end": 2, "milestones": []}}},
        {"kind": "schedule", "values": {"pde": 1}, "terms": {"pde": {"kind": "step", "start": 0, "end": 2,
                                                                  "milestones": [4]}}},
        {"kind": "gradnorms"},
        {"kind": "gradnorm", "rate": 0},
        {"kind": "gradnorm", "alpha": -1},
        {"kind": "ntk", "samples": 0},
        {"kind": "gram", "objective": "qubo"},
        {"kind": "dual_ascent"},
        {"kind": "dual_ascent", "tolerances": {}},
        {"kind": "dual_ascent", "tolerances": {"bc": -1e-3}},
        {"kind": "dual_ascent", "tolerances": {"bc": True}},
        {"kind": "dual_ascent", "tolerances": {"bc": 1}, "growth": 0.5},
        {"kind": "dual_ascent", "tolerances": {"bc": 1}, "rho": 10, "rho_high": 1},
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(WeightsSpec).validate_python(tree)


def test_every_kind_is_read_by_its_name() -> None:
    kinds = {
        "fixed": FixedWeights,
        "gradient_norms": GradientNorms,
        "relobralo": ReLoBRaLo,
        "softadapt": SoftAdapt,
        "annealing": LearningRateAnnealing,
        "inverse_dirichlet": InverseDirichlet,
        "ntk": NtkWeights,
        "gram": GramWeights,
        "gradnorm": GradNorm,
    }
    for kind, cls in kinds.items():
        assert type(TypeAdapter(WeightsSpec).validate_python({"kind": kind, "values": {"pde": 2}})) is cls
    terms = {"pde": {"kind": "linear", "start": 1, "end": 2, "steps": 3}}
    assert type(TypeAdapter(WeightsSpec).validate_python({"kind": "schedule", "terms": terms})) is ScheduledWeights
    read = TypeAdapter(WeightsSpec).validate_python({"kind": "dual_ascent", "tolerances": {"bc": 1e-4}})
    assert type(read) is DualAscent
