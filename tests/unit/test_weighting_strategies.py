"""Each weighting against a direct evaluation of its paper's formula, and on the inputs that broke other systems."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from backends.errors import UserError
from backends.protocol import of_gradients
from backends.weighting import (
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
    check,
)

TERMS = ("pde", "ic", "bc")
WIDE = {"low": 1e-300, "high": 1e300}
NUMBERS = st.floats(1e-6, 1e6)
ROWS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6)
SLOPES = st.lists(st.lists(st.floats(-100, 100), min_size=5, max_size=5), min_size=3, max_size=3)


def weights_after(spec: Any, *seen: Any, terms: tuple[str, ...] = TERMS) -> list[float]:
    weighting = Weighting.of(spec, terms, 0)
    for i, row in enumerate(seen):
        weighting.update(100 * (i + 1), row if isinstance(row, dict) else {"losses": np.array(row)})
    return list(weighting.weights.values())


# --- the formulas ---


@given(ROWS, st.floats(-2, 2), st.booleans(), st.booleans())
def test_softadapt_follows_its_formula(rows: list[list[float]], beta: float, normalized: bool, loss_weighted: bool):
    spec = SoftAdapt(beta=beta / (1 if normalized else 1e6), normalized=normalized, loss_weighted=loss_weighted, **WIDE)
    expected = [1.0, 1.0, 1.0]
    for before, now in itertools.pairwise(rows):
        slopes = [b - a for a, b in zip(before, now)]
        if normalized and any(slopes):
            slopes = [s / sum(abs(t) for t in slopes) for s in slopes]
        shares = [(f if loss_weighted else 1.0) * math.exp(spec.beta * s) for f, s in zip(now, slopes)]
        expected = [3 * share / sum(shares) for share in shares]
    np.testing.assert_allclose(weights_after(spec, *rows), expected, rtol=1e-9)


@given(st.lists(SLOPES, min_size=1, max_size=4), st.floats(0, 0.95), st.sampled_from([None, *TERMS]))
def test_annealing_follows_algorithm_1(history: list[Any], alpha: float, reference: str | None):
    spec = LearningRateAnnealing(alpha=alpha, reference=reference, **WIDE)
    r = TERMS.index(reference or "pde")
    expected = [1.0, 1.0, 1.0]
    for rows in history:
        largest = max(abs(g) for g in rows[r])
        for i, row in enumerate(rows):
            mean = sum(abs(g) for g in row) / len(row)
            if i != r and mean > 0 and largest > 0:
                expected[i] = alpha * expected[i] + (1 - alpha) * min(max(largest / mean, 1e-300), 1e300)
    found = weights_after(spec, *[of_gradients(np.array(rows)) for rows in history])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(st.lists(SLOPES, min_size=1, max_size=4), st.floats(0, 0.95))
def test_inverse_dirichlet_follows_its_formula(history: list[Any], alpha: float):
    expected = [1.0, 1.0, 1.0]
    for rows in history:
        spread = []
        for row in rows:
            mean = math.fsum(row) / len(row)
            spread.append(math.sqrt(math.fsum((g - mean) ** 2 for g in row) / len(row)))
        if not max(spread) > 1e-6 or any(0 < s < 1e-6 for s in spread):
            return  # rounding decides
        for i, s in enumerate(spread):
            expected[i] = expected[i] if s == 0 else alpha * expected[i] + (1 - alpha) * max(spread) / s
    seen = [of_gradients(np.array(rows)) for rows in history]
    if any((s["grad_std"][i] > 0) != (len(set(rows[i])) > 1) for s, rows in zip(seen, history) for i in range(3)):
        return  # a row of equal numbers whose mean was rounded
    np.testing.assert_allclose(weights_after(InverseDirichlet(alpha=alpha, **WIDE), *seen), expected, rtol=1e-6)


def test_the_reference_of_annealing_is_the_first_term_unless_named():
    seen = {"grad_max": np.array([8.0, 2.0, 1.0]), "grad_mean_abs": np.array([4.0, 1.0, 0.5])}
    assert weights_after(LearningRateAnnealing(alpha=0.0), seen) == [1.0, 8.0, 16.0]
    assert weights_after(LearningRateAnnealing(alpha=0.0, reference="bc"), seen) == [0.25, 1.0, 1.0]
    with pytest.raises(UserError, match=r"'dpe' is not a loss term of this task.*did you mean 'pde'") as caught:
        check(LearningRateAnnealing(reference="dpe"), TERMS)
    assert caught.value.path == "weights.reference"


def test_softadapt_favours_the_term_that_falls_slowest_and_a_negative_beta_the_fastest():
    fell = [1.0, 1.0, 1.0], [0.9, 0.5, 0.1]
    assert weights_after(SoftAdapt(), *fell) == sorted(weights_after(SoftAdapt(), *fell), reverse=True)
    assert weights_after(SoftAdapt(beta=-0.1), *fell) == sorted(weights_after(SoftAdapt(beta=-0.1), *fell))


def test_softadapt_by_losses_keeps_its_weights_where_all_losses_are_zero():
    spec = SoftAdapt(loss_weighted=True)
    assert weights_after(spec, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]) == [1.0, 1.0, 1.0]


# --- schedules ---


def scheduled(**term: Any) -> ScheduledWeights:
    return TypeAdapter(ScheduledWeights).validate_python({"kind": "schedule", "terms": {"pde": term}})


def values(spec: ScheduledWeights, start: int, n: int) -> np.ndarray:
    (plan,) = Weighting.of(spec, TERMS, 0).plans
    assert plan.knob == "weight/pde"
    return plan.values(start, n)


@given(NUMBERS, NUMBERS, st.integers(0, 20), st.integers(1, 20), st.sampled_from(["linear", "exponential"]))
def test_a_schedule_follows_its_formula(a: float, b: float, begin: int, steps: int, kind: str):
    found = values(scheduled(kind=kind, start=a, end=b, begin=begin, steps=steps), 0, 50)
    t = [min(max((k - begin) / steps, 0), 1) for k in range(50)]
    expected = [a + (b - a) * s if kind == "linear" else a * (b / a) ** s for s in t]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * max(a, b) if kind == "linear" else 0)
    assert (found[: begin + 1] == a).all() and (found[begin + steps :] == b).all()


@given(st.floats(0, 10), st.floats(0, 10), st.sets(st.integers(1, 40), min_size=1, max_size=5))
def test_steps_add_equal_jumps_at_the_milestones(a: float, b: float, milestones: set[int]):
    found = values(scheduled(kind="step", start=a, end=b, milestones=sorted(milestones)), 0, 50)
    expected = [a + (b - a) / len(milestones) * sum(k >= m for m in milestones) for k in range(50)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert found[-1] == b


@given(st.integers(0, 60), st.integers(1, 20))
def test_a_schedule_is_a_function_of_the_step(start: int, n: int):
    spec = scheduled(kind="exponential", start=1, end=5, begin=10, steps=30)
    assert np.array_equal(values(spec, start, n), values(spec, 0, 80)[start : start + n])


def test_terms_without_a_schedule_keep_their_weight_and_unknown_ones_are_refused():
    spec = ScheduledWeights.model_validate(
        {"values": {"ic": 3}, "terms": {"pde": {"kind": "linear", "start": 0.1, "end": 1, "steps": 10}}}
    )
    assert Weighting.of(spec, TERMS, 0).weights == {"pde": 0.1, "ic": 3.0, "bc": 1.0}
    with pytest.raises(UserError, match="'pde' is not a loss term") as caught:
        check(spec, ("ic", "bc"))
    assert caught.value.path == "weights.terms.pde"


def test_schedules_that_all_begin_at_zero_leave_nothing_to_train_on():
    with pytest.raises(UserError, match="nothing to train on"):
        check(scheduled(kind="linear", start=0, end=1, steps=5), ("pde",))


# --- the inputs that broke other systems ---

ADAPTIVE = (
    GradientNorms(),
    ReLoBRaLo(),
    SoftAdapt(),
    SoftAdapt(normalized=False),
    SoftAdapt(loss_weighted=True),
    LearningRateAnnealing(),
    InverseDirichlet(),
    NtkWeights(),
    GramWeights(),
    GramWeights(objective="equal_rates"),
    GradNorm(),
)
"""All but dual ascent, whose constraints gain weight as long as they are violated: that is what they are for."""


def label(spec: Any) -> str:
    return spec.kind + "".join(f"-{k}" for k in sorted(spec.model_fields_set))


def shares(weights: Any) -> np.ndarray:
    return np.asarray(weights) / np.sum(weights)


def observed(losses: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What a probe would say of terms with these losses: gradients in proportion, none where a term is constant."""
    slopes = np.asarray(losses)[:, None] * rng.normal(size=(len(losses), 40))
    found = of_gradients(slopes)
    sizes = np.asarray(losses, dtype=float)
    kernel = found["grad_norms"] ** 2 / np.where(sizes > 0, sizes**2, 1.0)  # it does not depend on the loss
    return {"losses": sizes, "ntk/64": kernel, **found}


