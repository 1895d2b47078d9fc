"""Predictions for ParaView: a grid as cells, other points as vertices, in a `.vtu` or `.vtk` file through meshio.

Where there is time, each time is a file of its own, `field-0000.vtu`, …, and `field.pvd` lists them: ParaView opens
that one and plays it. Cells of a grid with a corner outside the problem's geometry are left out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from backends.errors import StorageFailed, UserError

Columns = Mapping[str, NDArray[Any]]
SUFFIXES = (".vtu", ".vtk")
CELLS = {0: "vertex", 1: "line", 2: "quad", 3: "hexahedron"}
ROUND = {"quad": (0, 2, 3, 1), "hexahedron": (0, 4, 6, 2, 1, 5, 7, 3)}
"""VTK goes around a cell's corners; binary counting zigzags."""


@dataclass
class VtkOut:
    """Gathers samples and writes them when all are there; whole or not at all."""

    path: Path
    space: tuple[str, ...]
    """The coordinates that become x, y, z."""
    time: str = ""
    """The coordinate by which the samples are split into files; empty: one file."""
    axes: Columns | None = None
    """Of a grid."""
    outside: Any = None
    """columns -> which samples lie outside the geometry."""
    written: Path | None = None
    """The file to open, once all is written."""
    _parts: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            import meshio as _  # noqa: F401 (before an hour of predictions)
        except ImportError:
            raise UserError(
                f"--out {self.path}: VTK files are written by meshio: pip install 'orchestrator[mesh]'"
            ) from None
        if not 1 <= len(self.space) <= 3:
            raise UserError(
                f"--out {self.path}: VTK has one to three axes, and there are {len(self.space)} coordinates in space"
            )

    def __enter__(self) -> Self:
        return self

    def add(self, inputs: Columns, outputs: Columns) -> None:
        """Append samples: all coordinates, and what was predicted."""
        self._parts.append({**inputs, **outputs})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._parts:
            return
        columns = {n: np.concatenate([p[n] for p in self._parts]) for n in self._parts[0]}
        try:
            self._write(columns)
        except OSError as failure:
            raise StorageFailed(f"{self.path} could not be written: {failure.strerror or failure}") from failure

    def _write(self, columns: Columns) -> None:
        times = np.unique(columns[self.time]) if self.time else np.zeros(1)
        if len(times) == 1:
            self._save(self.path, columns)
            self.written = self.path
            return
        files = [self.path.with_name(f"{self.path.stem}-{i:04d}{self.path.suffix}") for i in range(len(times))]
        for at, file in zip(times, files, strict=True):
            rows = columns[self.time] == at
            self._save(file, {n: v[rows] for n, v in columns.items()})
        listed = "\n".join(
            f'    <DataSet timestep="{float(at)!r}" part="0" file="{file.name}"/>'
            for at, file in zip(times, files, strict=True)
        )
        self.written = self.path.with_suffix(".pvd")
        self.written.write_text(
            f'<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n  <Collection>\n{listed}\n'
            "  </Collection>\n</VTKFile>\n",
            encoding="utf-8",
        )

    def _save(self, path: Path, columns: Columns) -> None:
        import meshio

        rows = len(columns[self.space[0]])
        points = np.zeros((rows, 3))
        for i, name in enumerate(self.space):
            points[:, i] = columns[name]
        cells = self._cells(columns, rows)
        data = {n: v.reshape(rows, -1).squeeze(-1) if v.ndim > 1 and v[0].size == 1 else v for n, v in columns.items()}
        kept: dict[str, Any] = {
            n: np.asarray(v, np.float64) for n, v in data.items() if n not in self.space and v.ndim <= 2
        }
        mesh = meshio.Mesh(points, [cells], point_data=kept)
        draft = path.with_name(f".{path.stem}.{os.urandom(4).hex()}{path.suffix}")
        try:
            mesh.write(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _cells(self, columns: Columns, rows: int) -> tuple[str, NDArray[np.int64]]:
        axes = self.axes or {}
        shape = [len(axes[c]) for c in self.space] if axes else []
        others = [c for c in axes if c not in (*self.space, self.time) and len(axes[c]) > 1]
        along = [i for i, n in enumerate(shape) if n > 1]
        if not along or others:  # a parameter with several values: the grids would lie on top of one another
            return "vertex", np.arange(rows)[:, None]
        order = [c for c in axes if c in self.space]  # the sense in which the grid counts
        number = np.arange(rows).reshape([len(axes[c]) for c in order])
        number = number.transpose([order.index(c) for c in self.space])
        corners = []
        for offsets in itertools.product((0, 1), repeat=len(along)):
            cut: list[Any] = [slice(None)] * len(shape)
            for axis, offset in zip(along, offsets, strict=True):
                cut[axis] = slice(offset, shape[axis] - 1 + offset)
            corners.append(number[tuple(cut)].ravel())
        kind = CELLS[len(along)]
        cells = np.stack([corners[i] for i in ROUND.get(kind, range(len(corners)))], 1)
        left = np.zeros(rows, bool) if self.outside is None else self.outside(columns)
        return kind, cells[~left[cells].any(axis=1)]
