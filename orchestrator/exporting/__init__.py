"""Trained runs as artefacts that run without this project: safetensors, StableHLO, `torch.export`, ONNX.

    path = export("latest", "onnx")           # a folder: model.onnx, config.json, load.py

What is exported is the function that `result.predict` computes, scaling and hard constraints included: named columns
in, named outputs out, any number of samples, in the precision of the run's last stage. Either backend's runs can be
exported to every format, because checkpoints open on both; a user's own module only by its own framework.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import backends
from backends.errors import OrchestratorError, RunFailed, UserError, nearest
from backends.networks.custom import CustomNetwork
from backends.own.code import load as load_own
from backends.trained import Trained
from orchestrator import build, levels
from orchestrator.config import Experiment
from orchestrator.exporting import describe, write
from orchestrator.exporting.checkpoints import chosen
from orchestrator.folder import RunFolder, find
from orchestrator.reader import read_experiment
from orchestrator.result import RunResult

FORMATS = {"safetensors": "", "stablehlo": "jax", "torch": "torch", "onnx": "torch"}
"""Format -> the backend that writes it; safetensors needs none."""


def export(
    run: RunResult | RunFolder | str | Path,
    format: str,
    *,
    checkpoint: str = "last",
    outputs: Sequence[str] | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    force: bool = False,
) -> Path:
    """Export a run and return the folder that was made.

    run: a result, folder, id or name; checkpoint: `last`, `best`, or a name such as `step-000004500`; outputs: fields,
    their derivatives (`u_x`), by default all fields (of an autoencoder: `reconstruction`); out: the folder to make, by
    default `exports/<checkpoint>-<format>` in the run's. `force` replaces a folder that is there.
    Raises UserError, and RunFailed where the framework can't export the user's own network.
    """
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}{nearest(format, FORMATS)}")
    folder = _folder(run, storage)
    target = Path(out).expanduser().absolute() if out else None
    write.refuse(target, force)
    snapshot = chosen(folder, checkpoint)
    target = target or folder.path / "exports" / f"step-{snapshot.step:09d}-{format}"
    write.refuse(target, force)
    experiment = read_experiment(folder.experiment).experiment
    experiment = levels.saved(experiment, snapshot.meta)
    trained = trained_of(experiment, folder.path, snapshot, outputs, backend=FORMATS[format] or experiment.backend)
    about = describe.config(folder, experiment, snapshot, trained, format)
    if format == "safetensors":
        files = describe.safetensors_files(folder, trained)
    else:
        files = {about["file"]: _made(FORMATS[format], trained, format)}
    return write.folder(target, {**files, **describe.texts(about)}, force=force)


def trained_of(
    experiment: Experiment, folder: Path, snapshot: Any, outputs: Sequence[str] | None, *, backend: str
) -> Trained:
    """The trained function of a checkpoint, its network as `backend` sees it. Raises UserError."""
    network = None
    if isinstance(experiment.network, CustomNetwork):
        module = backends.load(backend)
        network = module.adapt(load_own(experiment.network.target, folder), experiment.network.fields)
    task = build.task_of(experiment, folder, network)
    trained = Trained.of(task, snapshot.arrays, snapshot.meta["precision"], outputs)
    if network is None:
        trained(trained.columns(2))  # an unknown output is told here, in our words
    return trained


def _made(backend: str, trained: Trained, format: str) -> bytes:
    """The artefact; what a framework says about a user's network becomes one line."""
    backends.load(backend)
    try:
        return importlib.import_module(f"backends.{backend}.export").artefact(trained, format)
    except OrchestratorError:
        raise
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        what = getattr(trained.task, "network", None) or getattr(trained.task, "representation", trained.task)
        name = type(getattr(what, "network", what)).__name__
        raise RunFailed(f"{name} can't be exported as {format}: {type(error).__name__}: {said[:300]}") from error


def _folder(run: RunResult | RunFolder | str | Path, storage: str | None) -> RunFolder:
    if isinstance(run, RunResult):
        return run.folder
    return run if isinstance(run, RunFolder) else find(str(run), storage)


__all__ = ["FORMATS", "export"]
