"""Runs in a real MLflow: what arrives is what was written, exactly once, whoever dies or is away meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from synthetic_runs import EXPERIMENT, PARAMS, draw, end, migrated_store, new_run, save, say, train

from orchestrator import uploader
from orchestrator.mlflow_ui import Server, free_port
from orchestrator.spool import Sent
from orchestrator.system_metrics import SystemMetrics

pytestmark = pytest.mark.slow

LONG_S = 120.0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    return migrated_store(template, tmp_path / "store")


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; how long it takes is nobody's business."""
    limit = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.02)


def history(client: MlflowClient, run_id: str, key: str) -> dict[int, float]:
    """{step: value}; fails where a step was stored twice."""
    found = client.get_metric_history(run_id, key)
    assert len({m.step for m in found}) == len(found), f"{key} was stored twice at some steps"
    return {m.step: m.value for m in found}


def only_run(client: MlflowClient, name: str = EXPERIMENT) -> Any:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def assert_stored_once(client: MlflowClient, written: dict[str, dict[int, float]]) -> None:
    run = only_run(client)
    for key, values in written.items():
        assert history(client, run.info.run_id, key) == values


def test_everything_a_run_writes_is_read_back(tmp_path: Path, uri: str):
    folder = new_run(tmp_path / "burgers-1f3a", uri)
    handle = uploader.start(folder)
    say(folder, "status", status="running")
    with SystemMetrics(folder / "system.jsonl", every_s=3600):
        written = train(folder, range(0, 1000, 100))
        draw(folder, 500)
        save(folder, 500, best=True)
        save(folder, 700, best=False)
    say(folder, "warning", message="compiling takes long")
    train_more = train(folder, range(1000, 2001, 100))
    draw(folder, 2000)
    save(folder, 2000, best=False)
    (folder / "log.txt").write_text("done\n")
    end(folder)
    report = handle.finish()
    assert report.complete and not report.unsent, str(report)

    client = MlflowClient(uri)
    run = only_run(client)
    assert run.info.run_id == report.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "burgers-1f3a")
    assert run.data.params == {k: str(v) for k, v in PARAMS.items()}
    tags = run.data.tags
    assert tags["orchestrator.status"] == "finished" and tags["mine"] == "yes" and tags["mlflow.user"] == "ada"
    assert tags["mlflow.source.git.commit"] == "1" * 40 and tags["orchestrator.config"] == "2" * 64
    for word in ("finished at step 2,000", "| error/l2 | 0.00065 |", str(folder), "compiling takes long"):
        assert word in tags["mlflow.note.content"]
    assert_stored_once(client, {k: {**written.get(k, {}), **train_more.get(k, {})} for k in {**written, **train_more}})
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    found = set(artifacts(client, run.info.run_id))
    assert {
        "experiment.yaml",
        "provenance.json",
        "code/mine.py",
        "result.json",
        "log.txt",
        "figures/solution.png",
    } <= found
    assert {f.split("/")[1] for f in found if f.startswith("checkpoints/")} == {"step-000000500", "step-000002000"}
    images = sorted(f for f in found if f.startswith("images/") and f.endswith(".png"))
    assert [f.split("+")[:3] for f in images] == [
        ["images/current~solution", "step", "0"],
        ["images/figures~solution", "step", "2000"],
        ["images/figures~solution", "step", "500"],
    ]
    assert (tmp_path / "store" / "mlartifacts").is_dir() and not (tmp_path / "mlruns").exists()


def test_an_uploader_that_is_killed_again_and_again_sends_everything_once(tmp_path: Path, uri: str):
    folder = new_run(tmp_path / "burgers-dead", uri)
    say(folder, "status", status="running")
    moments, written = random.Random(3), {}
    for attempt in range(5):
        fresh = train(folder, range(attempt * 1000, (attempt + 1) * 1000))
        written = {k: {**written.get(k, {}), **fresh[k]} for k in fresh}
        if attempt % 2:
            draw(folder, attempt * 1000)
        before = Sent.load(folder).sent
        handle = uploader.start(folder)
        wanted = before + moments.randrange(1, 4500)
        until(lambda h=handle, n=wanted: Sent.load(folder).sent >= n or h.process.poll() is not None, "sending")
        time.sleep(moments.random() * 0.1)
        os.kill(handle.process.pid, signal.SIGKILL)
        handle.process.communicate()
    end(folder, step=5000)
    report = uploader.sync(folder)
    assert report.complete, str(report)
    client = MlflowClient(uri)
    assert_stored_once(client, written)
    found = [f for f in artifacts(client, str(report.run_id), "images") if f.endswith(".png") and "figures~" in f]
    assert sorted(int(f.split("+")[2]) for f in found) == [1000, 3000]


