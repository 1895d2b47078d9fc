"""What a run gives back, also where it ended badly or is read long after."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.errors import RunFailed
from orchestrator.folder import Lines, RunFolder
from orchestrator.result import RunResult, history
from orchestrator.uploader import Report


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that recorded two steps, a NaN among them."""
    made = RunFolder(tmp_path / "run-12345678")
    made.path.mkdir()
    metrics = Lines(made.metrics)
    metrics.append({"step": 0, "time": 1.0, "metrics": {"validation/total": 4.0}})
    values = {"validation/total": math.nan, "loss": 3.0, "time/train_s": 7.5}
    metrics.append({"step": 5, "time": 2.0, "metrics": values})
    Lines(made.events).append({"event": "warning", "message": "slower than it could be", "step": 0, "time": 1.0})
    for step in (5, 2):
        (made.checkpoints / f"step-{step:09d}").mkdir(parents=True)
    return made


OUTCOME: dict[str, Any] = {
    "status": "finished",
    "step": 9,
    "reason": "",
    "metrics": {"loss": 2.0, "error/l2": math.inf},
    "checkpoint": "step-000000009",
    "train_s": 8.0,
}


def test_a_run_that_ended_well_is_told_by_its_worker(folder: RunFolder):
    result = RunResult.of(folder, OUTCOME, None)
    assert (result.status, result.step, result.checkpoint) == ("finished", 9, "checkpoints/step-000000009")
    assert result.metrics == {"loss": 2.0}, "what is not finite is left out"
    assert result.warnings == ("slower than it could be",)
    assert result.path == folder.path


def test_a_run_that_failed_is_told_by_what_it_had_recorded(folder: RunFolder):
    result = RunResult.of(folder, {}, RunFailed("no more room"))
    assert (result.status, result.step, result.reason) == ("failed", 5, "no more room")
    assert result.checkpoint == "checkpoints/step-000000005"
    assert result.metrics == {"loss": 3.0, "time/train_s": 7.5}
    assert result.train_s == 7.5
    assert RunResult.of(folder, {}, ValueError("our bug")).reason == "ValueError: our bug"


def test_a_run_that_was_interrupted_has_the_status_that_was_given(folder: RunFolder):
    result = RunResult.of(folder, {"status": "killed", "reason": "interrupted twice"}, None)
    assert (result.status, result.step, result.reason) == ("killed", 5, "interrupted twice")


def test_a_run_without_anything_is_at_step_zero(tmp_path: Path):
    (tmp_path / "run").mkdir()
    result = RunResult.of(RunFolder(tmp_path / "run"), {}, RunFailed("at once"))
    assert (result.step, result.metrics, result.checkpoint, result.figures) == (0, {}, None, [])
    assert "failed at step 0" in repr(result)


def test_a_result_is_strict_json(folder: RunFolder):
    data = RunResult.of(folder, OUTCOME, None).as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_what_has_not_reached_mlflow_is_counted(folder: RunFolder):
    result = RunResult.of(folder, OUTCOME, None)
    sent = result.tracked(Report(True, "run", "sqlite:///x", "abc", 10, 0))
    assert (sent.run_id, sent.unsent) == ("abc", 0)
    held = result.tracked(Report(False, "run", "sqlite:///x", None, 0, 0, "nothing answers"))
    assert (held.run_id, held.unsent) == (None, 1), "something is missing, whatever the count says"


def test_the_history_holds_every_metric_with_its_steps(folder: RunFolder):
    found = history(folder)
    steps, values = found["validation/total"]
    assert steps.tolist() == [0, 5]
    np.testing.assert_array_equal(values, [4.0, np.nan])
    assert found["loss"][0].tolist() == [5]


def test_pictures_are_listed_newest_last(folder: RunFolder):
    folder.figures.mkdir()
    for name in ("weights-000000005.png", "solution-000000010.png", "solution-000000005.png", "solution-000000010.npz"):
        (folder.figures / name).touch()
    assert [p.name for p in RunResult.of(folder, OUTCOME, None).figures] == [
        "solution-000000005.png",
        "weights-000000005.png",
        "solution-000000010.png",
    ]


def test_a_notebook_shows_a_table_and_escapes_names(folder: RunFolder):
    odd = {**OUTCOME, "metrics": {"loss/<b>": 1.0}}
    shown = RunResult.of(folder, odd, None)._repr_html_()
    assert "loss/&lt;b&gt;" in shown
    assert "<b>run-12345678</b>: finished at step 9" in shown
