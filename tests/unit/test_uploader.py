"""The uploader without MLflow: its spool, its words, and exactly-once whatever crashes and whenever."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from backends.errors import UserError
from orchestrator import uploader
from orchestrator.jsonl import Lines
from orchestrator.replay import Replay, metric_key
from orchestrator.spool import Sent, backlog, complete_lines
from orchestrator.summary import note
from orchestrator.tracking import Tracking, effective_uri, params
from orchestrator.tracking_uri import absolute_uri, uri_problem
from orchestrator.upload_process import plain

UID = "0123456789abcdef0123456789abcdef"


def make(folder: Path, uri: str = "http://tracker:5000", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"id": UID, "name": "burgers", "experiment": "burgers", "uri": uri, "created": 1000.0}
    record |= {"params": {"backend": "jax", "seed": 0}, "tags": {"orchestrator.id": UID, "mlflow.user": "ada"}, **more}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def metrics(folder: Path, step: int, time: float | None = None, **values: Any) -> None:
    Lines(folder / "metrics.jsonl").append({"step": step, "time": time or 1000.0 + step, "metrics": values})


def event(folder: Path, kind: str, **more: Any) -> None:
    Lines(folder / "events.jsonl").append({"time": 1000.5, "step": 0, "event": kind, **more})


# --- a stand-in for MLflow, with its primary keys and its refusals ---


class Crash(BaseException):
    """The process died."""


class Store:
    """What MLflow would hold. Dies in the calls numbered `crashes`, before or after they had their effect."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []
        self.points: set[tuple[str, float, int, int]] = set()
        self.files: Counter[str] = Counter()
        self.calls, self.crashes = 0, frozenset[int]()
        self.stage = "active"

    def _count(self) -> None:
        self.calls += 1
        if self.calls in self.crashes:
            raise Crash

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def search_runs(self, experiments: Any, text: str, *_: Any, **__: Any) -> Any:
        return [r for r in self.runs if r.data.tags["orchestrator.id"] in text]

    def create_run(self, experiment: str, *, tags: dict[str, str], **_: Any) -> Any:
        self._count()
        info = SimpleNamespace(
            run_id=f"{len(self.runs):032x}", experiment_id=experiment, artifact_uri="", status="RUNNING"
        )
        info.lifecycle_stage = self.stage
        self.runs.append(SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(tags), params={})))
        self._count()
        return self.runs[-1]

    def get_run(self, run_id: str) -> Any:
        self.runs[0].info.lifecycle_stage = self.stage
        return self.runs[0]

    def log_batch(
        self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), synchronous: bool = True
    ) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        self._count()
        data = self.runs[0].data
        wrong = any(m.key == "poison" for m in metrics) or self.stage != "active"
        if wrong or any(data.params.get(p.key, p.value) != p.value for p in params):
            raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
        self.points |= {(m.key, m.value, m.timestamp, m.step) for m in metrics}
        data.params |= {p.key: p.value for p in params}
        data.tags |= {t.key: t.value for t in tags}
        self._count()

    def log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        self._count()
        self.files[f"{folder}/{Path(path).name}" if folder else Path(path).name] += 1
        self._count()

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[0].data.tags[key] = value

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._count()
        self.runs[0].info.status = status
        self._count()

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[0].info.status = status


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: made)
    return made


def send(folder: Path) -> Replay:
    """What the uploader's loop does, without its pauses."""
    sent = Sent.load(folder)
    replay = Replay(folder, sent)
    while replay.step():
        sent.save(folder)
    if sent.final:
        replay.close(sent.status)
    sent.state = "done"
    sent.save(folder)
    return replay


def a_run(folder: Path) -> list[tuple[str, float, int, int]]:
    """A run with a resume in the middle, which repeats its steps; the points that MLflow should hold."""
    make(folder)
    event(folder, "status", status="running")
    for step in range(0, 6):
        metrics(folder, step, loss=1.0 / (1 + step), **{"loss/pde": 0.5})
    for step in range(4, 9):
        metrics(folder, step, time=5000.0 + step, loss=1.0 / (1 + step))
    (folder / "figures").mkdir(exist_ok=True)
    for step in (3, 8):
        Image.new("RGB", (30, 10)).save(folder / "figures" / f"solution-{step:09d}.png")
        event(folder, "figure", step=step, path=f"figures/solution-{step:09d}.png", key="figures/solution")
    event(folder, "status", status="finished")
    (folder / "experiment.yaml").write_text("name: burgers\n")
    (folder / "result.json").write_text(json.dumps({"step": 8, "metrics": {"error/l2": 1e-3}}))
    first = [("loss", 1.0 / (1 + s), 1_000_000 + 1000 * s, s) for s in range(6)]
    again = [("loss", 1.0 / (1 + s), 5_000_000 + 1000 * s, s) for s in range(6, 9)]
    return first + again + [("loss/pde", 0.5, 1_000_000 + 1000 * s, s) for s in range(6)]


