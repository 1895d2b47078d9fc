"""The samples of a dispatch on the device: what stays there, what each step picks, and how workers share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.jax.distributed import put
from backends.protocol import World, drawn
from backends.task import Batches, Draw, Feed, Task

Array = Any
Placed = dict[str, dict[str, Array]]
INDEX = "index"


@dataclass
class Holder:
    """Keeps the columns that stay on the device for as long as their version holds."""

    task: Task
    world: World
    device: Any
    accumulate: int = 1
    _key: tuple[Any, ...] = ()
    _feed: Feed | None = None
    _fixed: Placed | None = None

    def take(self, feed: Feed, step: int, n: int, rows: int, dtype: Any) -> tuple[Draw, Placed, Placed]:
        """(draw, columns that stay, columns of each step padded to `rows` steps), the last two on the device."""
        draw = drawn(feed, step, n, self.accumulate)
        picked = tuple(sorted(batch for batch, columns in draw.stacked.items() if INDEX in columns))
        key = (draw.version, np.dtype(dtype).name, picked)
        if self._fixed is None or self._feed is not feed or self._key != key:
            self._fixed = self._put(draw.fixed(), picked, 0, dtype)
            self._feed, self._key = feed, key
        stacked = {
            batch: {name: _padded(np.asarray(value), rows) for name, value in columns.items()}
            for batch, columns in draw.stacked.items()
        }
        return draw, self._fixed, self._put(stacked, (), 1, dtype)

    def _put(self, batches: Batches, picked: tuple[str, ...], axis: int, dtype: Any) -> Placed:
        """Samples along `axis`; the rows of a batch that an index picks from stay whole on every worker."""
        out: Placed = {}
        for batch, columns in batches.items():
            shared = None if batch in picked or self.task.reduced(batch) else axis
            # What is drawn per step is made for it: nobody writes into it any more.
            host = {name: cast(value, dtype, own=not axis) for name, value in columns.items()}
            if shared is not None:
                self._shareable(batch, {value.shape[axis] for value in host.values()})
            out[batch] = {
                name: put(value, self.world, self.device, shared, own=not axis) for name, value in host.items()
            }
        return out

    def _shareable(self, batch: str, counts: set[int]) -> None:
        if len(counts) > 1:
            raise UserError(f"the columns of {batch!r} have different numbers of samples: {sorted(counts)}")
        for count in counts:
            if count % self.world.size:
                raise UserError(
                    f"points.{batch}: {self.world.size} workers can't share {count} samples evenly; take a multiple of "
                    f"{self.world.size}",
                    path=f"points.{batch}",
                )


def cast(value: Any, dtype: Any, *, own: bool = True) -> NDArray[Any]:
    """A host array in the precision of the stage; integers become int64, truth values stay. `own`: a copy always, for a
    CPU's device arrays may share the memory, into which its owner may write."""
    value = np.asarray(value)
    return value.astype({"f": dtype, "i": np.int64, "u": np.int64}.get(value.dtype.kind, value.dtype), copy=own)


def local(batches: Batches, dtype: Any, device: Any) -> Placed:
    """Host samples on this process's device, as they are."""
    world = World()
    return {b: {k: put(cast(v, dtype), world, device) for k, v in columns.items()} for b, columns in batches.items()}


def axes(task: Task, fixed: Mapping[str, Any], stacked: Mapping[str, Any]) -> tuple[Placed, Placed]:
    """Per batch and column the axis that the workers share, for both groups: as `Holder` placed them."""
    picked = {batch for batch, columns in stacked.items() if INDEX in columns}

    def along(batches: Mapping[str, Any], axis: int, whole: set[str]) -> Placed:
        return {
            b: dict.fromkeys(columns, None if b in whole or task.reduced(b) else axis) for b, columns in batches.items()
        }

    return along(fixed, 0, picked), along(stacked, 1, set())


def of_step(fixed: Mapping[str, Any], stacked: Mapping[str, Any], i: Array) -> Placed:
    """The columns of step i: those that stay (rows of them, where there is an index) and those of the step."""
    out: Placed = {}
    for batch in {**fixed, **stacked}:
        now = {
            name: jax.lax.dynamic_index_in_dim(value, i, 0, keepdims=False)
            for name, value in stacked.get(batch, {}).items()
        }
        rows = now.pop(INDEX, None)
        stay = fixed.get(batch, {})
        out[batch] = {**({k: jnp.take(v, rows, 0) for k, v in stay.items()} if rows is not None else stay), **now}
    return out


def _padded(value: NDArray[Any], rows: int) -> NDArray[Any]:
    """With `rows` rows, so that every number of steps has the same shape."""
    if len(value) == rows:
        return value
    return np.concatenate([value, np.zeros((rows - len(value), *value.shape[1:]), value.dtype)])
