"""Loggers beside MLflow, read back by independent readers; failures that no run notices; resumes without duplicates."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_backend import use

from backends.errors import ConfigError, UserError
from orchestrator import Ask, Moment, RunResult, resume, run
from orchestrator.folder import Lines, RunFolder, read_json, read_jsonl
from orchestrator.loggers import Csv, TensorBoard, Wandb, check, named
from orchestrator.loggers.csv_table import Table
from orchestrator.loggers.follow import Loop
from orchestrator.loggers.sink import About


def tree(loggers: list[Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "logged",
        "task": {"kind": "poisson", "k": 1},
        "network": {"kind": "mlp", "width": 4, "depth": 2},
        "points": {"pde": 24, "bc": 8},
        "stages": [{"kind": "adam", "lr": 1e-2, "steps": 20}],
        "evaluate": {"every": 10, "points": 20},
        "checkpoint": {"every": 10},
        "resources": {"workers": 0},
        "tracking": {"enabled": False, "every": 5},
        "loggers": loggers,
        **changes,
    }


@pytest.fixture(autouse=True)
def numpy_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch)
    monkeypatch.setenv("ORCHESTRATOR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("orchestrator.figures.draw_all", picture)


def picture(pictures: Any, folder: RunFolder, experiment: Any, step: int) -> list[tuple[Path, str]]:
    """A real PNG, 6 x 4, whose colour says its step."""
    from PIL import Image

    folder.figures.mkdir(exist_ok=True)
    file = folder.figures / f"solution-{step:09d}.png"
    Image.new("RGBA", (6, 4), (step, 0, 0, 255)).save(file)
    return [(file, "figures/solution")]


def recorded(result: RunResult) -> dict[int, dict[str, float]]:
    return {r["step"]: r["metrics"] for r in read_jsonl(result.folder.metrics)[0]}


def warnings(result: RunResult) -> list[str]:
    return [e["message"] for e in read_jsonl(result.folder.events)[0] if e["event"] == "warning"]


class StopsAt10:
    def step(self, moment: Moment) -> Ask | None:
        return Ask(stop="enough") if moment.step == 10 else None


# --- csv ---


def table(result: RunResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((result.folder.path / "metrics.csv").read_text())))


def test_the_csv_table_has_a_row_per_record_and_a_column_per_metric(tmp_path: Path):
    result = run(tree([{"kind": "csv"}]), out=tmp_path / "run")
    rows = table(result)
    expected = recorded(result)
    assert [int(row["step"]) for row in rows] == sorted(expected)
    for row in rows:
        found = {k: float(v) for k, v in row.items() if v and k not in ("step", "time")}
        assert found == expected[int(row["step"])]
    assert "validation/total" not in {k for row in rows if row["step"] == "5" for k, v in row.items() if v}
    assert warnings(result) == []


NAMES = st.sampled_from(["loss", "loss/a,b", 'quoted "x"', "error/l2", "λ"])
VALUES = st.dictionaries(NAMES, st.floats(allow_infinity=False), max_size=4)


@given(st.lists(VALUES, max_size=12), st.integers(0, 12), st.integers(0, 40))
def test_columns_that_appear_late_and_a_torn_last_line_lose_nothing(history: list[Any], cut: int, torn: int):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.csv")
        first = Table(path)
        for step, values in enumerate(history[:cut]):
            first.metrics(step, 1.5, values)
        if path.exists() and len(history[:cut]):
            whole = path.read_bytes()
            path.write_bytes(whole + whole[: min(torn, whole.find(b"\n"))])  # what a killed process left
        second = Table(path)
        for step, values in enumerate(history):
            second.metrics(step, 1.5, values)
        rows = list(csv.DictReader(io.StringIO(path.read_text() if path.exists() else "")))
        assert [int(row["step"]) for row in rows] == list(range(len(history)))
        for row, values in zip(rows, history, strict=True):
            found = {k: float(v) for k, v in row.items() if v and k not in ("step", "time")}
            assert found.keys() == values.keys()
            assert all(found[k] == v or (math.isnan(found[k]) and math.isnan(v)) for k, v in values.items())


# --- tensorboard ---


def events(folder: Path) -> Any:
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return reader.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def test_tensorboards_own_reader_finds_scalars_figures_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    result = run(tree([{"kind": "tensorboard", "dir": "boards"}], figures={"every": 10}), out=tmp_path / "run")
    found = events(tmp_path / "boards" / "run")
    expected = recorded(result)
    for name in ("loss", "loss/pde", "validation/total", "lr"):
        scalars = found.Scalars(name)
        assert [s.step for s in scalars] == [s for s in sorted(expected) if name in expected[s]]
        np.testing.assert_allclose([s.value for s in scalars], [expected[s.step][name] for s in scalars], rtol=1e-6)
    times = {r["step"]: r["time"] for r in read_jsonl(result.folder.metrics)[0]}
    assert all(s.wall_time == pytest.approx(times[s.step], abs=1e-3) for s in found.Scalars("loss"))
    images = found.Images("figures/solution")
    assert [i.step for i in images] == [0, 10, 20]
    assert (images[0].width, images[0].height) == (6, 4)
    assert images[1].encoded_image_string == (result.folder.figures / "solution-000000010.png").read_bytes()
    (text,) = found.Tensors("params/text_summary")
    assert b"| network.width | 4 |" in text.tensor_proto.string_val[0]
    assert warnings(result) == []


def test_a_resumed_run_appends_to_its_event_files_without_duplicates(tmp_path: Path):
    pytest.importorskip("tensorboardX")
    whole = run(tree([{"kind": "tensorboard"}, {"kind": "csv"}]), out=tmp_path / "whole")
    part = run(tree([{"kind": "tensorboard"}, {"kind": "csv"}]), out=tmp_path / "part", callbacks=[StopsAt10()])
    assert part.step == 10
    resumed = resume(tmp_path / "part")
    one, two = (events(r.folder.path / "tensorboard") for r in (whole, resumed))
    for name in ("loss", "validation/total"):
        assert [(s.step, s.value) for s in two.Scalars(name)] == [(s.step, s.value) for s in one.Scalars(name)]
    assert [i.step for i in two.Images("figures/solution")] == [10, 20]
    assert len(two.Tensors("params/text_summary")) == 1
    assert [row["step"] for row in table(resumed)] == [row["step"] for row in table(whole)]


def test_a_logger_that_was_added_on_resume_gets_the_whole_history(tmp_path: Path):
    run(tree([]), out=tmp_path / "run", callbacks=[StopsAt10()])
    resumed = resume(tmp_path / "run", {"loggers": [{"kind": "csv"}]})
    assert [int(row["step"]) for row in table(resumed)] == [0, 5, 10, 15, 20]


# --- wandb ---


def offline_records(folder: Path) -> list[Any]:
    """The records of an offline W&B run: a LevelDB log (7 header bytes, blocks of 32 KiB) of protobuf messages."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = folder.glob("offline-run-*/run-*.wandb")
    data, at, messages, parts = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()
            record.ParseFromString(parts)
            messages, parts = [*messages, record], b""
    return messages


