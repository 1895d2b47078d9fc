"""Outputs of a finished (or running) run at any points, from any of its checkpoints."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import checkpoint as checkpoints
from backends.checkpoint import Snapshot
from backends.data import ROW
from backends.environment import environment
from backends.errors import UserError, nearest
from backends.names import NORMAL
from backends.pde.domain import beyond, spatial
from backends.pde.regions import ROUNDED, draw, with_exact
from backends.pde.task import RESIDUAL, PdeTask
from orchestrator.assemble import Assembled, assemble
from orchestrator.evaluate import predictor as of_task
from orchestrator.folder import RunFolder, find, read_jsonl
from orchestrator.reader import read_experiment
from orchestrator.result import RunResult

log = logging.getLogger("orchestrator")
CHANGEABLE = ("backend", "device")
"""Settings of a run that may be others when it predicts."""


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready to be asked."""

    made: Assembled
    state: Any
    step: int
    """The checkpoint's."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that every sample needs: coordinates, or the inputs of a data set; empty where unknown."""
        task: Any = self.made.task
        if isinstance(task, PdeTask):
            return tuple(task.problem.coords)
        return tuple(getattr(getattr(task, "samples", None), "inputs", ()))

    def extra(self, names: Sequence[str]) -> tuple[str, ...]:
        """Further columns that may be of use: what a term at the user's own samples reads (`measured`), `row`."""
        task = self.made.task
        if not isinstance(task, PdeTask):
            return (ROW,)
        asked = {n.removeprefix(RESIDUAL) for n in names if n.startswith(RESIDUAL)}
        regions = [r.region for r in task.recordings.values() if asked & set(r.names)]
        rng = np.random.default_rng(0)
        own = [draw(task.problem, region, (), 1, "uniform", rng) for region in regions if region.at]
        normals = [NORMAL + c for c in self.inputs] if regions else []
        return tuple(dict.fromkeys([*normals, *(c for columns in own for c in columns if c not in self.inputs)]))

    def outputs(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """The names to predict; default: what the task calls its outputs."""
        return tuple(names or self.made.task.outputs)

    def __call__(self, columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Values of the named outputs, one per sample. Raises UserError where a column is missing or misshapen."""
        self._check(columns)
        given: dict[str, NDArray[Any]] = dict(columns)
        task = self.made.task
        if isinstance(task, PdeTask):
            given = _with_exact(task, given, names)
        elif ROW not in given and "image" in self.inputs:
            given[ROW] = np.arange(len(given[self.inputs[0]]), dtype=np.int64)
        return dict(of_task(task, self.made.backend, self.state)(tuple(names), given))

    def outside(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Coordinate -> how many samples lie outside the domain that was trained on, where there are some."""
        task, out = self.made.task, {}
        for name, (low, high) in task.problem.box().items() if isinstance(task, PdeTask) else ():
            slack = 1e-9 * (high - low)
            beyond = int(((columns[name] < low - slack) | (columns[name] > high + slack)).sum())
            if beyond:
                out[name] = beyond
        return out

    def off_geometry(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Which samples lie outside the problem's geometry, where the network was never trained."""
        task = self.made.task
        if isinstance(task, PdeTask):
            return beyond(task.problem, columns, ROUNDED)
        return np.zeros(len(next(iter(columns.values()))), bool)

    @property
    def space(self) -> tuple[str, ...]:
        """The coordinates in space of an equation."""
        task = self.made.task
        return spatial(task.problem) if isinstance(task, PdeTask) else ()

    @property
    def time(self) -> str:
        """The time of an equation, or empty."""
        task = self.made.task
        return task.problem.time if isinstance(task, PdeTask) else ""

    def _check(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name in self.inputs:
            if name not in columns:
                raise UserError(f"predict: the column {name!r} is missing{nearest(name, columns)}")
            wanted, shape = self._shape(name), columns[name].shape[1:]
            if wanted is not None and shape != wanted:
                raise UserError(
                    f"predict: {name!r} has the shape {[len(columns[name]), *shape]}; "
                    f"[samples{''.join(f', {n}' for n in wanted)}] is needed"
                )

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of one sample of an input; None where the task does not say."""
        samples: Any = getattr(self.made.task, "samples", None)
        known = getattr(samples, "columns", {}).get(name)
        if isinstance(self.made.task, PdeTask):
            return ()
        return None if known is None else known.shape[1:]


def predictor(
    run: str | Path | RunFolder | RunResult,
    checkpoint: str = "last",
    changes: Sequence[str] | Mapping[str, Any] = (),
    storage: str | None = None,
) -> Predictor:
    """Load a run's checkpoint, in this process. `changes`: another backend or device. Raises UserError."""
    folder = _folder(run, storage)
    changed = (
        dict(changes) if isinstance(changes, Mapping) else {k: v for k, _, v in (c.partition("=") for c in changes)}
    )
    for key in changed:
        if key not in CHANGEABLE:
            raise UserError(f"-s {key}: a prediction can only change {' and '.join(CHANGEABLE)}")
    overrides = {**({"device": "auto"} if "backend" in changed else {}), **changed}
    experiment = read_experiment(folder.experiment, overrides).experiment
    snapshot = snapshot_of(folder, checkpoint)
    for name, value in environment(experiment.backend, experiment.resources.cpus_per_worker, experiment.device).items():
        os.environ.setdefault(name, value)
    made = assemble(experiment, folder.path)
    return Predictor(made, made.backend.load(snapshot.arrays, snapshot.meta), snapshot.step)


def predict(
    run: str | Path | RunFolder | RunResult,
    points: Mapping[str, Any],
    names: Sequence[str] | None = None,
    *,
    checkpoint: str = "last",
) -> dict[str, NDArray[np.float64]]:
    """Values of the named outputs, one per point.

    `points`: one array per coordinate or input column, all of one length. `names`: fields, derivatives (`u_x`), terms
    (`residual/pde`); default: all fields. `checkpoint`: `last`, `best`, or a name (`step-000000500`). Raises UserError
    where columns do not fit one another or hold what is not finite.
    """
    columns = {k: _column(k, v) for k, v in points.items()}
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the columns must be of one length; got {lengths}")
    ready = predictor(run, checkpoint)
    return ready(columns, ready.outputs(names))


def snapshot_of(folder: RunFolder, which: str) -> Snapshot:
    """The checkpoint called `last`, `best`, `step-…` or by its step, verified. Raises UserError, StorageFailed."""
    if which == "last":
        snapshot = checkpoints.newest(folder.checkpoints, log.warning)
        if snapshot is None:
            raise UserError(f"{folder.path} has no sound checkpoint to predict from")
        return snapshot
    saved = {p.name: p for p in checkpoints.listing(folder.checkpoints)}
    name = _best(folder) if which == "best" else f"step-{int(which):09d}" if which.isdecimal() else which
    if name not in saved:
        raise UserError(f"{folder.path} has no checkpoint {name!r}{nearest(name, ['best', 'last', *saved])}")
    return checkpoints.load(saved[name])


def _best(folder: RunFolder) -> str:
    events = read_jsonl(folder.events)[0]
    best = [str(e.get("path")) for e in events if e.get("event") == "checkpoint" and e.get("best")]
    if not best:
        raise UserError(
            f"{folder.path} has no best checkpoint (`checkpoint.best` is null, or nothing was measured yet)"
        )
    return Path(best[-1]).name


def _folder(run: str | Path | RunFolder | RunResult, storage: str | None) -> RunFolder:
    if isinstance(run, RunResult):
        return run.folder
    return run if isinstance(run, RunFolder) else find(str(run), storage)


def _column(name: str, values: Any) -> NDArray[Any]:
    column = np.asarray(values)
    if column.dtype.kind not in "fiub":
        raise UserError(f"predict: {name!r} holds {column.dtype}, not real numbers")
    column = column.reshape(-1) if column.ndim <= 1 else column
    finite = np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
    if not finite.all():
        raise UserError(f"predict: {name!r} is not finite in row {int(np.argmin(finite))} (counted from 0)")
    return column if name == ROW else column.astype(np.float64)


def _with_exact(task: PdeTask, columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The samples with the reference solution, where a term that is asked for reads it."""
    asked = {n.removeprefix(RESIDUAL) for n in names if n.startswith(RESIDUAL)}
    wanted = {f for r in task.recordings.values() if asked & set(r.names) for f in r.exact}
    return dict(with_exact(task.problem, columns, sorted(wanted)))
