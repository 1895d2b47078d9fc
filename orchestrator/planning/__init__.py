"""What a run will need, before it is started: `orchestrator plan FILE`, `orchestrator.plan(FILE)`.

Nothing is trained but a short probe in processes of its own (`orchestrator.planning.measure`), which leaves nothing
behind but compiled programs in the cache, where the run will find them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import UserError
from backends.task import trainable
from orchestrator import launch
from orchestrator.config import Experiment
from orchestrator.folder import storage_of
from orchestrator.planning import estimate, room
from orchestrator.planning.probing import clocks, probe, since
from orchestrator.planning.sources import Origin, origins
from orchestrator.planning.uploads import Upload, upload
from orchestrator.reader import Read
from orchestrator.runs import _storage, checked, read_folder
from orchestrator.start_from import beginning
from orchestrator.tracking import effective_uri


@dataclass(frozen=True)
class Plan:
    """A run, as far as it can be known before it starts; `as_dict()` is what `--json` prints."""

    file: str
    config: tuple[Origin, ...]
    """Every resolved value with where it came from."""
    device: str
    parameters: dict[str, Any]
    """`total`, `trained`, `by_prefix` {part of the network: numbers}."""
    samples: dict[str, int]
    """Samples of each batch per step, of one worker."""
    stages: list[dict[str, Any]]
    """Each `name`, `kind`, `steps`, `precision`, `optimizer_bytes`, `compiled` (what `compile` comes to),
    `steps_per_s`, `evaluations_per_step`, `train_s`, `peak_bytes`, `chunks` {batch: {`chunk`: samples per pass,
    `layer_bytes`: of its widest layer}}."""
    eta: dict[str, Any]
    """`seconds` until the run has ended and `parts` of it (`start`, `load`, `train`, `evaluate`, `points`, `weights`,
    `checkpoint`, `figures`), the same in CPU seconds (`cpu_s`, `cpu_parts`), `happenings` {what: how often}, and
    `compile_s`: what compiling took besides, which is in the cache now. Stages that end early make it shorter; sending
    to MLflow, which goes on beside the run, is not in it."""
    memory: dict[str, Any]
    """Bytes of one training process: `peak_bytes`, `peak_compiling_bytes` (where programs are not in the cache yet),
    `framework_bytes`, `parameter_bytes`, `optimizer_bytes`, `working_bytes` (the rest: activations, programs,
    pictures), `device` {`in_use`, `peak`} of an accelerator."""
    terms: dict[str, dict[str, float]]
    """Per trained term at step 0: `value` (mean on the held-out points), `weight`, `weighted`."""
    checkpoints: dict[str, Any]
    """`written` (at most), `kept`, `bytes_each` by stage, `bytes_kept`."""
    storage: dict[str, Any]
    """`folder` of the run folders, `free_bytes`."""
    tracking: dict[str, Any]
    """`enabled`, `uri`, `experiment`."""
    resources: dict[str, Any]
    """`asked` {workers, cpus, gpus, memory_bytes}, `where`, `nodes`, `free_memory_bytes`, `lacking`."""
    upload: Upload
    """What a Ray job would upload from the working directory."""
    warnings: tuple[str, ...]
    """What should be looked at before the run: terms far apart, what is slower than it could be."""

    @property
    def lacking(self) -> list[str]:
        """Why the run can't start, or will not fit; empty where nothing is in its way."""
        return [*self.resources["lacking"], *self.storage["lacking"]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; keys are the fields of this class."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("config", "upload", "warnings", "storage")}
        job = self.upload
        return {
            **plain,
            "storage": {k: v for k, v in self.storage.items() if k != "lacking"},
            "config": {o.path: {"value": o.value, "origin": o.origin} for o in self.config},
            "upload": {
                "folder": job.folder,
                "bytes": job.bytes,
                "files": job.files,
                "largest": [{"entry": name, "bytes": size} for name, size in job.largest],
                "limit_bytes": job.limit,
                "complete": job.complete,
            },
            "warnings": list(self.warnings),
            "lacking": self.lacking,
        }


def plan(source: str | Path | Experiment | Mapping[str, Any], overrides: Any = None) -> Plan:
    """What running `source` will need. Raises ConfigError for mistakes in it, RunFailed where the probe fails."""
    began = clocks()
    read = checked(source, overrides)
    experiment, spent = read.experiment, since(began)
    try:
        launch.backend_installed(experiment.backend)
        explicit = {p: read.document.mark(p).file.startswith("-s") for p in (("storage",), ("tracking", "uri"))}
        storage = storage_of(_storage(experiment, explicit["storage",]))
        uri = effective_uri(experiment.tracking, explicit["tracking", "uri"])
        beginning(experiment, read_folder(source), str(storage))
    except UserError as error:
        raise read.blame(error) from error
    warm, cold, said = probe(source, overrides, experiment)
    warm["check"] = spent
    return _plan(read, warm, cold, said, storage=storage, uri=uri, name=str(source) if read.text else experiment.name)


def _plan(
    read: Read, warm: dict[str, Any], cold: dict[str, Any], said: list[str], *, storage: Path, uri: str, name: str
) -> Plan:
    """Everything together."""
    experiment = read.experiment
    best = experiment.checkpoint.best is not None
    memory, terms = estimate.memory(warm, cold), estimate.magnitudes(warm)
    kept = estimate.checkpoints(warm, experiment.checkpoint.keep, best)
    job = upload(Path.cwd())
    spread = estimate.advice(terms)
    bad = [f"stage {s['name']!r}: the first steps are not finite" for s in warm["stages"] if not s["ok"]]
    early = [f"stage {s['name']!r} ended in the probe: {s['laps'][-1]['ended']}" for s in warm["stages"] if _ended(s)]
    return Plan(
        file=name,
        config=tuple(origins(read, _decided(read, storage, uri, warm["device"]))),
        device=warm["device"],
        parameters=_parameters(warm["parameters"]),
        samples=warm["samples"],
        stages=estimate.stages(warm),
        eta=estimate.eta(warm, cold, best=best, ray=experiment.resources.workers > 0),
        memory=memory,
        terms=terms,
        checkpoints=kept,
        storage=room.disk(storage, kept["bytes_kept"]),
        tracking={
            "enabled": experiment.tracking.enabled,
            "uri": uri,
            "experiment": experiment.tracking.experiment or experiment.name,
        },
        resources=room.resources(experiment, memory["peak_compiling_bytes"]),
        upload=job,
        warnings=tuple(w for w in (*bad, spread, *early, *said, job.problem) if w),
    )


def _ended(stage: Mapping[str, Any]) -> bool:
    return bool(stage["laps"] and stage["laps"][-1]["ended"])


def _decided(read: Read, storage: Path, uri: str, device: str) -> dict[str, tuple[Any, str]]:
    """What the environment and the machine decide."""

    experiment, found = read.experiment, {}
    if experiment.device == "auto":
        found["device"] = (device, "auto, on this machine")
    if os.environ.get("MLFLOW_TRACKING_URI") and not read.document.mark(("tracking", "uri")).file.startswith("-s"):
        found["tracking.uri"] = (uri, "MLFLOW_TRACKING_URI")
    elif experiment.tracking.uri is None:
        found["tracking.uri"] = (uri, "default")
    if os.environ.get("ORCHESTRATOR_RUNS") and not read.document.mark(("storage",)).file.startswith("-s"):
        found["storage"] = (str(storage), "ORCHESTRATOR_RUNS")
    elif experiment.storage is None:
        found["storage"] = (str(storage), "default")
    if os.environ.get("MLFLOW_EXPERIMENT_NAME") and experiment.tracking.experiment is None:
        found["tracking.experiment"] = (os.environ["MLFLOW_EXPERIMENT_NAME"], "MLFLOW_EXPERIMENT_NAME")
    return found


def _parameters(sizes: Mapping[str, int]) -> dict[str, Any]:
    """How many numbers there are, in all and by the first part of their names."""
    by_prefix: dict[str, int] = {}
    for name, size in sizes.items():
        prefix = name.partition("/")[0] if "/" in name else "network"
        by_prefix[prefix] = by_prefix.get(prefix, 0) + size
    trained = sum(size for name, size in sizes.items() if trainable(name))
    return {"total": sum(sizes.values()), "trained": trained, "by_prefix": by_prefix}


__all__ = ["Origin", "Plan", "Upload", "plan"]
