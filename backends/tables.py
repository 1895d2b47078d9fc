"""Columns of numbers from `.csv` and `.npz` files, with a clear answer to whatever is wrong with them."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest

Column = NDArray[np.float64]


def read_table(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """The named columns, finite and of one length above 0. Other columns are not looked at. Raises UserError."""
    try:
        columns = _read_npz(path, names) if path.suffix.lower() == ".npz" else _read_csv(path, names)
    except FileNotFoundError as e:
        beside = [p.name for p in path.parent.glob("*") if p.suffix.lower() == path.suffix.lower()][:20]
        raise _refused(f"there is no file {path}{nearest(path.name, beside)}") from e
    except OSError as e:
        raise _refused(f"{path} can't be read: {e.strerror or e}") from e
    for name, values in columns.items():
        if not values.size:
            raise _refused(f"{path}: there are no rows")
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise _refused(
                f"{path}: column {name!r} is {values[row]} in row {row + 1} of {values.size}; "
                "remove such rows or fill them in"
            )
    return columns


def names_in(path: Path) -> tuple[str, ...]:
    """The names of all columns; empty where the file can't be read (`read_table` says why)."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return tuple(archive.files)
        with path.open(encoding="utf-8-sig", newline="") as file:
            return tuple(cell.strip() for cell in next(csv.reader(file), []))
    except (OSError, ValueError, csv.Error, zipfile.BadZipFile):
        return ()


def _refused(message: str) -> UserError:
    return UserError(message, path="data.path")


def _read_csv(path: Path, names: Sequence[str]) -> dict[str, Column]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            places = [place(path, header, name) for name in names]
            rows = [numbers(path, reader.line_num, header, places, row) for row in reader if row]
        except csv.Error as e:
            raise _refused(f"{path}:{reader.line_num}: not a table of comma separated values: {e}") from e
        except UnicodeDecodeError as e:
            raise _refused(f"{path} is not UTF-8 text (byte {e.start}); save it as CSV in UTF-8") from e
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def place(path: Path, header: Sequence[str], name: str, field: str = "data.path") -> int:
    """Where a column stands in the first line of a table. Raises UserError, which blames `field` of the file."""
    if not header:
        raise UserError(f"{path} is empty; its first line must name the columns", path=field)
    if header.count(name) > 1:
        raise UserError(f"{path}:1: the column {name!r} is there {header.count(name)} times", path=field)
    if name not in header:
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            raise UserError(f"{path}:1: columns must be separated by commas, not semicolons or tabs", path=field)
        raise UserError(f"{path}:1: there is no column {name!r}{nearest(name, header)}", path=field)
    return header.index(name)


def numbers(
    path: Path, line: int, header: Sequence[str], places: Sequence[int], row: Sequence[str], field: str = "data.path"
) -> list[float]:
    """The numbers at `places` of one row. Raises UserError, which blames `field` of the file."""
    if len(row) != len(header):
        raise UserError(f"{path}:{line}: {len(row)} cells where the first line names {len(header)} columns", path=field)
    found = []
    for at in places:
        try:
            found.append(float(row[at]))
        except ValueError as e:
            told = f"{row[at]!r} is not a number" if row[at].strip() else "the cell is empty"
            raise UserError(f"{path}:{line}: column {header[at]!r}: {told}", path=field) from e
    return found


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """The named arrays of a `.npz` file as float64, of any shape. Raises UserError, and OSError."""
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _refused(f"{path} holds a single array; write it with numpy.savez(path, name=array, …)")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise _refused(f"{path}: there is no array {missing[0]!r}{nearest(missing[0], archive.files)}")
            return {name: _reals(path, name, archive[name]) for name in names}
        except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
            raise _refused(f"{path} is no archive of plain arrays of numbers (numpy.savez): {e}") from e


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, Column]:
    columns = read_arrays(path, names)
    for name, values in columns.items():
        if values.ndim != 1:
            raise _refused(f"{path}: {name!r} has shape {values.shape}; a column is a 1-d array (one per column)")
    lengths = {name: v.size for name, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise _refused(f"{path}: the arrays differ in length: {lengths}")
    return columns


def _reals(path: Path, name: str, values: NDArray[np.generic]) -> Column:
    if values.dtype.kind not in "fiub":
        raise _refused(f"{path}: {name!r} holds {values.dtype}, not real numbers")
    return values.astype(np.float64)
