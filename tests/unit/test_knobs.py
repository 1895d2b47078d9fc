"""The table of live values: one row per step, one owner per column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import UserError
from backends.networks.mlp import MLP
from backends.schedules import Cosine, rates
from backends.spec import Clip, Points
from backends.stages import Adam, Lbfgs
from backends.task import Parts, Task
from backends.tasks import Burgers
from orchestrator.callbacks import Ramp
from orchestrator.knobs import Knobs, initial, owners


def burgers() -> Task:
    return Burgers().build(Parts(network=MLP(width=4, depth=1), points={"pde": Points(count=8)}))


TASK = burgers()
WEIGHTS = {"pde": 1.0, "ic": 2.0, "bc": 3.0}
ADAM = Adam(name="warm", steps=40, lr=0.1, b1=0.7, schedule=Cosine(warmup=4))
NU = Ramp(knob="task/nu", start=1.0, end=0.1, begin=5, steps=10)


def knobs(*ramps: Ramp, clip: Clip | None = None, weighting: str = "fixed") -> Knobs:
    return Knobs(initial(TASK, WEIGHTS), ramps, clip, task=TASK, weighting=weighting)


def test_a_row_holds_rate_stage_floats_clip_weights_and_constants_by_name():
    row = knobs(clip=Clip(norm=2.5)).now(ADAM, 7, 7)
    assert list(row) == ["lr", "b1", "b2", "eps", "clip", "weight/pde", "weight/ic", "weight/bc", "task/nu"]
    assert row["lr"] == rates(ADAM, 7, 1)[0]
    assert (row["b1"], row["clip"], row["weight/ic"], row["task/nu"]) == (0.7, 2.5, 2.0, Burgers().nu)


def test_a_quasi_newton_stage_has_neither_rate_nor_clip():
    row = knobs(clip=Clip(norm=2.5)).now(Lbfgs(steps=3), 0, 0)
    assert list(row) == ["weight/pde", "weight/ic", "weight/bc", "task/nu"]


@given(st.integers(0, 30), st.integers(1, 10), st.integers(0, 9))
def test_a_table_is_the_same_however_it_is_cut_into_dispatches(start: int, n: int, cut: int):
    whole = knobs(NU).table(ADAM, start, start, n)
    cut = min(cut, n)
    parts = [knobs(NU).table(ADAM, start + a, start + a, b - a) for a, b in ((0, cut), (cut, n)) if b > a]
    assert np.array_equal(whole, np.concatenate(parts))


def test_rates_follow_the_step_in_the_stage_and_ramps_the_step_of_the_run():
    late = knobs(NU).now(ADAM, 100, 2)
    assert late["lr"] == rates(ADAM, 2, 1)[0]
    assert late["task/nu"] == pytest.approx(0.1)


def test_what_a_callback_sets_holds_until_it_sets_it_again():
    live = knobs()
    live.set({"weight/bc": 7.0}, "callback 0")
    assert live.now(ADAM, 0, 0)["weight/bc"] == live.now(ADAM, 9, 9)["weight/bc"] == 7.0
    live.set({"weight/bc": 8.0}, "callback 0")
    assert live.now(ADAM, 9, 9)["weight/bc"] == 8.0


@pytest.mark.parametrize(
    ("live", "changes", "message"),
    [
        (knobs(), {"weight/pd": 1.0}, "'weight/pd', which it can't set; did you mean 'weight/pde'"),
        (knobs(), {"lr": 1.0}, "'lr', which it can't set; allowed here: lr_scale, task/nu, weight/bc"),
        (knobs(NU), {"task/nu": 1.0}, "'task/nu', which a ramp owns already"),
        (knobs(weighting="relobralo"), {"weight/ic": 1.0}, r"which `weights: \{kind: relobralo\}` owns already"),
        (knobs(), {"task/nu": float("nan")}, "task/nu = nan; it must be finite"),
        (knobs(), {"weight/ic": -1.0}, "weight/ic = -1.0; it must be finite, and a weight not negative"),
    ],
)
def test_a_knob_that_is_not_a_callbacks_to_set_is_refused(live: Knobs, changes: dict[str, float], message: str):
    with pytest.raises(UserError, match=message):
        live.set(changes, "callback 1 (Mine)")


def test_two_callbacks_can_not_own_one_knob():
    live = knobs()
    live.set({"task/nu": 0.2}, "callback 0 (Mine)")
    with pytest.raises(UserError, match=r"callback 1 \(Other\) asks .* 'task/nu', which callback 0 \(Mine\) owns"):
        live.set({"task/nu": 0.3}, "callback 1 (Other)")
    assert live.values["task/nu"] == 0.2


def test_conflicts_among_ramps_are_found_before_anything_starts():
    weight = Ramp(knob="weight/ic", start=1, end=2, steps=5)
    unknown = Ramp(knob="task/mu", start=1, end=2, steps=5)
    assert owners(TASK, "fixed", [NU, weight]) == []
    assert owners(TASK, "fixed", [NU, NU]) == [(1, "'task/nu' has two owners: callbacks.0 and this one; keep one")]
    ((number, message),) = owners(TASK, "relobralo", [NU, weight])
    assert (number, message[:29]) == (1, "'weight/ic' has two owners: t")
    ((_, message),) = owners(TASK, "fixed", [unknown])
    assert message == "'task/mu' is not a knob of this task; did you mean 'task/nu'?"