def opifex(violations: Any, rate: float, updates: int) -> np.ndarray:
    """Its adaptive constraint weights: multiplied by (1 + rate v / max v), then divided by their sum."""
    weights = np.full(len(violations), 1 / len(violations))
    for _ in range(updates):
        weights = weights * (1 + rate * np.asarray(violations) / np.max(violations))
        weights = weights / weights.sum()
    return weights


@pytest.mark.parametrize("spec", ADAPTIVE, ids=label)
def test_a_lasting_violation_does_not_take_all_the_weight(spec: Any):
    """Opifex: of two constraints with lasting violations the larger ends with 0.9999999 of the weight."""
    violations, updates = [1.0, 0.1], 200
    assert opifex(violations, 0.1, updates) == pytest.approx([1.0, 7e-8], rel=0.9)
    rng = np.random.default_rng(0)
    weighting = Weighting.of(spec, ("data", "energy"), 0)
    for i in range(updates):
        weighting.update(100 * (i + 1), observed(violations, rng))
        found = np.array(list(weighting.weights.values()))
        assert (found >= spec.low).all() and (found <= spec.high).all()
        assert shares(found).min() > 0.01, "every term stays alive"


def av_pino(history: np.ndarray) -> np.ndarray:
    """Its uncertainty weights: exp of the clipped inverse variance of the last ten losses, divided by their sum."""
    variance = np.maximum(history[-10:].var(axis=0), 1e-8)
    inverse = np.clip((variance.sum() / variance) / len(variance), 0.1, 10.0)
    return shares(np.exp(inverse))


