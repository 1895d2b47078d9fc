"""Running inside a Ray job on a cluster: what is different there.

The working directory of a job is an unpacked upload that is deleted afterwards: a relative storage folder or
tracking store would be lost with it, so both are refused before anything starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.errors import UserError


@dataclass(frozen=True)
class RayJob:
    """The job that this driver runs in."""

    id: str


def this_job() -> RayJob | None:
    """The submitted job that this process belongs to, or None."""
    config = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if not config:
        return None
    try:
        metadata = json.loads(config).get("metadata", {})
    except json.JSONDecodeError:
        return None
    number = metadata.get("job_submission_id") or metadata.get("job_id")
    return RayJob(str(number)) if number else None


def refuse_relative(storage: str, uri: str, out: Path | None, folders: Sequence[str | None] = ()) -> None:
    """In a job, refuse a run folder, tracking store or logger's folder in the working directory. Raises UserError.

    storage: as it was asked for; uri: of the tracking store, "" where there is none; out: `--out`, which goes before;
    folders: of each logger, None where it writes into the run folder.
    """
    if this_job() is None:
        return
    if _lost(out or Path(storage).expanduser()):
        raise UserError(
            f"{'--out' if out else 'storage'} {str(out or storage)!r} lies in the job's working directory, which is "
            "deleted with the job; submit with -s storage=FOLDER (a folder that every node mounts), or set "
            "ORCHESTRATOR_RUNS in the job's environment",
            path="storage",
        )
    if uri.startswith("sqlite:///") and _lost(Path(uri.removeprefix("sqlite:///"))):
        raise UserError(
            "the tracking store lies in the job's working directory, which is deleted with the job; submit with "
            "-s tracking.uri=http://HOST:PORT (or sqlite:////FOLDER/mlflow.db), or set MLFLOW_TRACKING_URI in the "
            "job's environment",
            path="tracking.uri",
        )
    for i, folder in enumerate(folders):
        if folder is not None and _lost(Path(folder).expanduser()):
            raise UserError(
                f"the logger's folder {folder!r} lies in the job's working directory, which is deleted with the job; "
                "give a folder that every node mounts, or leave `dir` out: the logger then writes into the run folder",
                path=f"loggers.{i}.dir",
            )


def _lost(path: Path) -> bool:
    """Whether a path goes with the unpacked upload that is the job's working directory."""
    return (Path.cwd() / path).resolve().is_relative_to(Path.cwd().resolve())
