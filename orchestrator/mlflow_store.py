"""First contact with an MLflow store: the experiment and the run, each made once whoever comes at the same time.

Measured with MLflow 3.17: several processes that open a fresh sqlite file together break its schema, and
`set_experiment` may silently answer with the default experiment. Hence a lock beside a local store, and ids instead
of names from then on. The fluent API is never used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from orchestrator.jsonl import read_json
from orchestrator.saved_view import experiment_tags
from orchestrator.tracking import TAG
from orchestrator.tracking_uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # by default one lost server blocks a call for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # loses points without a word
    "MLFLOW_TRUNCATE_LONG_VALUES": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "OMP_NUM_THREADS": "1",
}
"""What a process that speaks to MLflow needs before it imports mlflow."""
_UNWANTED = ("MLFLOW_RUN_ID", "MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_EXPERIMENT_ID")
LOCK_S = 180.0
"""Longest wait for another process that sets a fresh store up (its migrations take about ten seconds)."""


def environment() -> dict[str, str]:
    """This process's environment with what MLflow needs; credentials (MLFLOW_TRACKING_…) pass through."""
    return {k: v for k, v in os.environ.items() if k not in _UNWANTED} | ENVIRONMENT


class StoreRefused(Exception):
    """The store answers, and what it says needs a human: an experiment that was deleted, for example."""


@contextlib.contextmanager
def first_contact(uri: str) -> Iterator[None]:
    """Alone with a local store while it may be set up; servers look after themselves. Raises OSError, Timeout."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=LOCK_S):
        yield


def artifact_root(uri: str) -> str | None:
    """Where the artifacts of a new experiment of a local store go: `mlartifacts` beside its file."""
    file = sqlite_file(uri)
    return None if file is None else (file.parent / "mlartifacts").as_uri()


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment, made where it is missing. Raises StoreRefused where it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made = client.create_experiment(name, artifact_location=artifact_root(uri))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # somebody was faster
            if found is None:
                raise
        else:
            for key, value in experiment_tags(name).items():
                with contextlib.suppress(MlflowException):  # for the eye only
                    client.set_experiment_tag(made, key, value)
            return made
    if found.lifecycle_stage != "active":
        raise StoreRefused(
            f"the MLflow experiment {name!r} was deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}), or choose another with -s tracking.experiment=NAME"
        )
    return str(found.experiment_id)


def known_run(client: MlflowClient, folder: Path, record: Mapping[str, Any]) -> str | None:
    """The run id in `mlflow.json`, where it is about this store and experiment and the store still has it."""
    from mlflow.exceptions import MlflowException

    known = read_json(folder / "mlflow.json")
    same = all(known.get(k) == record[k] for k in ("uri", "experiment"))
    if not same or not known.get("run_id"):
        return None
    try:
        return client.get_run(known["run_id"]).info.run_id
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def run_of(client: MlflowClient, folder: Path, record: Mapping[str, Any], experiment: str) -> tuple[Any, bool]:
    """The MLflow run of `record` (run.json), found by our own tag or made now; and whether it was made."""
    from mlflow.entities import ViewType

    found = client.search_runs([experiment], f"tags.`{TAG}id` = '{record['id']}'", ViewType.ALL, max_results=1)
    if found:
        return found[0], False
    tags = {k: str(v) for k, v in record["tags"].items() if k.startswith(("mlflow.", TAG))}
    made = client.create_run(
        experiment,
        start_time=int(record["created"] * 1000),
        tags={**tags, f"{TAG}id": record["id"]},
        run_name=run_name(folder, record),
    )
    return made, True


def run_name(folder: Path, record: Mapping[str, Any]) -> str:
    """The folder's name where it tells the run (`burgers-1f3a`), so that two runs of one file can be told apart."""
    name = str(record["name"])
    return folder.name if folder.name.startswith(name) else name
