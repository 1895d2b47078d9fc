"""Learning rates: optax's numbers, within bounds, without jumps, however the steps are dealt out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import backends
from backends.schedules import (
    Constant,
    Cosine,
    Cyclic,
    CyclicCosine,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    rates,
)
from backends.stages import Adam, Lbfgs, Sgd

LR, STAGE = 0.02, 800


def row(schedule: Any, steps: int = STAGE, lr: float = LR, n: int | None = None) -> Any:
    return rates(Adam(steps=steps, lr=lr, schedule=schedule), 0, steps + 50 if n is None else n)


WARMUP = st.integers(0, 90)
LENGTH = st.none() | st.integers(100, 500)
SHARE = st.floats(0, 1)
FACTOR = st.floats(0.01, 1)
PERIOD = st.integers(1, 300)
MILESTONES = st.sets(st.integers(91, 499), min_size=1, max_size=5).map(lambda found: tuple(sorted(found)))


def one_cycles(shape: str) -> st.SearchStrategy[OneCycle]:
    return st.builds(
        OneCycle,
        shape=st.just(shape),
        warmup=WARMUP,
        steps=LENGTH,
        rise=st.floats(0.05, 0.45),
        fall=st.floats(0.5, 0.95),
        start=st.floats(0.01, 1),
        final=st.floats(1e-6, 1),
    )


KINDS: dict[str, st.SearchStrategy[Any]] = {
    "constant": st.builds(Constant, warmup=WARMUP),
    "linear": st.builds(Linear, warmup=WARMUP, steps=LENGTH, final=SHARE),
    "polynomial": st.builds(Polynomial, warmup=WARMUP, steps=LENGTH, final=SHARE, power=st.floats(0.1, 5)),
    "cosine": st.builds(Cosine, warmup=WARMUP, steps=LENGTH, final=SHARE),
    "exponential": st.builds(
        Exponential, warmup=WARMUP, decay=FACTOR, every=st.integers(1, 1000), steps=LENGTH, final=SHARE
    ),
    "step": st.builds(Step, warmup=WARMUP, every=PERIOD, gamma=FACTOR, final=SHARE),
    "multistep": st.builds(MultiStep, warmup=WARMUP, milestones=MILESTONES, gamma=FACTOR, final=SHARE),
    "cyclic_cosine": st.builds(
        CyclicCosine, warmup=WARMUP, cycle=PERIOD, growth=st.floats(1, 3), shrink=FACTOR, final=SHARE
    ),
    "cyclic": st.builds(Cyclic, warmup=WARMUP, cycle=PERIOD, low=SHARE, shrink=FACTOR),
    "one_cycle": one_cycles("cosine") | one_cycles("linear"),
}
SCHEDULES = st.one_of(*KINDS.values())


def test_every_kind_is_tested() -> None:
    schema = TypeAdapter[Any](Schedule).json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(KINDS) == set(OPTAX) | {"cyclic"}


# --- agreement with optax ---


def length(s: Any) -> int:
    return (getattr(s, "steps", None) or STAGE) - s.warmup


def cosines(o: Any, s: CyclicCosine) -> Any:
    """Optax's `sgdr_schedule` of as many cycles as the stage holds."""
    lengths = [s.cycle]
    while sum(lengths) <= STAGE + 50:
        lengths.append(round(s.cycle * s.growth ** len(lengths)))
    tops = [max(LR * s.shrink**i, LR * s.final) for i in range(len(lengths))]
    return o.join_schedules(
        [
            o.cosine_decay_schedule(top, n, alpha=LR * s.final / top if top else 0)
            for top, n in zip(tops, lengths, strict=True)
        ],
        list(np.cumsum(lengths[:-1])),
    )


def one_cycle(o: Any, s: OneCycle) -> Any:
    import jax

    final = s.start / s.final
    if s.shape == "cosine":
        return jax.vmap(o.cosine_onecycle_schedule(length(s), LR, s.rise, 1 / s.start, final))
    return jax.vmap(o.linear_onecycle_schedule(length(s), LR, s.rise, s.fall, 1 / s.start, final))


def floored(schedule: Any, s: Any) -> Any:
    return lambda count: np.maximum(np.asarray(schedule(count)), LR * s.final)


def drops(o: Any, s: MultiStep) -> Any:
    return floored(o.piecewise_constant_schedule(LR, {m - s.warmup: s.gamma for m in s.milestones}), s)


OPTAX: dict[str, Callable[[Any, Any], Any]] = {
    "constant": lambda o, s: o.constant_schedule(LR),
    "linear": lambda o, s: o.linear_schedule(LR, LR * s.final, length(s)),
    "polynomial": lambda o, s: o.polynomial_schedule(LR, LR * s.final, s.power, length(s)),
    "cosine": lambda o, s: o.cosine_decay_schedule(LR, length(s), s.final),
    "exponential": lambda o, s: floored(
        lambda count: o.exponential_decay(LR, s.every, s.decay)(np.minimum(count, length(s))), s
    ),
    "step": lambda o, s: floored(o.exponential_decay(LR, s.every, s.gamma, staircase=True), s),
    "multistep": drops,
    "cyclic_cosine": cosines,
    "one_cycle": one_cycle,
}


