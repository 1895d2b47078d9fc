"""A safetensors export as a function again: numpy computes our networks, its framework a user's own module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from backends.errors import UserError
from backends.networks.custom import CustomNetwork
from orchestrator.assemble import assemble
from orchestrator.exporting import trained_of
from orchestrator.folder import read_json
from orchestrator.reader import read_experiment

Function = Callable[[Mapping[str, Any]], dict[str, NDArray[Any]]]


def load(folder: str | Path) -> Function:
    """The exported function: named columns -> named outputs. Raises UserError where the folder is no such export."""
    folder = Path(folder)
    about = read_json(folder / "config.json")
    if about.get("format") != "safetensors":
        raise UserError(f"{folder} is no safetensors export (its config.json says {about.get('format', 'nothing')!r})")
    arrays = safetensors.numpy.load((folder / about["file"]).read_bytes())
    experiment = read_experiment(folder / "experiment.yaml").experiment
    snapshot = SimpleNamespace(arrays=arrays, meta={"precision": about["precision"]})
    if not isinstance(experiment.network, CustomNetwork):
        return trained_of(experiment, folder, snapshot, about["outputs"], backend=experiment.backend)
    # A module: the backend's own prediction, with a fresh optimizer that nobody looks at.
    stage = experiment.stages[-1].model_dump(mode="json")
    plain = {"kind": "sgd", "steps": 1, "precision": about["precision"], "name": stage["name"]}
    made = assemble(experiment.changed(stages=[plain]), folder)
    own, meta = made.backend.arrays(made.backend.init(experiment.seed))
    state = made.backend.load({**own, **{k: v.astype(own[k].dtype) for k, v in arrays.items()}}, meta)

    def function(columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        given = {name: np.asarray(columns[name]) for name in about["inputs"]}
        found = made.backend.predict(state, tuple(about["outputs"]), given)
        return {name: value.astype(about["precision"]) for name, value in found.items()}

    return function