# --- exactly once ---


@settings(max_examples=25, deadline=None)
@given(crashes=st.sets(st.integers(1, 60), max_size=8))
def test_whenever_the_uploader_dies_everything_arrives_exactly_once(crashes: set[int]):
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        folder, store = Path(temporary), Store()
        patch.setattr("mlflow.MlflowClient", lambda **_: store)
        expected = a_run(folder)
        store.crashes = frozenset(crashes)
        for _ in range(len(crashes) + 1):
            try:
                send(folder)
                break
            except Crash:
                continue
        assert len(store.runs) == 1
        assert store.points == set(expected)
        assert backlog(folder) == 0
        assert store.runs[0].info.status == "FINISHED"
        images = [f for f in store.files if f.startswith("images/figures~") and f.endswith(".png")]
        assert sorted(int(f.split("+")[2]) for f in images) == [3, 8]
        assert {"experiment.yaml", "result.json", "figures/solution.png"} <= set(store.files)


def test_a_second_sending_sends_nothing(tmp_path: Path, store: Store):
    a_run(tmp_path)
    send(tmp_path)
    files = dict(store.files)
    send(tmp_path)
    assert store.files == files and len(store.runs) == 1


def test_a_record_that_mlflow_refuses_is_left_out_and_holds_nothing_up(tmp_path: Path, store: Store):
    make(tmp_path)
    for step in range(20):
        metrics(tmp_path, step, loss=1.0, **({"poison": 1.0} if step == 7 else {}))
    replay = send(tmp_path)
    assert len(store.points) == 20 and replay.sent.refused == 1


def test_a_deleted_run_is_no_fault_of_the_data(tmp_path: Path, store: Store):
    from orchestrator.mlflow_store import StoreRefused

    make(tmp_path)
    send(tmp_path)
    store.stage = "deleted"
    metrics(tmp_path, 1, loss=1.0)
    with pytest.raises(StoreRefused, match="mlflow runs restore"):
        send(tmp_path)
    store.stage = "active"
    assert send(tmp_path).sent.refused == 0 and len(store.points) == 1


def test_values_that_are_not_finite_become_a_tag(tmp_path: Path, store: Store):
    make(tmp_path)
    metrics(tmp_path, 100, loss=float("nan"), **{"loss/pde": float("inf"), "loss/bc": None, "loss/ic": 1.0})
    metrics(tmp_path, 200, loss=float("-inf"))
    send(tmp_path)
    assert {key for key, *_ in store.points} == {"loss/ic"}
    assert (
        store.runs[0].data.tags["orchestrator.nonfinite"]
        == "loss from step 100, loss/bc from step 100, loss/pde from step 100"
    )


def test_a_run_that_goes_on_is_running_again(tmp_path: Path, store: Store):
    make(tmp_path)
    event(tmp_path, "status", status="killed", message="Ctrl-C")
    send(tmp_path)
    assert (store.runs[0].info.status, store.runs[0].data.tags["orchestrator.status"]) == ("KILLED", "killed")
    event(tmp_path, "status", status="running")
    send(tmp_path)
    assert (store.runs[0].info.status, store.runs[0].data.tags["orchestrator.status"]) == ("RUNNING", "running")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("finished", "FINISHED"),
        ("stopped", "FINISHED"),
        ("killed", "KILLED"),
        ("preempted", "KILLED"),
        ("failed", "FAILED"),
    ],
)
def test_the_words_for_an_end_become_mlflows(tmp_path: Path, store: Store, ours: str, theirs: str):
    make(tmp_path)
    event(tmp_path, "status", status=ours)
    send(tmp_path)
    assert (store.runs[0].info.status, store.runs[0].data.tags["orchestrator.status"]) == (theirs, ours)


def test_a_changed_parameter_of_a_resumed_run_does_not_stop_it(tmp_path: Path, store: Store):
    make(tmp_path)
    send(tmp_path)
    make(tmp_path, params={"backend": "torch", "seed": 0, "extra": 1})
    (tmp_path / "upload.json").unlink()
    send(tmp_path)
    assert store.runs[0].data.params == {"backend": "jax", "seed": "0", "extra": "1"}


