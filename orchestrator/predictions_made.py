"""Predictions from a source of points into a file: piece by piece, so that neither has to fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.data import ROW
from backends.errors import UserError
from orchestrator.columns_written import CsvOut, NpzOut
from orchestrator.points_given import Grid, Table
from orchestrator.predictions import Predictor
from orchestrator.vtk_written import SUFFIXES, VtkOut


@dataclass(frozen=True)
class Report:
    """What was predicted."""

    points: int
    warnings: tuple[str, ...]
    file: Path | None = None
    """What was written; of several times the list of their files."""


def write(ready: Predictor, source: Table | Grid, names: Sequence[str], out: Path | None) -> Report:
    """Predict at all points of `source` into `out` (None: CSV on stdout).

    CSV: the coordinates, then the outputs. npz: the same as arrays; of a grid its axes, and outputs in its shape. VTK
    (.vtu, .vtk): `orchestrator.vtk_written`. Nothing is left of a file that could not be finished. Raises UserError,
    StorageFailed.
    """
    inputs = ready.inputs
    if isinstance(source, Table):
        _images_need_npz(ready, source)
        source = replace(source, extra=ready.extra(names))
    suffix = "" if out is None else out.suffix.lower()
    axes = source.axes if isinstance(source, Grid) else None
    target = _target(ready, out, suffix, axes)
    count, off, outside = 0, 0, dict[str, int]()
    with target:
        for columns in source.pieces(inputs):
            size = len(next(iter(columns.values())))
            if ROW not in columns and "image" in inputs:
                columns = {**columns, ROW: np.arange(count, count + size, dtype=np.int64)}
            values = ready(columns, names)
            kept = {n: columns[n] for n in inputs if n not in names and (suffix == ".npz" or columns[n].ndim == 1)}
            target.add(kept, values)
            for name, beyond in ready.outside(columns).items():
                outside[name] = outside.get(name, 0) + beyond
            off += int(ready.off_geometry(columns).sum()) if ready.space else 0
            count += size
    told = [_told(ready, name, beyond, count) for name, beyond in outside.items()]
    if off:
        told.append(f"{off:,} of {count:,} points lie outside the geometry, where the network was never trained")
    return Report(count, tuple(told), getattr(target, "written", out))


def _target(ready: Predictor, out: Path | None, suffix: str, axes: Any) -> CsvOut | NpzOut | VtkOut:
    if out is not None and suffix == ".npz":
        return NpzOut(out, axes)
    if out is not None and suffix in SUFFIXES:
        if not ready.space:
            raise UserError(f"--out {out}: a VTK file holds fields in space, and this run's task is no equation")
        return VtkOut(out, ready.space, ready.time, axes, ready.off_geometry)
    return CsvOut(out)


def _told(ready: Predictor, name: str, beyond: int, count: int) -> str:
    task: Any = ready.made.task
    low, high = task.problem.box()[name]
    return f"{beyond:,} of {count:,} points have {name} outside {low:g} … {high:g}, where the network was never trained"


def _images_need_npz(ready: Predictor, table: Table) -> None:
    samples: Any = getattr(ready.made.task, "samples", None)
    known: dict[str, NDArray[Any]] = dict(getattr(samples, "columns", {}))
    for name in ready.inputs:
        if not table.is_npz and name in known and known[name].ndim > 1:
            raise UserError(
                f"--points {table.path}: {name!r} is an array {list(known[name].shape[1:])} per sample; "
                "give an npz file (numpy.savez(path, image=images))"
            )
