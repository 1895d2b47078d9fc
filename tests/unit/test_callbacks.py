"""Callbacks that ship, and how the user's own are made, asked and blamed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import OwnCodeFailed, UserError
from orchestrator.callbacks import CustomCallback, EarlyStopping, Ramp, StopsEarly, named
from orchestrator.hooks import Ask, Moment, ask, call


def moment(step: int = 0, **metrics: float) -> Moment:
    return Moment(step, "warm", ("pde",), np.zeros((0, 1)), {}, {k.replace("__", "/"): v for k, v in metrics.items()})


def stops_at(spec: EarlyStopping, values: list[float]) -> int | None:
    """The evaluation at which the run is asked to stop."""
    callback = StopsEarly(spec)
    for i, value in enumerate(values):
        answer = callback.step(moment(i, validation__total=value))
        if answer is not None:
            assert answer.stop
            return i
    return None


# --- early stopping ---


@given(st.lists(st.floats(-1e3, 1e3), max_size=20), st.integers(1, 4), st.sampled_from([0.0, 1.0, 50.0]))
def test_early_stopping_waits_for_patience_evaluations_without_improvement(
    values: list[float], patience: int, delta: float
):
    found = stops_at(EarlyStopping(patience=patience, min_delta=delta), values)
    best, since = math.inf, 0
    for i, value in enumerate(values):
        best, since = (value, 0) if value < best - delta else (best, since + 1)
        if since == patience:
            assert found == i
            return
    assert found is None


@given(st.lists(st.floats(-1e3, 1e3), max_size=20))
def test_to_maximise_is_to_minimise_the_opposite(values: list[float]):
    mirrored = stops_at(EarlyStopping(patience=2, mode="max"), [-v for v in values])
    assert stops_at(EarlyStopping(patience=2), values) == mirrored


def test_a_metric_that_is_not_finite_is_no_improvement():
    assert stops_at(EarlyStopping(patience=2), [1.0, math.nan, math.inf]) == 2


def test_steps_without_an_evaluation_do_not_count():
    callback = StopsEarly(EarlyStopping(patience=1))
    assert [callback.step(moment(i)) for i in range(5)] == [None] * 5


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.integers(0, 11))
def test_early_stopping_goes_on_from_a_checkpoint_as_if_never_interrupted(values: list[float], cut: int):
    spec = EarlyStopping(patience=3)
    whole, first, second = StopsEarly(spec), StopsEarly(spec), StopsEarly(spec)
    for value in values[:cut]:
        assert first.step(moment(validation__total=value)) == whole.step(moment(validation__total=value))
    second.load(first.state())
    for value in values[cut:]:
        assert second.step(moment(validation__total=value)) == whole.step(moment(validation__total=value))


def test_a_metric_that_is_not_reported_is_answered_with_those_that_are():
    with pytest.raises(UserError, match="watches 'error/l2', which this run does not report; it reports validation/p"):
        StopsEarly(EarlyStopping(metric="error/l2")).step(moment(validation__pde=1.0))


# --- ramps ---

NUMBERS = st.floats(1e-3, 1e3)


@given(NUMBERS, NUMBERS, st.integers(0, 50), st.integers(1, 50), st.sampled_from(["linear", "log"]))
def test_a_ramp_goes_from_start_to_end_and_stays(a: float, b: float, begin: int, steps: int, scale: Any):
    ramp = Ramp(knob="task/nu", start=a, end=b, begin=begin, steps=steps, scale=scale)
    values = ramp.values(0, 120)
    np.testing.assert_allclose(values[: begin + 1], a, rtol=1e-12)
    np.testing.assert_allclose(values[begin + steps :], b, rtol=1e-12)
    changes = np.diff(values) * np.sign(b - a)
    assert (changes >= -1e-12 * max(a, b)).all()
    middle = values[begin : begin + steps + 1]
    differences = np.diff(np.log(middle) if scale == "log" else middle)
    np.testing.assert_allclose(differences, differences[0], rtol=1e-6, atol=1e-9)


@given(st.integers(0, 60), st.integers(1, 20))
def test_a_ramp_is_a_function_of_the_step(start: int, n: int):
    ramp = Ramp(knob="task/nu", start=1, end=5, begin=10, steps=30)
    assert np.array_equal(ramp.values(start, n), ramp.values(0, 80)[start : start + n])


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (-1.0, -2.0)])
def test_a_logarithmic_ramp_needs_positive_values(start: float, end: float):
    with pytest.raises(ValueError, match="a logarithmic ramp needs positive values"):
        Ramp(knob="task/nu", start=start, end=end, steps=3, scale="log")


def test_a_weight_does_not_ramp_below_zero():
    with pytest.raises(ValueError, match="a weight is not negative"):
        Ramp(knob="weight/pde", start=1, end=-1, steps=3)


# --- the user's own ---

OWN = """
class Counts:
    def __init__(self, start=0):
        self.count = start

    def step(self, moment):
        self.count += 1

class Fails:
    def __init__(self):
        raise OSError("no")

    def step(self, moment):
        return helper(moment)

class Deep(Counts):
    def step(self, moment):
        return helper(moment)

def helper(moment):
    return {}["missing"]

class Deaf:
    def stepp(self, moment): ...

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def own(name: str, **keys: Any) -> CustomCallback:
    return CustomCallback.model_validate({"kind": "custom", "target": f"own.py:{name}", **keys})


def test_callbacks_have_names_that_do_not_depend_on_where_the_file_lies(folder: Path):
    ramp = Ramp(knob="task/nu", start=1, end=2, steps=3)
    specs = (own("Counts", start=5), EarlyStopping(), ramp, EarlyStopping(metric="error/l2"), own("Counts"))
    made = named(specs, folder)
    assert list(made) == ["own.py:Counts", "early_stopping", "early_stopping#2", "own.py:Counts#2"]
    assert made["own.py:Counts"].count == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (own("Counts", begin=3), "own.py:Counts can't be made with the keys given here: .*unexpected .*'begin'"),
        (own("Deaf"), "own.py:Deaf has none of the methods start, step, end; it would never be called"),
        (own("number"), "own.py:number is no class"),
        (own("Count"), "has no 'Count'; did you mean 'Counts'"),
    ],
)
def test_a_callback_that_can_not_work_is_refused_before_it_is_made(spec: CustomCallback, message: str, folder: Path):
    with pytest.raises(UserError, match=message):
        spec.check(folder)


def test_what_a_callback_raises_is_told_with_the_innermost_line_of_its_file(folder: Path):
    with pytest.raises(OwnCodeFailed, match=r"own.py:11: own.py:Fails: raised OSError: no"):
        own("Fails").make(folder)
    deep = own("Deep").make(folder)
    with pytest.raises(OwnCodeFailed, match=r"own.py:21: Deep.step: raised KeyError: 'missing'"):
        ask(deep, "step", moment())


def test_an_answer_must_be_an_ask_or_nothing():
    class Says:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def step(self, moment: Moment) -> Any:
            return self.answer

    assert ask(Says(None), "step", moment()) is None
    assert ask(Says(Ask(save=True)), "step", moment()) == Ask(save=True)
    assert ask(Says(None), "start", moment()) is None, "a method that is not there"
    with pytest.raises(OwnCodeFailed, match=r"Says.step returned bool; it must return an orchestrator.Ask or None"):
        ask(Says(True), "step", moment())


def test_errors_that_say_what_to_do_pass_through():
    class Refuses:
        def step(self, moment: Moment) -> None:
            raise UserError("do this instead")

    with pytest.raises(UserError, match="^do this instead$"):
        call(Refuses(), "step", moment())