@pytest.mark.parametrize("kind", OPTAX)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_rates_are_those_of_optax(kind: str, data: st.DataObject) -> None:
    optax = pytest.importorskip("optax")
    backends.load("jax")  # float64
    schedule = data.draw(KINDS[kind])
    theirs = OPTAX[kind](optax, schedule)
    steps = np.arange(schedule.warmup, STAGE)
    expected = np.asarray(theirs(steps - schedule.warmup), np.float64) + 0.0 * steps
    np.testing.assert_allclose(row(schedule, n=STAGE)[schedule.warmup :], expected, rtol=1e-12, atol=1e-12 * LR)
    if schedule.warmup:
        grown = optax.linear_schedule(0.0, float(expected[0]), schedule.warmup)(np.arange(schedule.warmup))
        np.testing.assert_allclose(row(schedule, n=schedule.warmup), grown, rtol=1e-12, atol=1e-12 * LR)


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (Cosine(warmup=100, final=0.25), lambda o: o.warmup_cosine_decay_schedule(0.0, LR, 100, STAGE, LR / 4)),
        (Cosine(warmup=7, steps=600), lambda o: o.warmup_cosine_decay_schedule(0.0, LR, 7, 600, 0.0)),
        (Constant(warmup=50), lambda o: o.warmup_constant_schedule(0.0, LR, 50)),
        (
            Exponential(decay=0.9, every=37, warmup=20),
            lambda o: o.warmup_exponential_decay_schedule(0.0, LR, 20, 37, 0.9),
        ),
        (
            CyclicCosine(cycle=100, growth=2.0, final=0.1),
            lambda o: o.sgdr_schedule(
                [
                    {
                        "init_value": LR, "peak_value": LR, "decay_steps": 100 * 2**i, "warmup_steps": 0,
                        "end_value": LR / 10,
                    }
                    for i in range(4)
                ]
            ),
        ),
    ],
    ids=lambda v: getattr(v, "kind", ""),
)  # fmt: skip
def test_rates_are_those_of_optaxs_own_schedules_with_warmup(schedule: Any, reference: Any) -> None:
    optax = pytest.importorskip("optax")
    backends.load("jax")
    steps = np.arange(STAGE)
    expected = np.asarray(reference(optax)(steps)) + 0.0 * steps
    np.testing.assert_allclose(row(schedule, n=STAGE), expected, rtol=1e-12, atol=1e-12 * LR)


def test_rates_are_those_of_torch() -> None:
    """StepLR, MultiStepLR, CosineAnnealingWarmRestarts, CyclicLR (triangular and triangular2), LinearLR."""
    torch = pytest.importorskip("torch")
    of = torch.optim.lr_scheduler
    cases = [
        (Step(every=30, gamma=0.5), lambda o: of.StepLR(o, 30, 0.5)),
        (MultiStep(milestones=(20, 50), gamma=0.2), lambda o: of.MultiStepLR(o, [20, 50], 0.2)),
        (
            CyclicCosine(cycle=10, growth=2, final=0.1),
            lambda o: of.CosineAnnealingWarmRestarts(o, 10, 2, eta_min=LR / 10),
        ),
        (Cyclic(cycle=40, low=0.1), lambda o: of.CyclicLR(o, LR / 10, LR, 20, cycle_momentum=False)),
        (
            Cyclic(cycle=40, low=0.1, shrink=0.5),
            lambda o: of.CyclicLR(o, LR / 10, LR, 20, mode="triangular2", cycle_momentum=False),
        ),
        (Linear(steps=60, final=0.3), lambda o: of.LinearLR(o, 1.0, 0.3, 60)),
    ]
    for schedule, make in cases:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], LR)
        reference, theirs = make(optimizer), []
        for _ in range(120):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            reference.step()
        np.testing.assert_allclose(row(schedule, n=120), theirs, rtol=1e-9, err_msg=schedule.kind)


# --- what holds for all of them ---


def test_the_first_step_of_a_warmup_has_the_rate_zero_and_the_last_the_full_one() -> None:
    found = row(Constant(warmup=10), n=12)
    np.testing.assert_allclose(found[:10], 0.02 * np.arange(10) / 10)
    assert found[10] == found[11] == 0.02


def test_a_warmup_leads_to_the_rate_that_the_schedule_begins_with() -> None:
    found = row(OneCycle(warmup=10, start=0.1), n=12)
    np.testing.assert_allclose(found[:11], LR * 0.1 * np.arange(11) / 10)


