"""Epochs and periods in epochs become steps once, from the length of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.errors import UserError
from backends.periods import Epochs, Length, Period, in_epochs, known
from backends.spec import Leaf
from orchestrator.folder import read_json
from orchestrator.resuming import resume
from orchestrator.runs import checked, run

FILE: dict[str, Any] = {
    "name": "passes",
    "backend": "torch",
    "compile": "never",
    "task": {"kind": "regression"},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "data": {"kind": "diabetes", "batch": 59},  # 354 training rows: 6 steps per epoch
    "stages": [{"kind": "adam", "epochs": 2}],
    "evaluate": {"every": "1 epoch"},
    "checkpoint": {"every": "0.5 epochs"},
    "tracking": {"enabled": False, "every": "1 epoch"},
    "callbacks": [
        {"kind": "ramp", "knob": "weight/data", "start": 1, "end": 2, "begin": "1 epoch", "steps": "1 epoch"}
    ],
    "resources": {"workers": 0},
}


class Model(Leaf):
    every: Period = 500
    warmup: Length = 0


@given(st.integers(1, 10**6))
def test_a_number_of_steps_stays_what_it_is(steps: int):
    assert Model(every=steps).every == steps


@given(st.integers(1, 10**4), st.floats(1.0, 1e4))
def test_epochs_survive_writing_and_reading_and_become_the_nearest_number_of_steps(count: int, per_epoch: float):
    model = Model.model_validate({"every": f"{count} epochs"})
    assert not known(model.every)
    again = Model.model_validate(model.model_dump(mode="json"))
    assert again == model
    assert in_epochs(again)["every"].steps(per_epoch) == round(count * per_epoch)


def test_a_part_of_an_epoch_is_at_least_one_step():
    assert Epochs.of(0.01).steps(10) == 1
    assert Model.model_validate({"warmup": "0 epochs"}).warmup == 0


@pytest.mark.parametrize("value", ["2", "epoch", "-1 epochs", "1 epoch and a half", "0 epochs", 0, 2.5, True, None])
def test_anything_else_is_refused(value: Any):
    with pytest.raises(ValidationError):
        Model.model_validate({"every": value})


def test_every_length_and_period_of_a_file_becomes_steps():
    experiment = checked(FILE).experiment
    assert in_epochs(experiment) == {}
    assert experiment.stages[0].steps == 12
    assert (experiment.evaluate.every, experiment.checkpoint.every, experiment.tracking.every) == (6, 3, 6)
    assert checked({**FILE, "stages": [{"kind": "adam", "steps": "2 epochs"}]}).experiment == experiment


def test_an_epoch_need_not_be_a_whole_number_of_steps():
    experiment = checked({**FILE, "data": {"kind": "diabetes", "batch": 100}}).experiment
    assert experiment.stages[0].steps == 7  # 2 x 3.54
    assert experiment.evaluate.every == 4


def test_accumulated_batches_make_an_epoch_that_many_times_shorter():
    experiment = checked({**FILE, "accumulate": 2, "checkpoint": {"every": "1 epoch"}}).experiment
    assert experiment.stages[0].steps == 6, "2 epochs of 6 batches, two of them to a step"
    assert experiment.evaluate.every == 3


def test_a_run_keeps_steps_in_its_folder_and_takes_epochs_on_resume(tmp_path: Path):
    result = run({**FILE, "storage": str(tmp_path)})
    assert result.step == 12
    kept = read_json(result.folder.resolved)["experiment"]
    assert (kept["stages"][0]["steps"], kept["stages"][0]["epochs"], kept["evaluate"]["every"]) == (12, None, 6)
    assert sorted(p.name for p in result.folder.checkpoints.iterdir())[-1] == "step-000000012"
    longer = resume(str(result.folder.path), {"checkpoint.every": "2 epochs"}, more=6)
    assert longer.step == 18
    assert read_json(result.folder.resolved)["experiment"]["checkpoint"]["every"] == 12


def test_a_task_that_draws_points_says_why_it_has_no_epochs():
    with pytest.raises(UserError, match=r"evaluate.every: '1 epoch': the task 'poisson' draws points"):
        checked(
            {
                "name": "points",
                "task": {"kind": "poisson"},
                "points": {"pde": 8, "bc": 2},
                "stages": [{"kind": "adam", "steps": 3}],
                "evaluate": {"every": "1 epoch"},
            }
        )
