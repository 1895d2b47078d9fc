"""Given data: what a file may name under `data:`, how rows are split, and how minibatches are drawn.

A leaf loads `Samples`: columns of all rows, split once into training and held-out rows by a stream that does
not depend on the run's seed, so that runs of different seeds are measured on the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError
from backends.points.feed import fingerprint
from backends.randomness import generator
from backends.spec import Fraction, Leaf, TablePath
from backends.tables import read_table
from backends.task import Columns, Draw

ROW, INDEX = "row", "index"
"""Columns that every batch has or may have: names that data can't have."""


@dataclass(frozen=True)
class Samples:
    """All rows of a data set, and which of them are trained on."""

    columns: Mapping[str, NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    """Empty where `holdout` is 0."""
    batch: int | None = None
    standardize: bool = False

    def rows(self, which: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The columns of some rows, with the column `row` that counts them."""
        return {**{name: v[which] for name, v in self.columns.items()}, ROW: np.arange(which.size, dtype=np.int64)}

    def validation(self, count: int | None = None) -> dict[str, NDArray[Any]]:
        """The first `count` held-out rows; training rows where none are held out."""
        return self.rows((self.held_out if self.held_out.size else self.training)[:count])

    def feed(self, name: str, seed: int) -> BatchFeed:
        """Minibatches of the training rows."""
        return BatchFeed(self.rows(self.training), self.batch, seed, name)

    def shared_by(self, workers: int) -> None:
        """Raises UserError where that many workers can't share the rows of a step evenly."""
        rows = self.training.size
        size = rows if self.batch is None else min(self.batch, rows)
        if size % workers:
            raise UserError(
                f"{workers} workers can't share the {size} rows of a step evenly; "
                f"take a `batch` below {rows} that is a multiple of {workers}",
                path="data.batch" if self.batch else "data",
            )


class _Data(Leaf):
    """What all data sets have in common."""

    batch: PositiveInt | None = None
    """Rows per step, over all workers, drawn without repetition until all were seen. Default: all training rows."""
    holdout: Fraction = 0.2
    """Share of the rows that are never trained on: `validation/*` and `error/*` are measured there."""

    def load(self, folder: Path) -> Samples:
        """The data; `folder` is where relative paths start. Raises UserError where they can't be had."""
        raise TypeError(f"{type(self).__name__} does not say how it is loaded: give it a method load(folder)")

    def _samples(
        self, columns: Columns, inputs: Sequence[str], outputs: Sequence[str], standardize: bool = False
    ) -> Samples:
        training, held_out = split(next(iter(columns.values())).shape[0], self.holdout)
        return Samples(columns, tuple(inputs), tuple(outputs), training, held_out, self.batch, standardize)


class Digits(_Data):
    """scikit-learn's digits: 1797 images `image` of 8 x 8 pixels in [0, 1] and their `label`."""

    kind: Literal["digits"] = "digits"
    batch: PositiveInt | None = 64
    """Images per step, over all workers, drawn without repetition until all were seen. null: all of them."""

    def load(self, folder: Path) -> Samples:
        """`image` [1797, 8, 8] and `label` [1797]."""
        from sklearn.datasets import load_digits  # costs half a second, and most runs have no use for it

        images, labels = load_digits(return_X_y=True)
        columns = {"image": images.reshape(-1, 8, 8) / 16.0, "label": labels.astype(np.int64)}
        return self._samples(columns, ["image"], ["label"])


class Diabetes(_Data):
    """scikit-learn's diabetes data: ten measurements of 442 patients, and the progression a year later."""

    kind: Literal["diabetes"] = "diabetes"
    standardize: bool = True
    """Train on numbers of mean 0 and deviation 1 over the training rows; predictions are in the data's units."""

    def load(self, folder: Path) -> Samples:
        """Inputs `age`, `sex`, `bmi`, `bp`, `s1` … `s6`, output `progression`, in their own units."""
        from sklearn.datasets import load_diabetes

        data: Any = load_diabetes(scaled=False)
        names = list(data.feature_names)
        columns = {**{n: data.data[:, i] for i, n in enumerate(names)}, "progression": data.target.astype(np.float64)}
        return self._samples(columns, names, ["progression"], self.standardize)


Name = Annotated[str, Field(min_length=1)]


class Table(_Data):
    """Columns of a file: `.csv` with a line of names first, or `.npz` with one 1-d array per column."""

    kind: Literal["table"] = "table"
    path: TablePath
    """A `.csv` (comma separated, UTF-8) or `.npz` file, relative to the experiment file."""
    inputs: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Columns that the network reads, in order."""
    outputs: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Columns that it is trained to predict."""
    standardize: bool = True
    """Train on numbers of mean 0 and deviation 1 over the training rows; predictions are in the data's units."""

    @model_validator(mode="after")
    def _names_once(self) -> Table:
        names = [*self.inputs, *self.outputs]
        for name in names:
            if names.count(name) > 1:
                raise PydanticCustomError(
                    "columns", "the column '{name}' is named twice in inputs and outputs", {"name": name}
                )
            if name in (ROW, INDEX):
                raise PydanticCustomError(
                    "columns", "'{name}' is a name that the project uses itself; rename that column", {"name": name}
                )
        return self

    def load(self, folder: Path) -> Samples:
        """The named columns as float64. Raises UserError for whatever is wrong with the file."""
        columns = read_table(folder / self.path, [*self.inputs, *self.outputs])
        return self._samples(columns, self.inputs, self.outputs, self.standardize)


class Observations(Leaf):
    """Measured values of a PDE problem's fields: a term `data`, the fields minus what was measured, all rows a step.

    Its weight is `weights.values.data`; every row is trained on.
    """

    kind: Literal["observations"] = "observations"
    path: TablePath
    """A `.csv` or `.npz` file, relative to the experiment file: a column per coordinate and per measured field."""
    fields: tuple[Name, ...] = ()
    """The fields that were measured; default: all of the problem."""


class Solution(Leaf):
    """The solution of a PDE problem, in a file: what `error/l2` and the figures compare with."""

    path: TablePath
    """A `.csv` or `.npz` file, relative to the experiment file: a column per coordinate and per field; in a `.npz` also
    an axis per coordinate and fields of their shape, in the order of the problem's coordinates."""
    fields: tuple[Name, ...] = ()
    """The fields that it holds; default: all of the problem."""


DataSpec = Annotated[Digits | Diabetes | Table | Observations, Field(discriminator="kind")]
"""Data as the experiment file describes it."""


def split(rows: int, holdout: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and held-out rows, each in ascending order. At least one row is trained on, and one held out where
    `holdout` > 0 and there are two."""
    held = min(max(round(rows * holdout), 1), rows - 1) if holdout else 0
    mixed = generator(0, "holdout").permutation(rows)
    return np.sort(mixed[held:]), np.sort(mixed[:held])


class BatchFeed:
    """Minibatches of one data set that stays on the device (a `backends.task.Feed`): each step reads an index.

    The rows of an epoch are a permutation from the stream (seed, "rows", name, epoch); a batch that an epoch's end
    cuts goes on in the next one. Without a batch size, or with one of all rows, every step reads all of them.
    """

    def __init__(self, columns: Columns, batch: int | None, seed: int, name: str) -> None:
        self.columns, self.seed, self.name = columns, seed, name
        self.rows = next(iter(columns.values())).shape[0]
        self.batch = batch if batch is not None and batch < self.rows else None
        self._version = fingerprint({name: columns})
        self._epoch = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row is read once, on average."""
        return self.rows / (self.batch or self.rows)

    def take(self, step: int, n: int) -> Draw:
        """The whole data as `fixed` and, for minibatches, `index` [n, batch] of the steps `step` … `step + n - 1`."""
        fixed = {self.name: self.columns}
        if self.batch is None:
            return Draw(self._version, lambda: fixed)
        first, last = step * self.batch, (step + n) * self.batch
        epochs = range(first // self.rows, -(-last // self.rows))
        order = np.concatenate([self._permutation(e) for e in epochs])
        start = first - epochs[0] * self.rows
        index = order[start : start + n * self.batch].reshape(n, self.batch)
        return Draw(self._version, lambda: fixed, {self.name: {INDEX: index}})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing: all follows from the seed."""
        return {}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuses arrays: they are another task's."""
        if arrays:
            raise UserError(f"points of the checkpoint: {min(arrays)!r} is unknown; this task draws rows of its data")

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            rows = generator(self.seed, "rows", self.name, epoch).permutation(self.rows)
            self._epoch = (epoch, rows)
        return self._epoch[1]
