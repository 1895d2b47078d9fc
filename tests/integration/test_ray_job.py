"""`ray job submit … -- python -m orchestrator run FILE` on a cluster: the job's outcome is the run's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.folder import find
from orchestrator.jsonl import read_json

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's working directory: experiment files and an own problem beside them."""
    folder = tmp_path_factory.mktemp("upload")
    for name in ("burgers/burgers_soft.yaml", "fisher/fisher.yaml", "fisher/fisher.py"):
        shutil.copy(ROOT / "experiments" / name, folder / Path(name).name)
    return folder


def submit(cluster: Any, upload: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- python -m orchestrator …`, as a person types it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs),
            *("--working-dir", ".", "--", "python", "-m", "orchestrator", *words),
        ],
        cwd=upload, env={**os.environ, **cluster.environment}, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


def kept(tmp_path: Path) -> list[str]:
    """Where the run goes, outside the job's working directory."""
    return ["-s", f"storage={tmp_path}/runs", "-s", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]


def test_a_job_with_an_own_problem_succeeds_and_is_found_in_storage_and_mlflow(
    cluster: Any, upload: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    done = submit(
        cluster,
        upload,
        "run",
        "fisher.yaml",
        *kept(tmp_path),
        "-s",
        "stages.adam.steps=50",
        "-s",
        "stages.lbfgs.steps=5",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = find("fisher", str(tmp_path / "runs"))
    result = read_json(folder.result)
    assert (result["status"], result["step"]) == ("finished", 55)
    assert (folder.path / "code" / "fisher.py").exists(), "the user's file travelled with the run"
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.type"] == "JOB"
    assert run.data.metrics["error/l2"] == pytest.approx(result["metrics"]["error/l2"])


def test_a_relative_storage_is_refused_in_a_job_with_the_line_to_write(cluster: Any, upload: Path) -> None:
    done = submit(cluster, upload, "run", "burgers_soft.yaml")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "is deleted with the job" in said
    assert "-s storage=" in said
    assert "Traceback" not in said


def test_a_failing_experiment_fails_the_job_with_the_message_in_its_log(
    cluster: Any, upload: Path, tmp_path: Path
) -> None:
    done = submit(cluster, upload, "run", "burgers_soft.yaml", *kept(tmp_path), "-s", "stages.warm.lr=1e30")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "is not finite in pde" in said, said[-3000:]
    assert "Traceback" not in said
    assert read_json(find("latest", str(tmp_path / "runs")).result)["status"] == "failed"


def test_a_stopped_job_is_preempted_with_a_checkpoint_to_go_on_from(cluster: Any, upload: Path, tmp_path: Path) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    from orchestrator.ray_cluster import environ, forget_token

    long = ["-s", "stages.warm.steps=2000000", "-s", "checkpoint.every=1000", "-s", "tracking.enabled=false"]
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs, "--no-wait"),
        *("--submission-id", "stopped", "--working-dir", ".", "--"),
        *("python", "-m", "orchestrator", "run", "burgers_soft.yaml", *kept(tmp_path), *long),
    ]
    subprocess.run(
        command, cwd=upload, env={**os.environ, **cluster.environment}, check=True, capture_output=True, timeout=120
    )
    runs = tmp_path / "runs"
    until(lambda: any(runs.glob("*/checkpoints/step-*/meta.json")), "a checkpoint is written")
    with environ(cluster.environment):
        forget_token()
        client = JobSubmissionClient(cluster.jobs)
        client.stop_job("stopped")
        until(lambda: client.get_job_status("stopped") == JobStatus.STOPPED, "the job has stopped")
    forget_token()
    result = read_json(find("latest", str(runs)).result)
    assert result["status"] == "preempted"
    assert result["checkpoint"].endswith(f"step-{result['step']:09d}")


def until(condition: Any, what: str, limit_s: float = 120.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s} s until {what}"
        time.sleep(0.2)
