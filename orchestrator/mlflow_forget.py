"""Mark MLflow runs as deleted, in a process of its own: importing mlflow takes seconds and changes the process.

python -m orchestrator.mlflow_forget < [[uri, run id], …]     prints [[run id, error or ""], …]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.mlflow_store import environment, first_contact
from orchestrator.tracking_uri import sqlite_file

WAIT_S = 120.0


def forget(runs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """(ids that are marked as deleted, a warning for each other one). Never raises: the folders matter more.

    A local store that is not there is not made for it.
    """
    warnings = [_left(run, f"there is no store {uri}") for uri, run in runs if _absent(uri)]
    wanted = [(uri, run) for uri, run in runs if not _absent(uri)]
    if not wanted:
        return [], warnings
    ours = str(Path(__file__).resolve().parent.parent)
    paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.mlflow_forget"],
            input=json.dumps(wanted),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment(), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
            timeout=WAIT_S,
            text=True,
            check=False,
        )
        answers: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        answers = [[run, f"no answer in {WAIT_S:g} s"] for _, run in wanted]
    except (OSError, ValueError, IndexError) as error:
        answers = [[run, f"mlflow can't be asked ({error})"] for _, run in wanted]
    warnings += [_left(run, error) for run, error in answers if error]
    return [run for run, error in answers if not error], warnings


def _absent(uri: str) -> bool:
    file = sqlite_file(uri)
    return file is not None and not file.is_file()


def _left(run: str, why: str) -> str:
    return f"the MLflow run {run} was not marked as deleted: {why}"


def _mark(uri: str, run: str) -> str:
    """What went wrong; empty where the run is deleted now (or was never there)."""
    from filelock import Timeout
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from orchestrator.upload_process import plain

    try:
        with first_contact(uri):
            MlflowClient(tracking_uri=uri, registry_uri=uri).delete_run(run)
    except MlflowException as error:
        # RESOURCE_DOES_NOT_EXIST: gone already; INVALID_PARAMETER_VALUE: deleted before
        gone = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        return "" if gone else plain(error, uri)
    except (SQLAlchemyError, OSError, Timeout) as error:
        return plain(error, uri)
    return ""


def main() -> int:
    """The process."""
    print(json.dumps([[run, _mark(uri, run)] for uri, run in json.load(sys.stdin)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
