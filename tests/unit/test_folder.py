"""Run folders: made, owned by one process, found again, asked to stop; lines and files that survive what happens."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import StorageFailed, UserError
from orchestrator import folder as folders
from orchestrator import lock
from orchestrator.folder import (
    Lines,
    RunFolder,
    acquire,
    create,
    find,
    list_runs,
    owner,
    read_json,
    read_jsonl,
    status,
    storage_of,
    write_json,
)


@pytest.fixture(autouse=True)
def disk_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that was written: no test here needs the disk itself."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def made(storage: Path, name: str = "burgers", *, created: float = 0.0, mlflow: str = "", id_: str = "") -> RunFolder:
    """A run folder as a run leaves it before its first step."""
    folder = create(storage, name)
    write_json(folder.run, {"name": name, "id": id_ or folder.path.name.rpartition("-")[2] * 4, "created": created})
    if mlflow:
        write_json(folder.mlflow, {"run_id": mlflow, "experiment_id": "1", "uri": "sqlite:///x.db"})
    say(folder, "waiting")
    return folder


def say(folder: RunFolder, word: str) -> None:
    Lines(folder.events).append({"time": 0.0, "step": 0, "event": "status", "status": word})


# --- making ---


def test_a_run_folder_is_called_after_its_experiment_and_is_new_every_time(tmp_path: Path) -> None:
    a, b = create(tmp_path / "runs", "burgers"), create(tmp_path / "runs", "burgers")
    assert a != b and a.path.parent == tmp_path / "runs"
    assert len(a.path.name) == len("burgers-01234567") and a.path.name.startswith("burgers-")
    assert list(a.path.iterdir()) == []


def test_the_files_have_the_names_of_the_design(tmp_path: Path) -> None:
    f = RunFolder(tmp_path)
    files = (
        f.experiment, f.original, f.code, f.provenance, f.metrics, f.events, f.log, f.figures, f.checkpoints, f.result,
        f.lock, f.stop, f.run, f.mlflow,
    )  # fmt: skip
    assert [p.relative_to(tmp_path).as_posix() for p in files] == [
        "experiment.yaml", "original.yaml", "code", "provenance.json", "metrics.jsonl", "events.jsonl", "log.txt",
        "figures", "checkpoints", "result.json", "LOCK", "STOP", "run.json", "mlflow.json",
    ]  # fmt: skip


def test_out_chooses_the_folder_and_must_be_empty(tmp_path: Path) -> None:
    out = tmp_path / "here"
    out.mkdir()
    assert create(tmp_path, "x", out).path == out
    (out / "precious").write_text("")
    with pytest.raises(UserError, match="not empty"):
        create(tmp_path, "x", out)
    assert (out / "precious").exists()


def test_storage_that_can_not_be_written_is_a_users_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"storage .*can't be written .*choose a folder") as caught:
        create(tmp_path / "file" / "runs", "x")
    assert caught.value.exit_code == 2 and caught.value.path == "storage"
    with pytest.raises(UserError, match="--out"):
        create(tmp_path, "x", tmp_path / "file")


def test_storage_is_the_option_then_the_environment_then_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_of(None) == here / "runs"
    monkeypatch.setenv("ORCHESTRATOR_RUNS", "/data/runs")
    assert storage_of(None) == Path("/data/runs")
    assert storage_of("mine") == here / "mine"
    assert storage_of("file:///data/x") == Path("/data/x")
    with pytest.raises(UserError, match="s3://bucket/x' is not a folder"):
        storage_of("s3://bucket/x")


# --- finding ---


@pytest.fixture
def runs(here: Path) -> dict[str, RunFolder]:
    storage = here / "runs"
    return {
        "old": made(storage, "burgers", created=1.0, mlflow="aaaa1111" * 4),
        "soft": made(storage, "burgers_soft", created=2.0, mlflow="aaaa2222" * 4),
        "new": made(storage, "burgers", created=3.0, mlflow="bbbb3333" * 4),
        "heat": made(storage, "heat", created=2.5),
    }


def test_a_run_is_found_by_folder_name_id_latest_and_unambiguous_beginnings(runs: dict[str, RunFolder]) -> None:
    soft = runs["soft"]
    for asked in (
        str(soft.path), f"runs/{soft.path.name}", soft.path.name, "burgers_soft", "burgers_s", "aaaa2222" * 4, "aaaa2",
        soft.path.name.rpartition("-")[2], soft.path.name[:-1],
    ):  # fmt: skip
        assert find(asked).path == soft.path, asked
    assert find("latest") == runs["new"]
    assert find("hea") == runs["heat"]
    assert find(read_json(runs["heat"].run)["id"]) == runs["heat"]


def test_a_storage_option_decides_where_names_are_looked_up(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    other = made(tmp_path / "other", "heat")
    assert find("heat", str(tmp_path / "other")) == other


def test_an_ambiguous_name_lists_the_candidates(runs: dict[str, RunFolder]) -> None:
    with pytest.raises(UserError) as caught:
        find("burgers")
    said = str(caught.value)
    assert runs["old"].path.name in said and runs["new"].path.name in said and "burgers_soft" not in said
    assert "(waiting, 1970-01-01" in said or "(waiting, 1969-12-31" in said
    with pytest.raises(UserError, match="may be any of"):
        find("aaaa")


def test_an_unknown_name_is_answered_with_the_nearest(runs: dict[str, RunFolder]) -> None:
    with pytest.raises(UserError, match=r"there is no run 'burgers_sotf' .*did you mean 'burgers_soft'"):
        find("burgers_sotf")


def test_no_runs_at_all_says_where_was_looked(here: Path) -> None:
    with pytest.raises(UserError, match=r"there are no runs in .*runs .*--storage"):
        find("latest")
    with pytest.raises(UserError):
        find("")


def test_a_folder_that_is_no_run_does_not_hide_the_run_of_that_name(runs: dict[str, RunFolder], here: Path) -> None:
    (here / "heat").mkdir()
    assert find("heat") == runs["heat"]


def test_the_list_has_status_step_and_last_metrics_oldest_first(runs: dict[str, RunFolder], here: Path) -> None:
    lines = Lines(runs["soft"].metrics)
    for step in range(0, 10_000, 1):
        lines.append({"step": step, "time": 0.0, "metrics": {"loss": 1.0 / (step + 1), "loss/pde": 0.5}})
    write_json(runs["heat"].result, {"status": "finished", "step": 7, "metrics": {"error/l2": 0.1}})
    (here / "runs" / "stray").mkdir()
    listed = list_runs(here / "runs")
    assert [e["folder_name"] for e in listed] == [runs[k].path.name for k in ("old", "soft", "heat", "new")]
    old, soft, heat, _ = listed
    assert old["status"] == "waiting" and old["run_id"] == "aaaa1111" * 4 and old["step"] == 0
    assert soft["step"] == 9999 and soft["metrics"] == {"loss": 1e-4, "loss/pde": 0.5}
    assert heat["status"] == "finished" and heat["step"] == 7 and heat["metrics"] == {"error/l2": 0.1}
    assert heat["name"] == "heat" and heat["started"] == 2.5
    assert list_runs(here / "nowhere") == []


# --- owning ---


def holder(folder: RunFolder, **changes: Any) -> None:
    """A lock as another process would have written it."""
    me = lock._identity()
    write_json(folder.lock, {**me, "token": "another", **changes})


def test_a_second_owner_is_refused_and_told_who_and_since_when(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with acquire(folder):
        with pytest.raises(UserError) as caught, acquire(folder):
            pass
        said = str(caught.value)
        assert f"process {os.getpid()} on {socket.gethostname()} since 20" in said and "orchestrator stop" in said
        held = owner(folder)
        assert held is not None and held["pid"] == os.getpid()
    assert owner(folder) is None and not folder.lock.exists()
    with acquire(folder):
        pass


def test_the_lock_is_released_when_the_run_fails(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with pytest.raises(ZeroDivisionError), acquire(folder):
        raise ZeroDivisionError
    assert not folder.lock.exists()


def test_a_lock_of_a_dead_or_reused_process_is_taken_over_at_once(tmp_path: Path) -> None:
    folder = made(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for changes in ({"pid": child.pid}, {"process_started": 1.0}, {"pid": -1}, {"pid": None}, {"pid": "x"}):
        holder(folder, **changes)
        assert owner(folder) is None
        with acquire(folder):
            held = owner(folder)
            assert held is not None and held["token"] != "another"


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"boot": "another boot"}], ids=["machine", "reboot"])
def test_where_the_process_can_not_be_asked_the_heartbeat_decides(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = made(tmp_path)
    holder(folder, **changes)
    with pytest.raises(UserError, match=r"running already.*if that machine is gone"):
        acquire(folder)
    long_ago = time.time() - 2 * lock.STALE_S
    os.utime(folder.lock, (long_ago, long_ago))
    assert owner(folder) is None
    with acquire(folder):
        assert owner(folder) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\x00\x01"])
def test_a_lock_that_says_nothing_holds_nothing(tmp_path: Path, content: str) -> None:
    folder = made(tmp_path)
    folder.lock.write_text(content)
    with acquire(folder):
        pass


def test_the_heartbeat_touches_only_ones_own_lock(tmp_path: Path) -> None:
    folder = made(tmp_path)
    mine = acquire(folder)
    long_ago = time.time() - 1000
    os.utime(folder.lock, (long_ago, long_ago))
    assert mine.beat() and time.time() - folder.lock.stat().st_mtime < 500
    holder(folder)
    assert not mine.beat(), "another process took it over"
    mine.release()
    assert read_json(folder.lock)["token"] == "another", "and it is theirs to release"


_RACE = """
import sys, time
from pathlib import Path
from backends.errors import UserError
from orchestrator.folder import RunFolder, acquire
folder = RunFolder(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    with acquire(folder):
        print("mine", flush=True)
        sys.stdin.readline()
except UserError:
    print("refused", flush=True)
    sys.stdin.readline()
"""


def test_of_processes_that_start_together_exactly_one_gets_a_stale_lock(tmp_path: Path) -> None:
    folder = made(tmp_path)
    holder(folder, process_started=1.0)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.stdout.readline() for child in children if child.stdout]
        assert sorted(said) == ["mine\n", "refused\n", "refused\n", "refused\n"]
    finally:
        for child in children:
            child.communicate("\n")


# --- status and stop ---


def test_status_follows_a_run_from_waiting_to_its_end(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert status(folder) == "waiting"
    with acquire(folder):
        assert status(folder) == "waiting"
        say(folder, "running")
        assert status(folder) == "running"
        say(folder, "finished")
        write_json(folder.result, {"status": "finished"})
    assert status(folder) == "finished"


@pytest.mark.parametrize("word", ["finished", "stopped", "killed", "preempted", "failed"])
def test_a_run_that_has_ended_has_the_status_of_its_result(tmp_path: Path, word: str) -> None:
    folder = made(tmp_path)
    say(folder, "running")
    write_json(folder.result, {"status": word})
    assert status(folder) == word


def test_a_run_whose_process_died_without_a_word_was_killed(tmp_path: Path) -> None:
    folder = made(tmp_path)
    text = (
        "import sys, os, signal; from pathlib import Path; from orchestrator.folder import *\n"
        "folder = RunFolder(Path(sys.argv[1])); acquire(folder)\n"
        "Lines(folder.events).append({'event': 'status', 'status': 'running'})\n"
        "print('running', flush=True); sys.stdin.readline()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", text, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "running\n"
    assert status(folder) == "running"
    with pytest.raises(UserError, match=f"process {child.pid} on "):
        acquire(folder)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert folder.lock.exists() and status(folder) == "killed"


def test_a_finished_run_that_is_resumed_and_killed_is_not_finished(tmp_path: Path) -> None:
    folder = made(tmp_path)
    say(folder, "finished")
    write_json(folder.result, {"status": "finished"})
    folder.clear_stop()
    holder(folder, process_started=1.0)
    assert status(folder) == "killed"


def test_a_request_to_stop_keeps_its_first_reason_until_it_is_cleared(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert folder.stop_requested() is None
    folder.request_stop("preempted")
    folder.request_stop("killed")
    assert folder.stop_requested() == "preempted"
    folder.clear_stop()
    assert folder.stop_requested() is None
    folder.clear_stop()
    with pytest.raises(ValueError, match="not 'bored'"):
        folder.request_stop("bored")
    assert {p.name for p in folder.path.iterdir()} == {"run.json", "events.jsonl"}


def test_a_full_disk_does_not_stop_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    folder.request_stop("preempted")
    assert folder.stop_requested() == "killed"


# --- lines ---


def test_lines_are_read_as_they_were_written_and_from_where_one_left_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == ([], 0)
    lines = Lines(path)
    lines.append({"step": 1, "metrics": {"loss": 0.1, "Δ": "ü"}})
    records, offset = read_jsonl(path)
    assert records == [{"step": 1, "metrics": {"loss": 0.1, "Δ": "ü"}}]
    Lines(path).append({"step": 2})
    assert read_jsonl(path, offset) == ([{"step": 2}], path.stat().st_size)
    assert lines.dropped == 0


def test_what_is_not_finite_becomes_null_and_numpy_becomes_numbers(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "x.jsonl"
    Lines(path).append({"a": float("nan"), "b": [float("inf"), np.float64("nan")], "c": {"d": np.float32(0.5)}})
    Lines(path).append({"n": np.int64(3), "v": np.arange(2), "p": Path("/x")})
    first, second = read_jsonl(path)[0]
    assert first == {"a": None, "b": [None, None], "c": {"d": 0.5}} and second == {"n": 3, "v": [0, 1], "p": "/x"}
    assert "NaN" not in path.read_text()


def test_a_line_that_a_killed_writer_tore_is_skipped_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Lines(path).append({"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "mess')
    records, offset = read_jsonl(path)
    assert records == [{"n": 1}] and offset < path.stat().st_size, "a line without an end is still being written"
    Lines(path).append({"n": 3})
    assert read_jsonl(path)[0] == [{"n": 1}, {"n": 3}]
    assert read_jsonl(path, offset)[0] == [{"n": 3}]


def test_a_full_disk_is_counted_and_never_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    lines.append({"n": 1})
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:4]))  # the last bytes of a full disk
        lines.append({"n": 2})
        lines.append({"n": 3})
    lines.append({"n": 4})
    assert lines.dropped == 2
    assert read_jsonl(path)[0] == [{"n": 1}, {"n": 4}]
    nowhere = Lines(tmp_path / "missing" / "x.jsonl")
    nowhere.append({"n": 1})
    assert nowhere.dropped == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_room_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to("/dev/full")
    lines = Lines(tmp_path / "x.jsonl")
    lines.append({"n": 1})
    assert lines.dropped == 1


def test_lines_that_a_process_wrote_before_kill_9_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    text = (
        "import sys; from pathlib import Path; from orchestrator.folder import Lines\n"
        "lines = Lines(Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    lines.append({'n': n, 'text': 'x' * 500}); sys.stdout.write(f'{n}\\n'); sys.stdout.flush()"
    )
    child = subprocess.Popen([sys.executable, "-c", text, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(50):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    acknowledged = int(([49, *map(int, rest.split("\n")[:-1])])[-1])
    numbers = [r["n"] for r in read_jsonl(path)[0]]
    assert numbers == list(range(len(numbers))) and numbers[-1] >= acknowledged


def test_a_file_that_became_shorter_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    Lines(path).append({"n": 1})
    assert read_jsonl(path, 10_000) == ([{"n": 1}], path.stat().st_size)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 250))
def test_no_bytes_can_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    records, after = read_jsonl(path, offset)
    assert after <= len(data) and all(isinstance(r, dict) for r in records)
    path.write_bytes(data)
    Lines(path).append({"last": True})
    assert read_jsonl(path)[0][-1] == {"last": True}
    assert isinstance(read_json(path), dict)


# --- files ---


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"status": "running", "x": float("inf")})
    assert json.loads(path.read_text()) == {"status": "running", "x": None}

    def broken(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        with pytest.raises(StorageFailed, match=r"result\.json could not be written: No space left") as caught:
            write_json(path, {"status": "finished"})
    assert isinstance(caught.value, OSError) and caught.value.exit_code == 3
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert read_json(path)["status"] == "running"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_json_file_that_can_not_be_read_is_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path / "missing.json") == {}
    for content in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        assert read_json(tmp_path / "x.json") == {}


def test_everything_that_a_run_needs_comes_from_one_module() -> None:
    assert all(hasattr(folders, name) for name in folders.__all__)
