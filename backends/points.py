"""Collocation points: how they are drawn, and drawn again where the residual is large.

`rad` picks by the residual, `PointFeed` holds the sets of one run, drawn by `backends.samplers`. All is a
function of (seed, stream, step); only points that were adapted are state, and go into a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import NonFinite, UserError, nearest
from backends.randomness import digest, generator
from backends.samplers import Sampler, sample_box
from backends.spec import Rad
from backends.task import Batches, Columns, Draw

__all__ = ["PointFeed", "Sampler", "Sampling", "fingerprint", "rad", "sample_box"]

Array = NDArray[Any]


def rad(residual: NDArray[np.float64], count: int, k: float, c: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of `count` candidates, drawn without replacement with p ~ |r|^k / mean(|r|^k) + c.

    Wu et al., arXiv 2207.10289, equation 2. Where every residual is zero, all candidates are alike. With c = 0
    candidates of no residual come last. Raises UserError where a residual is not finite or there are too few.
    """
    size = np.abs(np.asarray(residual, np.float64))
    if not np.isfinite(size).all():
        raise UserError(f"rad: {np.count_nonzero(~np.isfinite(size))} of {size.size} residuals are not finite")
    if count > size.size:
        raise UserError(f"rad: {count} points can't be drawn from {size.size} candidates without replacement")
    largest = size.max(initial=0.0)
    power = (size / largest) ** k if largest > 0 else np.ones_like(size)  # divided first: |r|^k must not overflow
    weight = power / power.mean() + c
    # The smallest of independent exponential times of rate p are a draw without replacement (Efraimidis and Spirakis,
    # doi 10.1016/j.ipl.2005.11.003, with the logarithm of their keys).
    times = rng.exponential(size=size.size)
    with np.errstate(all="ignore"):
        ranked = np.lexsort((times, times / weight))
    return np.sort(ranked[:count])


@dataclass(frozen=True)
class Sampling:
    """One set of points, and how it is drawn."""

    count: int
    draw: Callable[[int, np.random.Generator], Columns]
    """`draw(count, rng)`: the columns of `count` points."""
    adapt: Rad | None = None
    fixed: bool = False
    """Given data (sensors): the same for every seed of the run, and of whatever count `draw` yields."""
    candidates: Callable[[int, np.random.Generator], Columns] | None = None
    """How candidates of `adapt` are drawn; default: `draw`. A grid needs one, being the same at every draw."""


