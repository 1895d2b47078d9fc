"""The samples of a dispatch on the device: shared among workers, cut into passes, one row per step.

Columns that stay (`Draw.fixed`) are carried over once per version; columns that are drawn per step (`Draw.stacked`)
once per dispatch, and taken apart once, so that the loop over steps only picks from lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backends.chunks import chunk_size
from backends.errors import UserError
from backends.protocol import World, share
from backends.task import Batches, Draw, Feed, Task
from backends.torch.device import put, room

Tensors = dict[str, torch.Tensor]
INDEX = "index"


@dataclass(frozen=True)
class Batch:
    """One batch of this worker. Passes are equal parts of its samples; there is one where it is not chunked."""

    name: str
    samples: int
    """Of this worker, per step."""
    passes: int
    fixed: list[Tensors]
    """Per pass the columns that stay; all rows, in each pass alike, where an index picks from them."""
    now: list[list[Tensors]]
    """Per step and pass the columns of this step, `index` among them."""

    @property
    def chunked(self) -> bool:
        """Whether it takes more than one pass."""
        return self.passes > 1


def columns(fixed: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> Tensors:
    """The columns of one pass from those that stay and those of this step."""
    if INDEX not in now:
        return {**fixed, **now}
    rows = now[INDEX]
    return {**{name: x[rows] for name, x in fixed.items()}, **{k: x for k, x in now.items() if k != INDEX}}


@dataclass
class Holder:
    """Keeps the columns that stay on the device for as long as their version holds."""

    task: Task
    world: World
    device: str
    accumulate: int = 1
    _key: tuple[Any, ...] = ()
    _feed: Feed | None = None
    _fixed: dict[str, list[Tensors]] = field(default_factory=dict)
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def batches(self, feed: Feed, draw: Draw, steps: int, dtype: torch.dtype) -> list[Batch]:
        """What `steps` steps read."""
        indexed = tuple(sorted(b for b, stacked in draw.stacked.items() if INDEX in stacked))
        shapes = tuple((b, k, np.shape(v)[1:]) for b, stacked in draw.stacked.items() for k, v in stacked.items())
        key = (draw.version, dtype, indexed, shapes)
        if self._feed is not feed or self._key != key:
            self._hold(draw, draw.fixed(), dtype)
            self._feed, self._key = feed, key
        return [self._batch(name, draw.stacked.get(name, {}), steps, dtype) for name in self._sizes]

    def _hold(self, draw: Draw, fixed: Batches, dtype: torch.dtype) -> None:
        self._fixed, self._sizes = {}, {}
        for name in dict.fromkeys([*fixed, *draw.stacked]):
            mine, stacked = dict(fixed.get(name, {})), draw.stacked.get(name, {})
            picks = INDEX in stacked
            whole = _samples(mine, stacked)
            rows = self._rows(name, whole)
            samples = rows.stop - rows.start
            asked = None if self.task.reduced(name) else self.task.chunk(name)
            if self.accumulate > 1 and stacked:
                asked = samples // self.accumulate
            width, bytes_ = self.task.width(name), room(self.device)
            size = chunk_size(samples, asked, width, dtype.itemsize, self.device, per_call=True, room=bytes_)
            passes = samples // size
            tensors = {k: put(v if picks else v[rows], dtype, self.device) for k, v in mine.items()}
            self._fixed[name] = [tensors] * passes if picks else cut(tensors, passes)
            self._sizes[name] = (whole, passes)

    def _batch(self, name: str, stacked: Mapping[str, Any], steps: int, dtype: torch.dtype) -> Batch:
        whole, passes = self._sizes[name]
        rows = self._rows(name, whole)
        if not stacked:
            return Batch(name, rows.stop - rows.start, passes, self._fixed[name], [[{}] * passes] * steps)
        tensors = {k: put(v[:, rows], dtype, self.device) for k, v in stacked.items()}
        each = {k: _rows(x) for k, x in tensors.items()}
        now = [cut({k: x[i] for k, x in each.items()}, passes) for i in range(steps)]
        return Batch(name, rows.stop - rows.start, passes, self._fixed[name], now)

    def _rows(self, name: str, whole: int) -> slice:
        """This worker's part of the samples; all of them where a term reduces itself."""
        if self.task.reduced(name):
            return slice(0, whole)
        if whole % self.world.size:
            raise UserError(
                f"points.{name}: {self.world.size} workers can't share {whole} samples evenly; take a multiple of "
                f"{self.world.size}",
                path=f"points.{name}",
            )
        return share(whole, self.world)


def _samples(fixed: Mapping[str, Any], stacked: Mapping[str, Any]) -> int:
    """Samples of a step, over all workers."""
    if INDEX in stacked or not fixed:
        return np.shape(next(iter(stacked.values())) if INDEX not in stacked else stacked[INDEX])[1]
    return np.shape(next(iter(fixed.values())))[0]


def _rows(x: torch.Tensor) -> Sequence[torch.Tensor]:
    """One tensor per step."""
    rows = torch.unbind(x, 0)
    # A step's numbers must not depend on its place in the dispatch, and sums may depend on where memory starts.
    aligned = not rows or not x.is_floating_point() or rows[0].nbytes % 64 == 0
    return rows if aligned else [row.clone() for row in rows]


def cut(tensors: Mapping[str, torch.Tensor], passes: int) -> list[Tensors]:
    """Equal parts of all columns along the samples."""
    if passes == 1:
        return [dict(tensors)]
    parts = {k: torch.tensor_split(x, passes, 0) for k, x in tensors.items()}
    return [{k: p[j] for k, p in parts.items()} for j in range(passes)]


def whole(batches: Batches, dtype: torch.dtype, device: str) -> dict[str, Tensors]:
    """Host samples on the device, as they are."""
    return {b: {k: put(v, dtype, device) for k, v in host.items()} for b, host in batches.items()}