@pytest.mark.parametrize(
    ("policy", "uploaded"), [("all", ["100", "200", "300"]), ("best", ["200", "300"]), ("none", [])]
)
def test_checkpoints_are_uploaded_as_the_file_asks(tmp_path: Path, store: Store, policy: str, uploaded: list[str]):
    make(tmp_path, checkpoints=policy)
    for step in (100, 200, 300):
        place = tmp_path / "checkpoints" / f"step-{step:09d}"
        place.mkdir(parents=True)
        (place / "meta.json").write_text("{}")
        event(tmp_path, "checkpoint", path=f"checkpoints/step-{step:09d}", best=step == 200)
    event(tmp_path, "checkpoint", path="checkpoints/step-000000050", best=True)  # removed meanwhile
    event(tmp_path, "status", status="finished")
    send(tmp_path)
    assert sorted(f.split("/")[1][-3:] for f in store.files if f.startswith("checkpoints")) == uploaded


# --- the spool ---


def test_what_a_callback_hands_over_becomes_an_artifact_at_its_path(tmp_path: Path, store: Store):
    folder = make(tmp_path)
    trace = folder / "profile" / "step-000000020" / "trace.json"
    trace.parent.mkdir(parents=True)
    trace.write_text("{}")
    event(folder, "artifact", step=30, path="profile/step-000000020")
    event(folder, "artifact", step=30, path="profile/missing")
    send(folder)
    assert "profile/step-000000020/trace.json" in store.files


