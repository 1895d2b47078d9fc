"""Tracking as the experiment file describes it, and what a run says about itself in MLflow.

Nothing here imports mlflow: a run writes `run.json` (parameters, tags, store), `orchestrator.uploader` sends it.
"""

from __future__ import annotations

import getpass
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError
from backends.periods import Period
from backends.spec import Leaf
from orchestrator.tracking_uri import DEFAULT_URI, absolute_uri, uri_problem

if TYPE_CHECKING:
    from orchestrator.config import Experiment
    from orchestrator.ray_job import RayJob

log = logging.getLogger("orchestrator")

TAG = "orchestrator."
"""Prefix of our own tags."""
_LEFT_OUT = ("version", "extends", "name", "storage", "tracking", "loggers", "figures")
"""Parts of the file that say how a run is kept and drawn, not what it computes: no parameters in MLflow."""


TagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./ -]{0,249}$")]


class Tracking(Leaf):
    """Where and how densely a run is recorded in MLflow."""

    enabled: bool = True
    """Send the run to MLflow. false: only the run folder is written."""
    uri: str | None = None
    """`sqlite:///FILE` (relative to the working directory) or `http(s)://HOST:PORT`. Default: MLFLOW_TRACKING_URI,
    else `sqlite:///mlflow.db`."""
    experiment: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """MLflow experiment that the run belongs to. Default: MLFLOW_EXPERIMENT_NAME, else the experiment's name."""
    every: Period = 100
    """Optimizer steps between recorded training metrics (evaluations are always recorded)."""
    checkpoints: Literal["all", "best", "none"] = "best"
    """Checkpoints that are uploaded. best: the best and the last one, at the end."""
    tags: dict[TagName, Annotated[str, Field(max_length=5000)]] = Field(default_factory=dict)
    """Tags of your own."""
    system_metrics_every_s: PositiveFloat = 10.0
    """Seconds between readings of CPU, memory, disk, network and accelerators."""

    @field_validator("uri")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        problem = uri_problem(value) if value is not None else None
        if problem:
            raise PydanticCustomError("own_uri", "{problem}", {"problem": problem})
        return value

    @field_validator("tags")
    @classmethod
    def _not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key.startswith(("mlflow.", TAG)):
                raise PydanticCustomError(
                    "own_tag",
                    "'{key}': tags that begin with mlflow. or orchestrator. are written by the run itself",
                    {"key": key},
                )
        return value


def effective_uri(
    tracking: Tracking, explicit: bool = False, *, environ: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> str:
    """The absolute tracking URI of a run. Raises UserError where MLFLOW_TRACKING_URI can't be used.

    In order: an `explicit` setting (`-s tracking.uri=…`), MLFLOW_TRACKING_URI, the file, `sqlite:///mlflow.db`.
    """
    from_environment = environ.get("MLFLOW_TRACKING_URI")
    if from_environment and not (explicit and tracking.uri):
        problem = uri_problem(from_environment)
        if problem:
            raise UserError(f"MLFLOW_TRACKING_URI: {problem}", path="tracking.uri")
        if tracking.uri and absolute_uri(tracking.uri, cwd) != absolute_uri(from_environment, cwd):
            log.warning(
                "tracking.uri is %s in the file; MLFLOW_TRACKING_URI=%s takes precedence",
                tracking.uri,
                from_environment,
            )
        return absolute_uri(from_environment, cwd)
    return absolute_uri(tracking.uri or DEFAULT_URI, cwd)


def run_record(
    uid: str,
    experiment: Experiment,
    tree: Mapping[str, Any],
    uri: str,
    origin: Mapping[str, Any],
    job: RayJob | None = None,
) -> dict[str, Any]:
    """The content of `run.json`: what the uploader needs to know before the first metric.

    `uid`: 32 hex digits that find the run again in MLflow; `tree`: the resolved experiment as plain data;
    `origin`: `provenance.capture`'s answer.
    """
    tracking = experiment.tracking
    return {
        "id": uid,
        "name": experiment.name,
        "experiment": tracking.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment.name,
        "uri": uri,
        "created": time.time(),
        "checkpoints": tracking.checkpoints,
        "params": params(tree),
        "tags": {
            **tracking.tags,
            **_system_tags(origin, job),
            **_own_tags(uid, experiment, origin, job),
        },
    }


def params(tree: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The flattened experiment: `network.width`, `stages.warm.lr`; not what is unset or says where a run is kept."""
    return dict(_flat("", {k: v for k, v in tree.items() if k not in _LEFT_OUT}))


def _flat(path: str, value: Any) -> list[tuple[str, str | int | float]]:
    if isinstance(value, Mapping):
        return [pair for key, child in value.items() for pair in _flat(f"{path}.{key}" if path else str(key), child)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(v, Mapping) for v in value):
            return [pair for i, v in enumerate(value) for pair in _flat(f"{path}.{v.get('name', i)}", _unnamed(v))]
        return [(path, ", ".join(str(v) for v in value))] if value else []
    if value is None:
        return []
    if isinstance(value, bool):
        return [(path, "true" if value else "false")]
    return [(path, value if isinstance(value, int | float) and math.isfinite(value) else str(value))]


def _unnamed(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stage.items() if k != "name"}


def _own_tags(uid: str, experiment: Experiment, origin: Mapping[str, Any], job: RayJob | None) -> dict[str, str]:
    tags = {
        f"{TAG}id": uid,
        f"{TAG}backend": experiment.backend,
        f"{TAG}task": str(getattr(experiment.task, "kind", type(experiment.task).__name__)),
        f"{TAG}status": "waiting",
    }
    if origin.get("config_sha256"):
        tags[f"{TAG}config"] = str(origin["config_sha256"])
    if job is not None:
        tags[f"{TAG}job"] = job.id
    return tags


def _system_tags(origin: Mapping[str, Any], job: RayJob | None) -> dict[str, str]:
    """The tags that MLflow's fluent API would have written by itself."""
    git = origin.get("git") or {}
    wanted = {
        "mlflow.user": _user(),
        "mlflow.source.name": _source(origin),
        "mlflow.source.type": "JOB" if job is not None else "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "mlflow.source.git.repoURL": git.get("remote"),
        "mlflow.source.git.dirty": str(bool(git["dirty"])).lower() if "dirty" in git else None,
    }
    return {k: str(v) for k, v in wanted.items() if v}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no entry for this uid, as in many containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _source(origin: Mapping[str, Any]) -> str:
    """The command line, as a person would type it."""
    program, *words = [str(w) for w in origin.get("command") or sys.argv]
    name = Path(program).name
    return " ".join(["orchestrator" if name == "__main__.py" else name or "python", *words])