def test_a_server_that_dies_and_comes_back_gets_everything_once(tmp_path: Path, uri: str):
    port = free_port(5400)
    with Server(uri, port) as server:
        folder = new_run(tmp_path / "burgers-http", server.url)
        handle = uploader.start(folder)
        say(folder, "status", status="running")
        written = train(folder, range(0, 2000))
        until(lambda: Sent.load(folder).sent > 1000, "some of it was sent")
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    fresh = train(folder, range(2000, 4000))
    draw(folder, 4000)
    until(lambda: Sent.load(folder).state == "retrying", "the uploader noticed")
    with Server(uri, port):
        end(folder)
        report = handle.finish(wait_s=LONG_S)
        assert report.complete, str(report)
        client = MlflowClient(f"http://127.0.0.1:{port}")
        assert_stored_once(client, {k: {**written[k], **fresh[k]} for k in written})
        assert "figures/solution.png" in set(artifacts(client, str(report.run_id)))


def test_a_server_that_never_comes_costs_a_warning_and_sync_sends_later(tmp_path: Path, uri: str):
    port = free_port(5500)
    folder = new_run(tmp_path / "burgers-away", f"http://127.0.0.1:{port}")
    handle = uploader.start(folder)
    written = train(folder, range(0, 500))
    end(folder)
    report = handle.finish(wait_s=1.0)
    assert handle.process.poll() is not None
    points = sum(map(len, written.values()))
    assert (report.complete, report.unsent, report.run_id) == (False, points, None)
    assert str(report).startswith(
        f"{points} points have not reached MLflow (nothing answers at http://127.0.0.1:{port})"
    )
    still = uploader.sync(folder)
    assert not still.complete and still.unsent == points
    with Server(uri, port):
        for _ in range(2):
            assert uploader.sync(folder).complete
        client = MlflowClient(f"http://127.0.0.1:{port}")
        assert_stored_once(client, written)
        assert only_run(client).info.status == "FINISHED"