class PointFeed:
    """The sets of points of one run (a `backends.task.Feed`). They stay as they are until `adopt` changes one."""

    def __init__(self, sets: Mapping[str, Sampling], seed: int) -> None:
        self.sets, self.seed = dict(sets), seed
        self.versions = dict.fromkeys(self.sets, 0)
        """How often each set was drawn again."""
        self._points: dict[str, dict[str, Array]] | None = None
        self._version = 0

    def take(self, step: int, n: int) -> Draw:
        """The present points, whatever the step. `version` is a hash of their contents (63 bits)."""
        points = self._present()
        return Draw(self._version, lambda: points)

    def adaptive(self) -> list[str]:
        """The sets that can be drawn again."""
        return [b for b, s in self.sets.items() if s.adapt]

    def periods(self) -> list[int]:
        """The periods, in steps, at which sets are drawn again."""
        return sorted({s.adapt.every for s in self.sets.values() if s.adapt})

    def due(self, step: int) -> list[str]:
        """The sets to be drawn again after `step` steps."""
        return [b for b, s in self.sets.items() if s.adapt and step > 0 and step % s.adapt.every == 0]

    def next_due(self, step: int) -> int | None:
        """The first step after `step` at which a set is due; None where none ever is."""
        return min(((step // every + 1) * every for every in self.periods()), default=None)

    def propose(self, batch: str, step: int) -> Columns:
        """Fresh candidates for a set, `adapt.candidates` times its count."""
        sampling, rule = self._adaptive(batch)
        rng = generator(self.seed, "candidates", batch, step, self.versions[batch])
        return _checked(batch, (sampling.candidates or sampling.draw)(rule.candidates * sampling.count, rng))

    def adopt(
        self,
        batch: str,
        step: int,
        candidates: Columns,
        residual: NDArray[np.float64] | Mapping[str, NDArray[np.float64]],
    ) -> None:
        """Replaces a set by candidates drawn by their residual.

        `residual`: one value per candidate, or several terms of it, whose squares are then added. Raises NonFinite
        where a value is NaN or infinite: the set stays as it was.
        """
        sampling, rule = self._adaptive(batch)
        terms = dict(residual) if isinstance(residual, Mapping) else {batch: residual}
        bad = [name for name, value in terms.items() if not np.isfinite(value).all()]
        if bad:
            raise NonFinite(step, bad, f"residual at the new candidate points of {batch!r}")
        size = np.abs(next(iter(terms.values()))) if len(terms) == 1 else np.hypot.reduce(list(terms.values()))
        chosen = rad(
            size, sampling.count, rule.k, rule.c, generator(self.seed, "rad", batch, step, self.versions[batch])
        )
        points = {**self._present(), batch: {name: np.asarray(v)[chosen] for name, v in candidates.items()}}
        self._hold(points, {**self.versions, batch: self.versions[batch] + 1})

    def arrays(self) -> dict[str, Array]:
        """`points/<set>/<column>` and `versions/<set>` of the sets that were drawn again."""
        points, adapted = self._present(), [b for b, v in self.versions.items() if v]
        kept = {f"points/{b}/{name}": v for b in adapted for name, v in points[b].items()}
        return {**kept, **{f"versions/{b}": np.array(self.versions[b], np.int64) for b in adapted}}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Takes up what `arrays` gave; sets of which it has nothing are those of the seed again."""
        points = self._initial()
        versions = dict.fromkeys(self.sets, 0)
        loaded: dict[str, dict[str, Array]] = {}
        known = {f"points/{b}/{c}": (b, c) for b, s in self.sets.items() if s.adapt for c in points[b]}
        counters = {f"versions/{b}": b for b, s in self.sets.items() if s.adapt}
        for name, value in arrays.items():
            if name in counters:
                versions[counters[name]] = int(value)
            elif name in known:
                batch, column = known[name]
                if np.shape(value) != points[batch][column].shape:
                    raise UserError(
                        f"points of the checkpoint: {name} has shape {np.shape(value)}, this run's is "
                        f"{points[batch][column].shape}; `points` in the file must be what it was"
                    )
                loaded.setdefault(batch, {})[column] = np.array(value)
            else:
                raise UserError(f"points of the checkpoint: {name!r} is unknown{nearest(name, [*known, *counters])}")
        for batch, columns in loaded.items():
            if missing := sorted(points[batch].keys() - columns.keys()):
                raise UserError(f"points of the checkpoint: points/{batch}/{missing[0]} is missing")
            # In the columns' own order: `version`, and with it the bits of a quasi-Newton stage, depends on it.
            points[batch] = {column: columns[column] for column in points[batch]}
        self._hold(points, versions)

    def _adaptive(self, batch: str) -> tuple[Sampling, Rad]:
        sampling = self.sets.get(batch)
        if sampling is None or sampling.adapt is None:
            raise UserError(f"points: the set {batch!r} is not adaptive{nearest(batch, self.adaptive())}")
        return sampling, sampling.adapt

    def _initial(self) -> dict[str, dict[str, Array]]:
        streams = {
            b: generator(0, "fixed points", b) if s.fixed else generator(self.seed, "points", b)
            for b, s in self.sets.items()
        }
        return {b: _checked(b, s.draw(s.count, streams[b])) for b, s in self.sets.items()}

    def _present(self) -> dict[str, dict[str, Array]]:
        if self._points is None:
            self._hold(self._initial(), self.versions)
        assert self._points is not None
        return self._points

    def _hold(self, points: dict[str, dict[str, Array]], versions: dict[str, int]) -> None:
        self._points, self.versions, self._version = points, versions, fingerprint(points)


def _checked(batch: str, columns: Columns) -> dict[str, Array]:
    """The columns as arrays, all finite and of one length (a user's own region may be anything)."""
    out = {name: np.asarray(values) for name, values in columns.items()}
    lengths = {name: v.shape[0] if v.ndim else 0 for name, v in out.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise UserError(f"points of {batch!r}: columns must be arrays of one length above 0, not {lengths}")
    for name, values in out.items():
        if values.dtype.kind not in "fiub":
            raise UserError(f"points of {batch!r}: column {name!r} holds {values.dtype}, not numbers")
        if not np.isfinite(values).all():
            raise UserError(
                f"points of {batch!r}: column {name!r} is not finite at row {np.argwhere(~np.isfinite(values))[0][0]}"
            )
    return out


def fingerprint(batches: Batches) -> int:
    """63 bits that differ where any name, type, shape or number differs."""
    state = hashlib.blake2b(digest_size=8)
    for batch, columns in batches.items():
        for name, values in columns.items():
            state.update(digest(batch, name, str(values.dtype), *values.shape).to_bytes(8, "little"))
            state.update(np.ascontiguousarray(values).tobytes())
    return int.from_bytes(state.digest(), "little") >> 1