def rows_of(records: list[Any]) -> list[dict[str, Any]]:
    found = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({"/".join([i.key] if i.key else i.nested_key): json.loads(i.value_json) for i in items})
    return found


def test_an_offline_wandb_run_holds_metrics_figures_and_parameters(tmp_path: Path):
    pytest.importorskip("wandb")
    logger = {"kind": "wandb", "project": "waves", "entity": "team", "mode": "offline"}
    result = run(tree([logger]), out=tmp_path / "run")
    assert warnings(result) == []
    records = offline_records(result.folder.path / "wandb")
    (about,) = [r.run for r in records if r.WhichOneof("record_type") == "run"][:1]
    assert (about.project, about.entity, about.display_name) == ("waves", "team", "run")
    assert about.run_id == read_json(result.folder.run)["id"]
    config = {u.key or u.nested_key[0]: json.loads(u.value_json) for u in about.config.update}
    assert str(config["network.width"]) == "4"
    rows, expected = rows_of(records), recorded(result)
    losses = {row["_step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == {step: values["loss"] for step, values in expected.items() if "loss" in values}
    pictures = [k for row in rows for k in row if k.startswith("figures/solution")]
    assert pictures and list((result.folder.path / "wandb").rglob("media/images/figures/solution_*.png"))


# --- what goes wrong ---


def test_a_logger_that_fails_is_one_warning_with_its_name_and_the_run_goes_on(tmp_path: Path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("no folder")
    result = run(tree([{"kind": "tensorboard", "dir": str(tmp_path / "file")}, {"kind": "csv"}]), out=tmp_path / "run")
    assert result.status == "finished" and len(table(result)) == 5
    (message,) = warnings(result)
    assert message.startswith("the logger tensorboard failed and is left out from step 0 on: ")


def test_loggers_that_do_not_end_are_given_up_with_a_warning(tmp_path: Path):
    from orchestrator.loggers.handle import Handle

    folder = RunFolder(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
    Handle(folder, process, io.BytesIO()).finish(wait_s=0.2)
    assert process.poll() is not None
    assert "the loggers were not done 0.2 s after the run" in read_jsonl(folder.events)[0][0]["message"]


def test_a_process_that_breaks_is_told_with_its_last_line(tmp_path: Path):
    from orchestrator.loggers.handle import start

    handle = start(RunFolder(tmp_path))
    assert handle is not None
    handle.finish()  # no experiment.yaml there
    (event,) = read_jsonl(tmp_path / "events.jsonl")[0]
    assert event["message"].startswith("the loggers' process ended with code 1: ")


def test_a_run_whose_process_dies_is_drained_and_closed_as_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = run(tree([]), out=tmp_path / "run")
    folder = result.folder
    text = folder.experiment.read_text()
    folder.experiment.write_text(text.replace("loggers: []", "loggers: [{kind: csv}]"))
    folder.result.unlink()
    said: list[str] = []
    monkeypatch.setattr(Table, "close", lambda self, status: said.append(status))
    monkeypatch.setattr(Loop, "_told", lambda self, seconds: True)  # stdin has ended
    Loop(folder.path).run()
    assert said == ["killed"] and len(table(result)) == 5


def test_steps_that_a_logger_has_had_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = run(tree([{"kind": "csv"}]), out=tmp_path / "run")
    monkeypatch.setattr(Loop, "_told", lambda self, seconds: True)
    Lines(result.folder.metrics).append({"step": 15, "time": time.time(), "metrics": {"loss": 7.0}})
    Loop(result.folder.path).run()
    assert [int(row["step"]) for row in table(result)] == [0, 5, 10, 15, 20]


def test_values_that_are_not_finite_reach_the_loggers_as_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = run(tree([{"kind": "csv"}]), out=tmp_path / "run")
    monkeypatch.setattr(Loop, "_told", lambda self, seconds: True)
    Lines(result.folder.metrics).append({"step": 25, "time": time.time(), "metrics": {"loss": None}})
    Loop(result.folder.path).run()
    assert table(result)[-1]["loss"] == "nan"


# --- what the file may say ---


def test_a_missing_package_is_answered_with_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for i, kind in enumerate(("tensorboard", "wandb")):
        with pytest.raises(UserError, match=rf"pip install 'orchestrator\[{kind}\]'") as caught:
            check([Csv(), Csv(), *[TensorBoard(), Wandb()][i : i + 1]][1:])
        assert caught.value.path == "loggers.1.kind"


def test_the_same_logger_twice_is_refused_and_two_of_a_kind_have_names():
    with pytest.raises(UserError, match=r"this is the logger loggers.0 once more") as caught:
        check([Csv(), Csv()])
    assert caught.value.path == "loggers.1"
    pytest.importorskip("tensorboardX")
    two = (TensorBoard(), TensorBoard(dir="elsewhere"))
    check(two)
    assert named(two) == {"tensorboard": two[0], "tensorboard#2": two[1]}


def test_what_can_not_be_meant_is_refused():
    for logger, said in (
        ({"kind": "tensorbord"}, "did you mean 'tensorboard'"),
        ({"kind": "wandb", "mode": "off"}, "loggers.0.mode"),
        ({"kind": "wandb", "project": "a/b"}, "loggers.0.project"),
        ({"kind": "csv", "dir": "x"}, "loggers.0.dir: unknown setting"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(tree([logger]))


def test_relative_folders_mean_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.loggers.handle.start", lambda folder: None)
    for name in ("boards", "more"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    first = run(tree([{"kind": "tensorboard", "dir": "boards"}]), out=tmp_path / "run", callbacks=[StopsAt10()])
    assert f"dir: {tmp_path}/boards" in first.folder.experiment.read_text()
    monkeypatch.chdir(tmp_path / "more")
    again = resume(tmp_path / "run", {"loggers": [{"kind": "wandb", "dir": "own"}]})
    assert f"dir: {tmp_path}/more/own" in again.folder.experiment.read_text()


def test_about_names_the_run_after_its_folder(tmp_path: Path):
    assert About(tmp_path / "x-1f", "p", "id", {}, -1).run == "x-1f"
