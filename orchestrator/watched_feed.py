"""A feed with a clock: how long the steps wait for their samples, and how many samples they get."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from backends.task import Batches, Draw, Feed


class WatchedFeed:
    """Follows `backends.task.Feed`; everything comes from the feed inside."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.waited_s = 0.0
        """Seconds spent in `take` and in making full arrays, in all."""
        self.samples = 0
        """Samples taken, in all."""
        self._sizes: dict[Hashable, dict[str, int]] = {}

    def take(self, step: int, n: int) -> Draw:
        """What the feed gives."""
        began = time.perf_counter()
        draw = self._feed.take(step, n)
        self.waited_s += time.perf_counter() - began
        self.samples += sum(_rows(columns) for columns in draw.stacked.values())
        whole = self._sizes.get(draw.version, {})
        self.samples += n * sum(size for batch, size in whole.items() if batch not in draw.stacked)
        unknown = 0 if draw.version in self._sizes else n
        return replace(draw, fixed=lambda: self._fixed(draw, unknown))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint must keep."""
        return self._feed.arrays()

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The opposite of `arrays`."""
        self._feed.load(arrays)

    def _fixed(self, draw: Draw, n: int) -> Batches:
        """Full arrays, whose sizes are known only now: the n steps that read them are counted."""
        began = time.perf_counter()
        batches = draw.fixed()
        self.waited_s += time.perf_counter() - began
        sizes = {batch: len(next(iter(columns.values()), ())) for batch, columns in batches.items()}
        if draw.version not in self._sizes:
            self.samples += n * sum(size for batch, size in sizes.items() if batch not in draw.stacked)
        self._sizes = {draw.version: sizes}
        return batches


def _rows(columns: Mapping[str, NDArray[Any]]) -> int:
    """Samples of n steps: [n, samples, …] of any column."""
    shape = next(iter(columns.values())).shape
    return int(shape[0] * (shape[1] if len(shape) > 1 else 1))
