"""Batches in the form in which a user's loss wants them, as named columns in which the backends carry them, and back.

A batch is an array, or a dict, tuple or list of batches; the first axis of every array counts samples. `None` stays
where it is. Columns are called after their place: `image`, `0`, `inputs/mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.points.feed import fingerprint
from backends.randomness import generator
from backends.task import Columns, Draw

BATCH = "batch"
"""The one batch of a task that is made of a user's own loss."""
INDEX = "index"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Form:
    """How a batch is put together. `template` is the batch with the name of a column in place of every array."""

    template: Any

    @classmethod
    def of(cls, batch: Any) -> Form:
        """The form of a first batch. Raises UserError where there is something in it that is no array."""
        form = cls(_template(batch, ""))
        if not form.names:
            raise UserError(f"a batch without an array: {described(batch)}")
        return form

    @property
    def names(self) -> list[str]:
        """The columns, in order."""
        return _names(self.template)

    def columns(self, batch: Any) -> Arrays:
        """The arrays of a batch. Raises UserError where it has another form than the first one."""
        found: Arrays = {}
        _fill(self.template, batch, found)
        counts = {name: len(value) for name, value in found.items()}
        if len(set(counts.values())) > 1:
            raise UserError(
                "the arrays of a batch must have the same number of samples along their first axis; there are "
                + ", ".join(f"{_shown(name)}: {count}" for name, count in counts.items())
            )
        return found

    def batch(self, columns: Mapping[str, Any]) -> Any:
        """The opposite of `columns`, for arrays of any framework."""
        return _built(self.template, columns)


def samples(columns: Mapping[str, Any]) -> int:
    """How many there are."""
    return int(next(iter(columns.values())).shape[0])


def host(value: Any) -> NDArray[Any]:
    """A host array of a numpy, torch or JAX one; numbers that numpy does not know (bfloat16) as float32."""
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def described(value: Any, depth: int = 0) -> str:
    """What something is, with types and shapes: `a dict with images: float32 [64, 784]`."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {list(value.shape)}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Mapping) and depth < 2:
        inner = ", ".join(f"{k}: {described(v, depth + 1)}" for k, v in list(value.items())[:8])
        return f"a {type(value).__name__} with {inner}" if value else "an empty dict"
    if isinstance(value, tuple | list) and depth < 2:
        inner = ", ".join(described(v, depth + 1) for v in value[:8])
        return f"a {type(value).__name__} of ({inner})" if value else f"an empty {type(value).__name__}"
    return f"an object of the type {type(value).__name__}"


class ArrayFeed:
    """Minibatches of arrays that stay on the device (a `backends.task.Feed`): each step reads an index.

    An epoch has ceil(rows / batch) steps. Its rows are a permutation from the stream (seed, "rows", epoch), or come in
    order; where the last batch would be short it is filled up with the first rows of the same epoch, so that all
    batches have one shape and every row is seen.
    """

    def __init__(self, columns: Columns, batch: int | None, seed: int, *, shuffle: bool = True) -> None:
        self.columns, self.seed, self.shuffle = dict(columns), seed, shuffle
        self.rows = samples(columns)
        self.batch = min(batch or self.rows, self.rows)
        self._version = fingerprint({BATCH: self.columns})
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the rows."""
        return -(-self.rows // self.batch)

    def take(self, step: int, n: int) -> Draw:
        """All rows as `fixed`, and `index` [n, batch] where a step does not read all of them."""
        fixed = {BATCH: self.columns}
        if self.batch == self.rows:
            return Draw(self._version, lambda: fixed)
        index = np.stack([self.index(s) for s in range(step, step + n)])
        return Draw(self._version, lambda: fixed, {BATCH: {INDEX: index}})

    def index(self, step: int) -> NDArray[np.int64]:
        """The rows of one step."""
        epoch, k = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[k * self.batch : (k + 1) * self.batch]

    def batch_of(self, step: int) -> Arrays:
        """The columns of one step, on the host."""
        rows = self.index(step)
        return {name: value[rows] for name, value in self.columns.items()}

    def arrays(self) -> Arrays:
        """Nothing: all follows from the seed."""
        return {}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuses arrays: they are another task's."""
        if arrays:
            raise UserError(f"points of the checkpoint: {min(arrays)!r} is unknown; this data needs none")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            order = np.arange(self.rows)
            if self.shuffle:
                order = generator(self.seed, "rows", epoch).permutation(self.rows)
            missing = self.steps_per_epoch * self.batch - self.rows
            self._epoch = (epoch, np.concatenate([order, order[:missing]]))
        return self._epoch[1]


def _template(batch: Any, path: str) -> Any:
    if batch is None:
        return None
    below = f"{path}/" if path else ""
    if isinstance(batch, Mapping):
        return {key: _template(value, f"{below}{key}") for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_template(value, f"{below}{i}") for i, value in enumerate(batch))
    array, name = _array(batch, path), path or BATCH
    if array.ndim == 0:
        raise UserError(f"{_shown(name)} of the batch is a single number; an array's first axis counts samples")
    return _Column(f"_{name}" if name == INDEX else name)


class _Column(str):
    """The name of a column in a template."""


def _array(value: Any, path: str) -> NDArray[Any]:
    array = host(value)
    if array.dtype.kind not in "fiub":
        given = f"text ({value!r:.60})" if isinstance(value, str) else described(value)
        raise UserError(f"{_shown(path or BATCH)} of the batch is {given}; only arrays of numbers can be trained on")
    return array


def _names(template: Any) -> list[str]:
    if isinstance(template, _Column):
        return [str(template)]
    children = template.values() if isinstance(template, dict) else template if isinstance(template, tuple) else ()
    return [name for child in children for name in _names(child)]


def _fill(template: Any, batch: Any, found: Arrays, path: str = "") -> None:
    if template is None:
        return
    if isinstance(template, _Column):
        found[str(template)] = _array(batch, str(template))
        return
    where = f" at {_shown(path)}" if path else ""
    if isinstance(template, dict):
        if not isinstance(batch, Mapping) or set(batch) != set(template):
            given = f"the entries {sorted(map(str, batch))}" if isinstance(batch, Mapping) else described(batch)
            raise UserError(f"it has {given}{where}, the first batch had the entries {sorted(map(str, template))}")
        children = [(k, template[k], batch[k]) for k in template]
    else:
        if not isinstance(batch, tuple | list) or len(batch) != len(template):
            raise UserError(f"it is {described(batch)}{where}, the first batch was a tuple of {len(template)}")
        children = [(i, t, b) for i, (t, b) in enumerate(zip(template, batch, strict=True))]
    for key, inner, value in children:
        _fill(inner, value, found, f"{path}/{key}" if path else str(key))


def _built(template: Any, columns: Mapping[str, Any]) -> Any:
    if isinstance(template, _Column):
        return columns[str(template)]
    if isinstance(template, dict):
        return {key: _built(value, columns) for key, value in template.items()}
    if isinstance(template, tuple):
        return tuple(_built(value, columns) for value in template)
    return None


def _shown(name: str) -> str:
    return f"the entry {name!r}" if not name.isdigit() else f"entry number {name}"
