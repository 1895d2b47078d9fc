"""Points to predict at: columns of a CSV or npz file, or a grid, a piece at a time."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.tables import numbers, place

PIECE = 65_536
"""Points that are in memory at a time, where they come from a CSV file or a grid."""
LARGEST_GRID = 200_000_000
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Table:
    """Columns of a file. `extra`: names that are read as well where the file has them."""

    path: Path
    extra: tuple[str, ...] = ()

    @property
    def is_npz(self) -> bool:
        return self.path.suffix.lower() == ".npz"

    def pieces(self, names: Sequence[str], size: int = PIECE) -> Iterator[Columns]:
        """The columns, finite, of one length above 0. Raises UserError that says file, row and column."""
        try:
            yield from _npz_pieces(self, names, size) if self.is_npz else _csv_pieces(self, names, size)
        except FileNotFoundError as error:
            beside = [p.name for p in self.path.absolute().parent.glob("*") if p.suffix.lower() in (".csv", ".npz")]
            raise UserError(f"there is no file {self.path}{nearest(self.path.name, beside[:20])}") from error
        except OSError as error:
            raise UserError(f"{self.path} can't be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Grid:
    """All points of a grid, in C order: the last coordinate runs fastest."""

    axes: Mapping[str, NDArray[np.float64]]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.axes.values()))

    def pieces(self, names: Sequence[str], size: int = PIECE) -> Iterator[Columns]:
        """The coordinates as columns. Raises UserError where the grid lacks one or has another one."""
        for name in self.axes:
            if name not in names:
                raise UserError(f"--grid: there is no coordinate {name!r}{nearest(name, names)}")
        for name in names:
            if name not in self.axes:
                raise UserError(
                    f"--grid: the coordinate {name!r} is missing: write {name}=LOW:HIGH:COUNT or {name}=VALUE"
                )
        total = math.prod(self.shape)
        for start in range(0, total, size):
            places = np.unravel_index(np.arange(start, min(start + size, total)), self.shape)
            yield {name: axis[place] for (name, axis), place in zip(self.axes.items(), places, strict=True)}


def grid(text: str) -> Grid:
    """The grid of `t=0:1:101,x=-1:1:201` (ends included); `t=0.5` is a single value. Raises UserError."""
    axes: dict[str, NDArray[np.float64]] = {}
    for part in text.split(","):
        name, equals, values = (p.strip() for p in part.partition("="))
        if not equals or not name:
            raise UserError(f"--grid: {part!r} is not NAME=LOW:HIGH:COUNT or NAME=VALUE, as in t=0:1:101,x=0.5")
        if name in axes:
            raise UserError(f"--grid: {name!r} is given twice")
        axes[name] = _axis(name, values)
    total = math.prod(map(len, axes.values()))
    if total > LARGEST_GRID:
        raise UserError(f"--grid: {total:,} points are more than {LARGEST_GRID:,}; predict on parts of it")
    return Grid(axes)


def _axis(name: str, text: str) -> NDArray[np.float64]:
    parts = text.split(":")
    try:
        numbers = [float(p) for p in parts[:2]]
        count = int(parts[2]) if len(parts) == 3 else 1
    except ValueError:
        numbers, count = [], 0
    fits = len(parts) in (1, 3) and bool(numbers) and all(map(math.isfinite, numbers))
    if not fits:
        raise UserError(f"--grid: {name}={text} is not LOW:HIGH:COUNT or one finite number")
    if count < 1 or (count == 1 and numbers[0] != numbers[-1]):
        raise UserError(f"--grid: {name}={text}: the count must be at least 2 for two different ends")
    if count > LARGEST_GRID:
        raise UserError(f"--grid: {name}={text}: the count is above {LARGEST_GRID:,}")
    return np.linspace(numbers[0], numbers[-1], count)


# --- CSV ---


def _csv_pieces(table: Table, names: Sequence[str], size: int) -> Iterator[Columns]:
    path = table.path
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            wanted = [*names, *(n for n in table.extra if n in header and n not in names)]
            places = [place(path, header, name, "") for name in wanted]
            rows: list[list[float]] = []
            lines: list[int] = []
            empty = True
            for row in reader:
                if row:
                    rows.append(numbers(path, reader.line_num, header, places, row, ""))
                    lines.append(reader.line_num)
                if len(rows) == size:
                    yield _columns(path, wanted, rows, lines)
                    rows, lines, empty = [], [], False
            if rows:
                yield _columns(path, wanted, rows, lines)
            elif empty:
                raise UserError(f"{path}: there are no rows")
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not a table of comma separated values: {error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error


def _columns(path: Path, names: Sequence[str], rows: list[list[float]], lines: list[int]) -> Columns:
    table = np.array(rows, np.float64)
    bad = np.argwhere(~np.isfinite(table))
    if bad.size:
        row, column = bad[0]
        raise UserError(f"{path}:{lines[row]}: column {names[column]!r} is {table[row, column]}; remove such rows")
    return {name: table[:, i].copy() for i, name in enumerate(names)}


# --- npz ---


def _npz_pieces(table: Table, names: Sequence[str], size: int) -> Iterator[Columns]:
    path = table.path
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path} holds a single array; write it with numpy.savez(path, name=array, …)")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise UserError(f"{path}: there is no array {missing[0]!r}{nearest(missing[0], archive.files)}")
            wanted = [*names, *(n for n in table.extra if n in archive.files and n not in names)]
            columns = {name: _array(path, name, archive[name]) for name in wanted}
        except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is no archive of plain arrays of numbers (numpy.savez): {error}") from error
    lengths = {name: len(v) for name, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: the arrays differ in length: {lengths}")
    total = next(iter(lengths.values()), 0)
    if not total:
        raise UserError(f"{path}: there are no rows")
    for start in range(0, total, size):
        yield {name: v[start : start + size] for name, v in columns.items()}


def _array(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name!r} holds {values.dtype}, not real numbers")
    if values.ndim == 0:
        raise UserError(f"{path}: {name!r} is a single number; give one row per point")
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        raise UserError(f"{path}: {name!r} is not finite in row {row + 1} of {len(values)}; remove such rows")
    return values if values.dtype.kind in "iu" else values.astype(np.float64)
