"""The line search alone: it is Moré and Thuente's, its answers fulfil Wolfe's conditions, and NaN never gets in."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.ops import HostScalars
from backends.quasi.line_search import C1, C2, Search, advance, start

OPS = HostScalars()
Line = Callable[[float], tuple[float, float]]


def search(line: Line, trial: float = 1.0, most: int = 20) -> tuple[Search, list[float]]:
    f0, d0 = line(0.0)
    s, trials = start(OPS, f0, d0, trial, True), []
    while s.done == 0:
        trials.append(s.trial)
        s = advance(OPS, s, *line(s.trial), most)
    return s, trials


def waves(amplitudes: list[float], frequencies: list[float], bowl: float) -> Line:
    """A bowl with waves on it, descending at 0: bounded below, with many local minima."""
    tilt = 1.0 + sum(abs(a * w) for a, w in zip(amplitudes, frequencies, strict=False))

    def line(x: float) -> tuple[float, float]:
        f, d = 0.5 * bowl * x * x - tilt * x, bowl * x - tilt
        for a, w in zip(amplitudes, frequencies, strict=False):
            f, d = f + a * math.sin(w * x), d + a * w * math.cos(w * x)
        return f, d

    return line


WAVES = st.builds(
    waves,
    st.lists(st.floats(-2, 2), max_size=4),
    st.lists(st.floats(0.1, 8), min_size=4, max_size=4),
    st.floats(1e-3, 1e3),
)


# Moré and Thuente's own test functions (their equations 5.1 to 5.4), with slopes.
def function_1(x: float, b: float = 2.0) -> tuple[float, float]:
    return -x / (x * x + b), (x * x - b) / (x * x + b) ** 2


def function_2(x: float, b: float = 0.004) -> tuple[float, float]:
    return (x + b) ** 5 - 2 * (x + b) ** 4, 5 * (x + b) ** 4 - 8 * (x + b) ** 3


def function_3(x: float, b: float = 0.01, waves: int = 39) -> tuple[float, float]:
    ripple = 2 * (1 - b) / (waves * math.pi) * math.sin(waves * math.pi / 2 * x)
    slope = (1 - b) * math.cos(waves * math.pi / 2 * x)
    if x <= 1 - b:
        return 1 - x + ripple, -1 + slope
    if x >= 1 + b:
        return x - 1 + ripple, 1 + slope
    return (x - 1) ** 2 / (2 * b) + b / 2 + ripple, (x - 1) / b + slope


def function_4(x: float, b: float = 0.001, c: float = 0.001) -> tuple[float, float]:
    def gamma(q: float) -> float:
        return math.sqrt(1 + q * q) - q

    u, v = math.sqrt((1 - x) ** 2 + c * c), math.sqrt(x * x + b * b)
    return gamma(b) * u + gamma(c) * v, gamma(b) * (x - 1) / u + gamma(c) * x / v


@pytest.mark.parametrize("line", [function_1, function_2, function_3, function_4])
@pytest.mark.parametrize("trial", [1e-3, 1e-1, 1.0, 1e1, 1e3])
def test_the_trials_are_those_of_scipys_dcsrch_on_the_functions_of_the_paper(line: Line, trial: float) -> None:
    s, trials = search(line, trial)
    assert s.done == 1
    np.testing.assert_allclose(trials, dcsrch(line, trial), rtol=1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(WAVES, st.floats(1e-3, 1e2))
def test_the_trials_are_those_of_scipys_dcsrch_on_random_functions(line: Line, trial: float) -> None:
    s, trials = search(line, trial)
    reference = dcsrch(line, trial)
    if s.done == 1:
        np.testing.assert_allclose(trials, reference, rtol=1e-6)


def dcsrch(line: Line, trial: float) -> list[float]:
    """The trials of scipy's translation of MINPACK-2."""
    module = pytest.importorskip("scipy.optimize._dcsrch", reason="scipy has moved its dcsrch")
    trials: list[float] = []

    def phi(x: float) -> float:
        trials.append(float(x))
        return line(x)[0]

    f0, d0 = line(0.0)
    module.DCSRCH(phi, lambda x: line(x)[1], C1, C2, 1e-14, 0.0, 1e20)(trial, phi0=f0, derphi0=d0, maxiter=20)
    return trials


@settings(max_examples=300, deadline=None, derandomize=True)
@given(WAVES, st.floats(1e-4, 1e3))
def test_an_accepted_step_fulfils_the_strong_wolfe_conditions(line: Line, trial: float) -> None:
    s, trials = search(line, trial)
    (f0, d0), (f, d) = line(0.0), line(s.best)
    assert len(trials) == s.evaluations <= 20
    if s.best > 0:
        assert f <= f0 + C1 * s.best * d0
        assert s.f_best == f
    if s.done == 1:
        assert abs(d) <= C2 * abs(d0)
    if s.evaluations < 20:
        assert s.done == 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(WAVES, st.floats(1e-3, 1e2), st.integers(2, 6))
def test_when_evaluations_run_out_the_lowest_point_of_sufficient_decrease_is_taken(
    line: Line, trial: float, most: int
) -> None:
    s, trials = search(line, trial, most)
    f0, d0 = line(0.0)
    enough = [line(a)[0] for a in trials if line(a)[0] <= f0 + C1 * a * d0]
    if s.done == 2 and enough:
        assert s.f_best == min(enough)
    assert len(trials) <= most


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.sampled_from([math.nan, math.inf]))
def test_a_trial_beyond_the_domain_is_shrunk_until_it_is_inside(edge: float, trial: float, outside: float) -> None:
    def barrier(x: float) -> tuple[float, float]:
        """-x/edge - log(1 - x/edge)/2: its minimum is halfway to the edge."""
        r = x / edge
        return (outside, outside) if r >= 1 else (-r - 0.5 * math.log(1 - r), (-1 + 0.5 / (1 - r)) / edge)

    s, _ = search(barrier, trial * edge)
    assert s.done == 1
    assert 0 < s.best < edge


def test_where_only_the_slope_is_not_finite_the_trial_counts_as_bad() -> None:
    s, trials = search(lambda x: ((x - 1) ** 2, 2 * (x - 1) if x < 1.5 else math.nan), 4.0)
    assert trials[0] == 4.0
    assert s.done == 1
    assert s.best < 1.5


def test_a_line_that_is_nowhere_finite_yields_no_step() -> None:
    s, trials = search(lambda x: (1.0, -1.0) if x == 0 else (math.nan, math.nan))
    assert (s.best, s.done, len(trials)) == (0.0, 2, 20)


def test_a_line_that_only_rises_yields_no_step() -> None:
    s, _ = search(lambda x: (x, -1.0 if x == 0 else 1.0))
    assert (s.best, s.done) == (0.0, 2)


def test_without_go_nothing_is_evaluated() -> None:
    s = start(OPS, math.nan, math.nan, 1.0, False)
    assert (s.done, s.best, s.evaluations) == (2.0, 0.0, 0.0)
