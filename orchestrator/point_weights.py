"""The weights of single points between two dispatches: set at the start, renewed in line searches, moved along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import pointwise
from backends.names import WEIGHT
from backends.points.feed import PointFeed
from backends.protocol import Backend
from backends.task import Batches, Draw, Task
from orchestrator.timeline import due


@dataclass(frozen=True)
class Shown:
    """A feed whose samples say their weights."""

    feed: Any
    sets: Mapping[str, pointwise.Weighted]
    aux: Mapping[str, NDArray[Any]]

    def take(self, step: int, n: int) -> Draw:
        """What the feed gives, with the column `names.WEIGHT`."""
        draw = self.feed.take(step, n)
        return replace(draw, fixed=lambda: self._weighed(draw.fixed())) if self.sets else draw

    def _weighed(self, batches: Batches) -> Batches:
        of = {b: {WEIGHT: pointwise.of_points(w, self.aux, batches[b])} for b, w in self.sets.items()}
        return {batch: {**columns, **of.get(batch, {})} for batch, columns in batches.items()}


@dataclass(frozen=True)
class PointWeights:
    """What `backends.pointwise` needs of backend and feed; nothing where no set has such weights."""

    task: Task
    backend: Backend[Any]
    feed: Any

    @property
    def sets(self) -> Mapping[str, pointwise.Weighted]:
        """Batch -> its weights."""
        return getattr(self.task, "pointwise", {})

    def periods(self) -> tuple[int, ...]:
        """Steps at which a dispatch ends, so that quasi-Newton stages get new weights."""
        return tuple(w.every for w in self.sets.values() if w.every)

    def settle(self, state: Any, knobs: Mapping[str, float]) -> Any:
        """The weights of the first step, from the residuals before it, where the rule asks for it."""
        for weighted in self.sets.values():
            if weighted.rule.SETTLES:
                state = self._renewed(state, weighted, knobs, 1)
        return state

    def renew(self, state: Any, step: int, knobs: Mapping[str, float], *, line_search: bool) -> Any:
        """New weights where the next stage can't change them itself and their period is over."""
        for weighted in self.sets.values():
            if line_search and due(step, weighted.every):
                state = self._renewed(state, weighted, knobs, weighted.every)
                self.feed.touch(step)
        return state

    def moved(self, state: Any, batch: str, kept: NDArray[np.int64]) -> Any:
        """The state after the points of a set changed."""
        if batch not in self.sets:
            return state
        return self.backend.with_aux(state, pointwise.moved(self.sets[batch], self.backend.aux(state), kept))

    def readings(self, state: Any) -> dict[str, float]:
        """Metrics: of the weights, and how many points of a growing set count (`points/pde`)."""
        found = pointwise.readings(self.sets, self.backend.aux(state)) if self.sets else {}
        if isinstance(self.feed, PointFeed):
            first = {t.batch: t.name for t in reversed(self.task.terms)}
            found |= {f"points/{first[b]}": float(n) for b, n in self.feed.active.items()}
        return found

    def shown(self, state: Any) -> Shown:
        """The feed for figures: with the weights as a column."""
        aux = self.backend.aux(state) if self.sets else {}
        return Shown(self.feed, self.sets, aux)

    def _renewed(self, state: Any, weighted: pointwise.Weighted, knobs: Mapping[str, float], steps: int) -> Any:
        columns = self.feed.take(0, 1).fixed()[weighted.batch]
        sizes = self.backend.candidates(state, weighted.batch, columns)
        new = pointwise.renewed(weighted, self.backend.aux(state), columns, sizes, knobs, steps)
        return self.backend.with_aux(state, new)