def test_a_line_that_is_still_being_written_waits_and_a_torn_one_is_passed(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b": 2{"c": 3}\n{"d"')
    found = list(complete_lines(file, 0))
    assert [record for _, record in found] == [{"a": 1}, None]
    assert list(complete_lines(file, found[-1][0])) == []
    with file.open("ab") as more:
        more.write(b": 4}\n")
    assert [record for _, record in complete_lines(file, found[-1][0])] == [{"d": 4}]


def test_a_damaged_note_of_what_was_sent_means_sending_again(tmp_path: Path):
    for text in ("", "{", "[]", '{"offsets": 3, "unknown": 1}', '{"checkpoints": [1]}'):
        (tmp_path / "upload.json").write_text(text)
        assert Sent.load(tmp_path) == Sent()


def test_the_backlog_counts_points_and_figures_that_are_not_sent(tmp_path: Path):
    make(tmp_path)
    metrics(tmp_path, 0, loss=1.0, lr=0.1)
    metrics(tmp_path, 1, loss=1.0)
    event(tmp_path, "figure", path="figures/a.png", key="figures/a")
    event(tmp_path, "status", status="finished")
    assert backlog(tmp_path) == 4
    assert backlog(tmp_path, Sent(steps={"loss": 0})) == 3


# --- words ---


def test_a_report_says_what_is_missing_and_what_to_do(tmp_path: Path):
    make(tmp_path)
    metrics(tmp_path, 0, loss=1.0)
    said = uploader.report(tmp_path, "nothing answers at http://tracker:5000")
    assert not said.complete and said.unsent == 1
    assert str(said) == (
        f"1 point has not reached MLflow (nothing answers at http://tracker:5000); kept in {tmp_path}: "
        f"run `orchestrator sync {tmp_path}`"
    )


def test_errors_of_the_network_and_of_databases_become_plain():
    assert plain(OSError("… [Errno 111] Connection refused …"), "http://t:1") == "nothing answers at http://t:1"
    assert plain(OSError("attempt to write a readonly database"), "sqlite:///m.db") == "sqlite:///m.db is read-only"
    assert plain(ValueError(), "x") == "ValueError"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("loss/pde", "loss/pde"),
        ("a=b@c", "a_b_c"),
        ("../x", "_"),
        ("a//b/", "a/b"),
        ("", "_"),
        (".", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_metric_names_become_what_mlflow_takes(name: str, key: str):
    assert metric_key(name) == key


@given(st.text(max_size=40))
def test_every_metric_name_becomes_a_valid_one(name: str):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(metric_key(name))


def test_the_summary_leads_with_the_errors_and_says_how_to_go_on(tmp_path: Path):
    result = {"step": 4000, "metrics": {"loss": 0.5, "error/l2": 7e-4, "lr": 1e-3}, "train_s": 12.0, "reason": "Ctrl-C"}
    text = note({"name": "burgers"}, result, "killed", tmp_path, ["slow", "slow"])
    assert text.startswith("**burgers**: killed at step 4,000 (Ctrl-C), error/l2 = 0.0007, loss = 0.5")
    assert text.index("| error/l2 |") < text.index("| loss |") and "| lr |" not in text
    assert f"orchestrator resume {tmp_path}" in text and text.count("- slow") == 1
    assert "resume" not in note({"name": "burgers"}, result, "finished", tmp_path)
    assert "![current figure](a.png)" in note({"name": "burgers"}, {}, "running", tmp_path, picture="a.png")
    terms = {"metrics": {"validation/bc": 1e-9, "validation/total": 1e-3, "error/kappa": 0.1, "error/l2": 0.2}}
    first = note({"name": "burgers"}, terms, "finished", tmp_path).splitlines()[0]
    assert first == "**burgers**: finished, error/l2 = 0.2, error/kappa = 0.1"
    del terms["metrics"]["error/kappa"]
    assert "validation/total = 0.001" in note({"name": "burgers"}, terms, "finished", tmp_path).splitlines()[0]


# --- settings ---


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:////data/mlflow.db", "http://localhost:5000", "https://tracker.example/path"]
)
def test_usable_addresses(uri: str):
    assert uri_problem(uri) is None and Tracking(uri=uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("./mlruns", "sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "sqlite:///mlflow.db"),
        ("sqlite://", "names no file"),
        ("htp://localhost:5000", "is not supported"),
        ("databricks", "Databricks is not supported"),
        ("http://localhost:99999999", "Port out of range"),
        ("http://", "names no host"),
        ("http://ada:secret@tracker:5000", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_addresses_that_are_refused_are_answered_with_what_to_write(uri: str, says: str):
    with pytest.raises(ValidationError) as caught:
        Tracking(uri=uri)
    message = caught.value.errors()[0]["msg"]
    assert says in message and "secret" not in message


def test_tags_of_the_run_itself_are_not_the_users():
    with pytest.raises(ValidationError, match="written by the run itself"):
        Tracking(tags={"mlflow.user": "x"})


def test_the_environment_precedes_the_file_and_a_flag_precedes_both(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    there, file = {"MLFLOW_TRACKING_URI": "http://tracker:5000/"}, Tracking(uri="sqlite:///other.db")
    assert effective_uri(Tracking(), environ={}, cwd=tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert effective_uri(file, environ={}, cwd=tmp_path) == f"sqlite:///{tmp_path}/other.db"
    assert effective_uri(file, environ=there, cwd=tmp_path) == "http://tracker:5000"
    assert "takes precedence" in caplog.text
    assert effective_uri(file, True, environ=there, cwd=tmp_path) == f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        effective_uri(Tracking(), environ={"MLFLOW_TRACKING_URI": "databricks"}, cwd=tmp_path)


def test_a_relative_store_becomes_absolute(tmp_path: Path):
    assert absolute_uri("sqlite:///../mlflow.db", tmp_path) == f"sqlite:///{tmp_path.parent}/mlflow.db"
    assert absolute_uri("sqlite:////a/b.db", tmp_path) == "sqlite:////a/b.db"


def test_a_run_says_where_it_comes_from(tmp_path: Path):
    from orchestrator.config import Experiment
    from orchestrator.tracking import run_record

    tree = {"name": "burgers", "backend": "torch", "task": {"kind": "burgers"}, "tracking": {"tags": {"mine": "yes"}}}
    experiment = Experiment.model_validate({**tree, "stages": [{"kind": "adam", "steps": 10}]})
    origin = {
        "command": ["__main__.py", "run", "burgers.yaml"],
        "config_sha256": "2" * 64,
        "git": {"commit": "1" * 40, "branch": "main", "remote": None, "dirty": True},
    }
    record = run_record(
        UID, experiment, experiment.tree(), "sqlite:////m.db", origin, SimpleNamespace(id="raysubmit_1")
    )
    tags = record["tags"]
    assert (record["id"], record["experiment"], record["checkpoints"]) == (UID, "burgers", "best")
    assert (tags["orchestrator.id"], tags["orchestrator.job"], tags["mine"]) == (UID, "raysubmit_1", "yes")
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("orchestrator run burgers.yaml", "JOB")
    assert (tags["mlflow.source.git.branch"], tags["mlflow.source.git.dirty"]) == ("main", "true")
    assert "mlflow.source.git.repoURL" not in tags and tags["mlflow.user"] and tags["orchestrator.config"] == "2" * 64
    assert record["params"]["stages.adam.steps"] == 10 and "tracking.enabled" not in record["params"]


def test_parameters_are_flat_and_stages_go_by_name():
    tree = {
        "version": 1,
        "name": "burgers",
        "storage": "runs",
        "backend": "jax",
        "clip": None,
        "stages": [{"name": "warm", "kind": "adam", "lr": 1e-3, "schedule": {"kind": "cosine"}}],
        "scaling": {"coords": True, "fields": {}},
        "figures": {"formats": ["png", "pdf"]},
        "callbacks": [{"kind": "custom", "names": ["a", "b"]}],
    }
    assert params(tree) == {
        "backend": "jax",
        "stages.warm.kind": "adam",
        "stages.warm.lr": 1e-3,
        "stages.warm.schedule.kind": "cosine",
        "scaling.coords": "true",
        "callbacks.0.kind": "custom",
        "callbacks.0.names": "a, b",
    }
