"""Outputs of a finished (or running) run at any points, from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import checkpoint
from backends.errors import UserError
from orchestrator.assemble import assemble
from orchestrator.folder import RunFolder
from orchestrator.reader import read_experiment


def predict(
    folder: RunFolder, points: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Values of the named outputs, one per point. Raises UserError where columns do not fit one another."""
    columns = {
        k: np.asarray(v, dtype=np.float64).reshape(-1) if np.ndim(v) <= 1 else np.asarray(v) for k, v in points.items()
    }
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the columns must be of one length; got {lengths}")
    snapshot = checkpoint.newest(folder.checkpoints, lambda message: None)
    if snapshot is None:
        raise UserError(f"{folder.path} has no sound checkpoint to predict from")
    experiment = read_experiment(folder.experiment).experiment
    made = assemble(experiment, folder.path)
    state = made.backend.load(snapshot.arrays, snapshot.meta)
    return made.backend.predict(state, tuple(names or made.task.outputs), columns)
