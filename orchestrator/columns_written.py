"""Where predicted columns go: a CSV file or stdout piece by piece, or an npz file; whole or not there."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from backends.errors import StorageFailed, UserError

Columns = Mapping[str, NDArray[Any]]


class CsvOut:
    """Lines of a CSV file; the header is the first piece's names. Without a file: stdout."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp") if path else None
        self._file: TextIO = sys.stdout
        self._names: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        if self._draft is not None:
            self._file = _opened(self._draft)
        return self

    def add(self, inputs: Columns, outputs: Columns) -> None:
        """Append samples. Raises UserError for an output that is no number or short row of numbers per sample."""
        columns = {**inputs, **{k: v for name, values in outputs.items() for k, v in _flat(name, values).items()}}
        try:
            writer = csv.writer(self._file, lineterminator="\n")
            if not self._names:
                self._names = tuple(columns)
                writer.writerow(self._names)
            writer.writerows(zip(*(np.asarray(v).tolist() for v in columns.values()), strict=True))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageFailed(f"{self.path or 'stdout'} could not be written: {error.strerror or error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draft is None or self.path is None:
            return
        self._file.close()
        if error is None:
            self._draft.replace(self.path)
        else:
            self._draft.unlink(missing_ok=True)


class NpzOut:
    """An npz file: one array per column. `axes`: the grid's, written instead of columns, outputs in its shape."""

    def __init__(self, path: Path, axes: Columns | None = None) -> None:
        self.path, self.axes = path, axes
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def add(self, inputs: Columns, outputs: Columns) -> None:
        """Append samples."""
        for name, values in {**({} if self.axes else inputs), **outputs}.items():
            self._parts.setdefault(name, []).append(values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        arrays = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        if self.axes:
            shape = tuple(len(a) for a in self.axes.values())
            arrays = {**self.axes, **{k: v.reshape(*shape, *v.shape[1:]) for k, v in arrays.items()}}
        draft = self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}.tmp")
        try:
            with draft.open("wb") as file:
                np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
            draft.replace(self.path)
        except OSError as failure:
            draft.unlink(missing_ok=True)
            raise StorageFailed(f"{self.path} could not be written: {failure.strerror or failure}") from failure


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--out: {path.parent} can't be written ({error.strerror or error})") from error


def _flat(name: str, values: NDArray[Any]) -> Columns:
    """A column, or `mean_0`, `mean_1`, … of a row of numbers per sample."""
    if values.ndim == 1:
        return {name: values}
    if values.ndim == 2:
        return {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
    raise UserError(
        f"{name!r} is an array {list(values.shape[1:])} per sample, which no CSV cell holds: --out FILE.npz"
    )