def test_a_server_that_accepts_and_never_answers_is_given_up(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        folder = new_run(tmp_path / "burgers-mute", f"http://127.0.0.1:{silent.getsockname()[1]}")
        handle = uploader.start(folder)
        train(folder, range(3))
        end(folder)
        report = handle.finish(wait_s=1.0)
    assert not report.complete and "does not answer" in report.error


def test_runs_that_start_together_on_a_fresh_store_find_the_same_experiment(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/new/folder/mlflow.db"
    folders = [new_run(tmp_path / f"burgers-{i}", uri) for i in range(4)]
    for folder in folders:
        train(folder, range(5))
        end(folder)
    handles = [uploader.start(folder) for folder in folders]
    reports = [handle.finish(wait_s=LONG_S) for handle in handles]
    assert all(r.complete for r in reports), [str(r) for r in reports]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert {r.info.run_id for r in client.search_runs([experiment.experiment_id])} == {r.run_id for r in reports}
    assert client.search_runs(["0"]) == []
    assert experiment.artifact_location == f"file://{tmp_path}/new/folder/mlartifacts"


def test_an_experiment_that_was_deleted_is_a_warning_that_says_how_to_restore_it(tmp_path: Path, uri: str):
    client = MlflowClient(uri)
    number = client.create_experiment(EXPERIMENT)
    client.delete_experiment(number)
    folder = new_run(tmp_path / "burgers-gone", uri)
    handle = uploader.start(folder)
    written = train(folder, range(5))
    end(folder)
    report = handle.finish(wait_s=1.0)
    assert not report.complete and f"mlflow experiments restore --experiment-id {number}" in report.error
    client.restore_experiment(number)
    assert uploader.sync(folder).complete
    assert_stored_once(client, written)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_is_read_only_is_a_warning(tmp_path: Path, uri: str):
    store = tmp_path / "store"
    for path in (store / "mlflow.db", store):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    folder = new_run(tmp_path / "burgers-ro", uri)
    end(folder)
    report = uploader.sync(folder)
    store.chmod(0o755)
    assert not report.complete and report.error


def test_a_store_in_a_place_that_can_not_be_made_is_a_warning(tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = new_run(tmp_path / "burgers-nowhere", f"sqlite:///{tmp_path}/file/mlflow.db")
    end(folder)
    report = uploader.sync(folder)
    assert not report.complete and report.error


def test_a_store_that_lost_the_run_gets_it_again(tmp_path: Path, template: Path, uri: str):
    folder = new_run(tmp_path / "burgers-lost", uri)
    written = train(folder, range(20))
    end(folder)
    first = uploader.sync(folder)
    migrated_store(template, tmp_path / "store")
    second = uploader.sync(folder)
    assert first.complete and second.complete and first.run_id != second.run_id
    assert_stored_once(MlflowClient(uri), written)


def test_a_run_that_is_given_another_experiment_appears_there_whole(tmp_path: Path, uri: str):
    folder = new_run(tmp_path / "burgers-moved", uri)
    written = train(folder, range(20))
    end(folder)
    assert uploader.sync(folder).complete
    record = json.loads((folder / "run.json").read_text())
    record["experiment"], record["tags"]["mine"] = "elsewhere", "no"
    (folder / "run.json").write_text(json.dumps(record))
    assert uploader.sync(folder).complete
    client = MlflowClient(uri)
    run = only_run(client, "elsewhere")
    assert run.data.tags["mine"] == "no" and run.data.tags["orchestrator.status"] == "finished"
    assert history(client, run.info.run_id, "loss") == written["loss"]


OWNER = """
import signal, sys
from pathlib import Path
from orchestrator import uploader
from orchestrator.folder import RunFolder, acquire
folder = RunFolder(Path(sys.argv[1]))
with acquire(folder):
    handle = uploader.start(folder)
    print(handle.process.pid, flush=True)
    signal.pause()
"""


def test_a_run_whose_process_is_killed_is_marked_killed_and_resumes_in_the_same_mlflow_run(tmp_path: Path, uri: str):
    folder = new_run(tmp_path / "burgers-cut", uri)
    say(folder, "status", status="running")
    written = train(folder, range(0, 10))
    with subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        assert os.getsid(process.pid) != os.getsid(owner.pid), "Ctrl-C in the terminal would end the uploader too"
        until(lambda: Sent.load(folder).sent, "the first points")
        owner.kill()
    process.wait(LONG_S)
    client = MlflowClient(uri)
    run = only_run(client)
    assert (run.info.status, run.data.tags["orchestrator.status"]) == ("KILLED", "killed")
    assert "ended without a word" in run.data.tags["mlflow.note.content"]

    handle = uploader.start(folder)
    say(folder, "status", status="running")
    train(folder, range(5, 10))  # repeated after the last checkpoint, at another time
    fresh = train(folder, range(10, 15))
    until(lambda: only_run(client).info.status == "RUNNING", "running again")
    end(folder)
    assert handle.finish().complete
    assert only_run(client).info.status == "FINISHED"
    assert_stored_once(client, {k: {**written[k], **fresh.get(k, {})} for k in written})


def test_the_ui_answers_to_its_own_names_only(tmp_path: Path, uri: str):
    import http.client

    with Server(uri, free_port(5600)) as server:
        for host, answer in ((f"localhost:{server.port}", 200), ("10.evil.example", 403), ("127.0.0.1:1", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
            assert connection.getresponse().status == answer, host
            connection.close()
        pid = server.pid
        assert pid is not None
        listening = {
            c.laddr.ip
            for p in (psutil.Process(pid), *psutil.Process(pid).children(True))
            for c in p.net_connections()
            if c.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
    assert not psutil.pid_exists(pid)
