"""`ray job submit --working-dir . -- python -m orchestrator run FILE …` against a head on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster
from mlflow import MlflowClient
from tiny import last, records

from backends.errors import UserError
from orchestrator.folder import RunFolder, read_json, status
from orchestrator.ray_job import refuse_relative, this_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ("-s", "network.width=8", "-s", "points={pde: 200, ic: 20, bc: 20}", "-s", "evaluate.every=50")
FISHER = ("run", "experiments/fisher/fisher.yaml", *SMALL)
"""A problem of the user's own, in a file beside the experiment file."""
SHORT = ("-s", "stages=[{kind: adam, lr: 3e-3, steps: 100}]")


class Jobs:
    """The command line of jobs on a machine that talks to a cluster, and its server where the command says less."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.root, self.server = root, cluster.jobs
        self.environment = {**os.environ, **cluster.environment, "PYTHONWARNINGS": "ignore"}

    def submit(self, name: str, *words: str, wait: bool = False) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, from the checkout."""
        ray = (sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.server)
        options = ("--submission-id", name, "--working-dir", ".", *(() if wait else ("--no-wait",)))
        command = [*ray, *options, "--", "python", "-m", "orchestrator", *words]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300)

    def ended(self, name: str) -> dict[str, Any]:
        """What the server says of a job that is over."""
        return self.until(name, lambda about: about["status"] in ("SUCCEEDED", "FAILED", "STOPPED"))

    def until(self, name: str, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        about: dict[str, Any] = {}
        for _ in range(600):
            about = self._ask(name)
            if condition(about):
                return about
            time.sleep(0.3)
        pytest.fail(f"job {name} is {about}: {self.logs(name)}")

    def logs(self, name: str) -> str:
        return str(self._ask(f"{name}/logs")["logs"])

    def stop(self, name: str) -> None:
        self._ask(f"{name}/stop", b"")

    def _ask(self, path: str, data: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.server}/api/jobs/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found


@pytest.fixture
def jobs(cluster: Cluster, root: Path) -> Jobs:
    return Jobs(cluster, root)


def places(folder: Path) -> tuple[str, ...]:
    """Where a job must put what it leaves."""
    return "-s", f"storage={folder}/runs", "-s", f"tracking.uri=sqlite:///{folder}/mlflow.db"


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def in_mlflow(folder: Path) -> Any:
    """The one run of a job's tracking store."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return found


def test_a_job_trains_an_own_problem_and_leaves_its_run_in_storage_and_mlflow(jobs: Jobs, tmp_path: Path) -> None:
    done = jobs.submit("good", *FISHER, *SHORT, *places(tmp_path), wait=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs.ended("good")["status"] == "SUCCEEDED"
    out = only_run(tmp_path)
    assert (status(RunFolder(out)), last(out).step) == ("finished", 100)
    assert (out / "code" / "fisher.py").exists()
    found = in_mlflow(tmp_path)
    assert found.info.status == "FINISHED"
    assert found.info.run_id == read_json(RunFolder(out).mlflow)["run_id"]
    assert found.data.tags["orchestrator.job"] == "good"
    assert found.data.params["task.target"].endswith("fisher.py:Fisher")
    assert found.data.metrics["loss/pde"] == pytest.approx(records(out)[-1][1]["loss/pde"])


def test_jobs_that_must_fail_fail_with_the_message_in_their_log(jobs: Jobs, tmp_path: Path) -> None:
    """A relative storage folder would be lost with the job; a loss that is not finite ends a run."""
    jobs.submit("lost", *FISHER, *SHORT)
    jobs.submit("nan", *FISHER, "-s", "stages=[{kind: adam, lr: 1e30, steps: 100}]", *places(tmp_path))
    lost = jobs.ended("lost")
    assert (lost["status"], lost["driver_exit_code"]) == ("FAILED", 2)
    assert "lies in the job's working directory" in jobs.logs("lost")
    assert "submit with -s storage=FOLDER" in jobs.logs("lost")
    nan = jobs.ended("nan")
    assert (nan["status"], nan["driver_exit_code"]) == ("FAILED", 3)
    assert "the loss is not finite in pde, ic, bc" in jobs.logs("nan")
    assert in_mlflow(tmp_path).info.status == "FAILED"


def test_a_stopped_job_leaves_a_checkpoint_and_a_run_marked_preempted(jobs: Jobs, tmp_path: Path) -> None:
    endless = ("-s", "stages=[{kind: adam, lr: 3e-3, steps: 10000000}]", "-s", "tracking.every=50")
    jobs.submit("endless", *FISHER, *endless, *places(tmp_path))
    runs = tmp_path / "runs"
    jobs.until("endless", lambda _: runs.exists() and len(records(only_run(tmp_path))) > 1)
    jobs.stop("endless")
    assert jobs.ended("endless")["status"] == "STOPPED"
    out = only_run(tmp_path)
    result = read_json(RunFolder(out).result)
    assert result["status"] == status(RunFolder(out)) == "preempted"
    assert last(out).step == result["step"] > 0
    found = in_mlflow(tmp_path)
    assert (found.info.status, found.data.tags["orchestrator.status"]) == ("KILLED", "preempted")


def test_in_a_job_whatever_lies_in_its_working_directory_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = "sqlite:////elsewhere/mlflow.db"
    refuse_relative("runs", "sqlite:///mlflow.db", None)  # not in a job: all is well
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    found = this_job()
    assert found is not None and found.id == "raysubmit_1"
    for storage in ("runs", str(here / "runs"), "../" + here.name):
        with pytest.raises(UserError, match=r"storage '.*' lies in the job's working directory.*-s storage=FOLDER"):
            refuse_relative(storage, store, None)
    with pytest.raises(UserError, match=r"--out 'out' lies in the job's working directory"):
        refuse_relative("/elsewhere", store, Path("out"))
    for uri in ("sqlite:///mlflow.db", f"sqlite:///{here}/mlflow.db"):
        with pytest.raises(UserError, match=r"tracking store lies in the job's working directory.*-s tracking.uri="):
            refuse_relative("/elsewhere", uri, None)
    with pytest.raises(UserError, match=r"the logger's folder 'boards' lies in the job's working directory"):
        refuse_relative("/elsewhere", store, None, [None, "boards"])
    refuse_relative("/elsewhere", store, None, ["/elsewhere/boards", None])
    for uri in (store, "http://tracker:5000", ""):
        refuse_relative("/elsewhere", uri, Path("/elsewhere/run"))