def test_a_stage_that_is_trained_on_keeps_the_last_rate() -> None:
    """`resume --more` writes the old length into the schedule."""
    longer = row(Cosine(steps=800, final=0.1), steps=1500, n=1500)
    np.testing.assert_array_equal(longer[:800], row(Cosine(final=0.1), n=800))
    assert set(longer[800:]) == {longer[800]} and longer[800] == pytest.approx(0.002)


def test_a_stage_without_a_rate_is_refused() -> None:
    with pytest.raises(TypeError, match=r"lbfgs.*no learning rate"):
        rates(Lbfgs(steps=3), 0, 1)


@settings(max_examples=80, deadline=None)
@given(SCHEDULES, st.integers(500, 3000), st.floats(1e-6, 10), st.integers(0, 600), st.integers(1, 200))
def test_rates_do_not_depend_on_how_the_steps_are_dealt_out(
    schedule: Any, steps: int, lr: float, cut: int, n: int
) -> None:
    whole = rates(Sgd(steps=steps, lr=lr, schedule=schedule), 0, cut + n)
    part = rates(Sgd(steps=steps, lr=lr, schedule=schedule), cut, n)
    np.testing.assert_array_equal(whole[cut:], part)


@settings(max_examples=80, deadline=None)
@given(SCHEDULES, st.integers(500, 3000), st.floats(1e-6, 10))
def test_rates_stay_between_zero_and_the_stages_rate(schedule: Any, steps: int, lr: float) -> None:
    found = row(schedule, steps, lr)
    assert found.dtype == np.float64 and found.shape == (steps + 50,)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= lr * (1 + 1e-15)
    lowest = getattr(schedule, "final", None)
    if lowest is not None and schedule.kind != "one_cycle":
        assert found[schedule.warmup :].min() >= lr * lowest * (1 - 1e-12), "the rate falls below `final`"


DECAYS = [kind for kind in KINDS if kind not in ("cyclic_cosine", "cyclic", "one_cycle")]


@settings(max_examples=60, deadline=None)
@given(st.one_of(*(KINDS[kind] for kind in DECAYS)), st.integers(500, 3000))
def test_after_the_warmup_no_decay_rises(schedule: Any, steps: int) -> None:
    assert (np.diff(row(schedule, steps, 1.0)[schedule.warmup :]) <= 1e-15).all()


@settings(max_examples=60, deadline=None)
@given(st.one_of(KINDS["constant"], KINDS["cosine"], KINDS["exponential"], KINDS["linear"]), st.integers(500, 3000))
def test_rates_have_no_jumps(schedule: Any, steps: int) -> None:
    """The largest change from one step to the next is that of the steepest of warmup and decay."""
    after = (getattr(schedule, "steps", None) or steps) - schedule.warmup
    steepest = [1 / schedule.warmup] if schedule.warmup else [0.0]
    if isinstance(schedule, Cosine):
        steepest.append(np.pi / 2 / after)
    if isinstance(schedule, Linear):
        steepest.append(1 / after)
    if isinstance(schedule, Exponential):
        assume(schedule.every > 1)
        steepest.append(-np.log(schedule.decay) / schedule.every)
    assert np.abs(np.diff(row(schedule, steps, 1.0))).max() <= max(steepest) * (1 + 1e-9)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "linear", "steps": 101}, "101 steps long, longer than its stage (100)"),
        ({"kind": "one_cycle", "warmup": 100}, "a warmup of 100 steps leaves nothing of 100 steps"),
        ({"kind": "step", "every": 100}, "its first drop needs a stage of at least 101 steps, this one has 100"),
        ({"kind": "multistep", "milestones": [50, 100]}, "its last milestone needs a stage of at least 101 steps"),
        ({"kind": "multistep", "milestones": [50, 50]}, "milestones must rise"),
        ({"kind": "multistep", "milestones": [20], "warmup": 20}, "lies within the warmup"),
        ({"kind": "cyclic_cosine", "cycle": 100, "warmup": 1}, "its first cycle needs a stage of at least 101 steps"),
        ({"kind": "cyclic", "cycle": 101}, "its first cycle needs a stage of at least 101 steps"),
        ({"kind": "one_cycle", "shape": "linear", "rise": 0.5, "fall": 0.4}, "`fall` (0.4) must be above `rise` (0.5)"),
    ],
)
def test_a_schedule_that_does_not_fit_its_stage_is_refused(schedule: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Adam.model_validate({"steps": 100, "schedule": schedule})
    assert expected in str(caught.value)


def test_lengths_in_epochs_wait_until_they_are_known() -> None:
    data = {"steps": "10 epochs", "schedule": {"kind": "step", "every": "20 epochs", "warmup": "1 epoch"}}
    assert Adam.model_validate(data).schedule.warmup == "1 epoch"