@pytest.mark.parametrize("spec", ADAPTIVE, ids=label)
def test_constant_and_zero_terms_do_not_take_the_weight_of_the_data(spec: Any):
    """AV-PINO: beside a constant term and two that are zero the data term ends with 1.9e-5 of the weight."""
    data = np.exp(-0.05 * np.arange(10)) * (1 + 0.1 * np.sin(np.arange(10)))
    history = np.stack([data, np.full(10, 0.3), np.zeros(10), np.zeros(10)], axis=1)
    assert av_pino(history)[0] == pytest.approx(1.9e-5, rel=0.05)
    rng = np.random.default_rng(1)
    weighting = Weighting.of(spec, ("data", "physics", "consistency", "variational"), 0)
    for i, row in enumerate(np.tile(history, (20, 1))):
        seen = observed(row, rng)
        for name in seen.keys() - {"losses"}:
            seen[name][1:] = 0.0  # a constant has no gradient
        weighting.update(10 * (i + 1), seen)
        found = np.array(list(weighting.weights.values()))
        assert (found >= spec.low).all() and (found <= spec.high).all()
        alive = shares(found) if spec.kind != "softadapt" or not spec.loss_weighted else shares(found)[:2]
        assert alive.min() > 0.01 and shares(found)[0] > 0.01, "no term is lost, the data least of all"
