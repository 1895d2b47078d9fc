"""Learning rates: optax's numbers, no jumps, within bounds, and the same however the steps are dealt out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends.schedules import Constant, Cosine, Exponential, Schedule, rates
from backends.stages import Adam, Lbfgs, Sgd


def adam(schedule: Schedule, steps: int = 1000, lr: float = 0.02) -> Adam:
    return Adam(steps=steps, lr=lr, schedule=schedule)


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (Constant(), lambda o: o.constant_schedule(0.02)),
        (Constant(warmup=50), lambda o: o.warmup_constant_schedule(0.0, 0.02, 50)),
        (Cosine(), lambda o: o.cosine_decay_schedule(0.02, 1000)),
        (Cosine(final=0.1), lambda o: o.cosine_decay_schedule(0.02, 1000, alpha=0.1)),
        (Cosine(warmup=100, final=0.25), lambda o: o.warmup_cosine_decay_schedule(0.0, 0.02, 100, 1000, 0.005)),
        (Cosine(warmup=7, steps=600), lambda o: o.warmup_cosine_decay_schedule(0.0, 0.02, 7, 600, 0.0)),
        (Exponential(decay=0.5, every=100), lambda o: o.exponential_decay(0.02, 100, 0.5)),
        (
            Exponential(decay=0.9, every=37, warmup=20),
            lambda o: o.warmup_exponential_decay_schedule(0.0, 0.02, 20, 37, 0.9),
        ),
        (
            Exponential(decay=0.5, every=100, steps=300),
            lambda o: o.exponential_decay(0.02, 100, 0.5, end_value=0.0025),
        ),
    ],
)
def test_rates_are_those_of_optax(schedule: Schedule, reference: Any) -> None:
    optax = pytest.importorskip("optax")
    theirs = reference(optax)
    steps = np.arange(1001)
    # optax computes in float32 unless x64 is on.
    np.testing.assert_allclose(rates(adam(schedule), 0, 1001), theirs(steps) + 0 * steps, rtol=5e-5, atol=1e-9)


def test_the_first_step_of_a_warmup_has_the_rate_zero_and_the_last_the_full_one() -> None:
    row = rates(adam(Constant(warmup=10)), 0, 12)
    np.testing.assert_allclose(row[:10], 0.02 * np.arange(10) / 10)
    assert row[10] == row[11] == 0.02


def test_a_stage_that_is_trained_on_keeps_the_last_rate() -> None:
    """`resume --more` writes the old length into the schedule."""
    longer = rates(adam(Cosine(steps=1000, final=0.1), steps=1500), 0, 1500)
    np.testing.assert_array_equal(longer[:1000], rates(adam(Cosine(final=0.1), steps=1000), 0, 1000))
    assert set(longer[1000:]) == {longer[1000]} and longer[1000] == pytest.approx(0.002)


def test_a_stage_without_a_rate_is_refused() -> None:
    with pytest.raises(TypeError, match=r"lbfgs.*no learning rate"):
        rates(Lbfgs(steps=3), 0, 1)


SCHEDULES = st.one_of(
    st.builds(Constant, warmup=st.integers(0, 90)),
    st.builds(Cosine, warmup=st.integers(0, 90), steps=st.none() | st.integers(100, 500), final=st.floats(0, 1)),
    st.builds(
        Exponential,
        warmup=st.integers(0, 90),
        decay=st.floats(0.01, 1),
        every=st.integers(1, 1000),
        steps=st.none() | st.integers(100, 500),
    ),
)


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, st.integers(500, 3000), st.floats(1e-6, 10), st.integers(0, 600), st.integers(1, 200))
def test_rates_do_not_depend_on_how_the_steps_are_dealt_out(
    schedule: Schedule, steps: int, lr: float, cut: int, n: int
) -> None:
    whole = rates(Sgd(steps=steps, lr=lr, schedule=schedule), 0, cut + n)
    part = rates(Sgd(steps=steps, lr=lr, schedule=schedule), cut, n)
    np.testing.assert_array_equal(whole[cut:], part)


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, st.integers(500, 3000), st.floats(1e-6, 10))
def test_rates_stay_between_zero_and_the_stages_rate(schedule: Schedule, steps: int, lr: float) -> None:
    row = rates(Sgd(steps=steps, lr=lr, schedule=schedule), 0, steps + 50)
    assert row.dtype == np.float64 and row.shape == (steps + 50,)
    assert np.isfinite(row).all() and row.min() >= 0 and row.max() <= lr * (1 + 1e-15)
    after = row[schedule.warmup :]
    assert (np.diff(after) <= lr * 1e-15).all(), "after the warmup no rate rises"


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, st.integers(500, 3000))
def test_rates_have_no_jumps(schedule: Schedule, steps: int) -> None:
    """The largest change from one step to the next is that of the steepest of warmup, cosine and decay."""
    row = rates(Sgd(steps=steps, lr=1.0, schedule=schedule), 0, steps + 50)
    length = (getattr(schedule, "steps", None) or steps) - schedule.warmup
    steepest = [1 / schedule.warmup] if schedule.warmup else [0.0]
    if isinstance(schedule, Cosine):
        steepest.append(np.pi / 2 / length)
    if isinstance(schedule, Exponential):
        assume(schedule.every > 1)
        steepest.append(-np.log(schedule.decay) / schedule.every)
    assert np.abs(np.diff(row)).max() <= max(steepest) * (1 + 1e-9)
