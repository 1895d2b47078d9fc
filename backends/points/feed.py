"""Collocation points: the sets of one run, and how they change while it trains.

`PointFeed` holds the sets, drawn by `samplers` and drawn again by the rules of `resampling`. All is a
function of (seed, stream, step); only points that were drawn again are state, and go into a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import NonFinite, UserError, nearest
from backends.names import SHARE
from backends.points.resampling import NEW, filled, merged, rad, refined, sized
from backends.points.samplers import Sampler, sample_box
from backends.randomness import digest, generator
from backends.spec import Adapt, Fresh, Rad, Rard
from backends.task import Batches, Columns, Draw

__all__ = ["PointFeed", "Sampler", "Sampling", "fingerprint", "rad", "sample_box"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Sampling:
    """One set of points, and how it is drawn."""

    count: int
    draw: Callable[[int, np.random.Generator], Columns]
    """`draw(count, rng)`: the columns of `count` points."""
    adapt: Adapt | None = None
    fixed: bool = False
    """Given data (sensors): the same for every seed of the run, and of whatever count `draw` yields."""
    candidates: Callable[[int, np.random.Generator], Columns] | None = None
    """How candidates of `adapt` are drawn; default: `draw`. A grid needs one, being the same at every draw."""
    moved: Callable[[Columns, np.random.Generator], Columns] = field(default=lambda columns, rng: columns)
    """What becomes of candidates of `rard` before they join: moved around (`Rard.spread`)."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Term -> what its squared residual is divided by where several are added; default 1."""
    places: Callable[[Columns], Columns] = field(default=lambda columns: {})
    """Further columns that follow from the points (`backends.pointwise`)."""

    @property
    def size(self) -> int:
        """Rows of the set: for `rard` those of its buffer."""
        return max(self.count, self.adapt.capacity or 2 * self.count) if isinstance(self.adapt, Rard) else self.count

    def of(self, count: int) -> Sampling:
        """The same with another count; room grows and shrinks with it."""
        if not isinstance(self.adapt, Rard):
            return replace(self, count=count)
        room = max(self.size * count // self.count, count)
        return replace(self, count=count, adapt=self.adapt.model_copy(update={"capacity": room}))


class PointFeed:
    """The sets of points of one run (a `backends.task.Feed`). They stay as they are until `adopt` changes one."""

    def __init__(self, sets: Mapping[str, Sampling], seed: int) -> None:
        self.sets, self.seed = dict(sets), seed
        self.versions = dict.fromkeys(self.sets, 0)
        """How often each set was drawn again."""
        self.active = {b: s.count for b, s in self.sets.items() if isinstance(s.adapt, Rard)}
        """How many points of each buffer count."""
        self._points: dict[str, dict[str, Array]] | None = None
        self._shown: dict[str, dict[str, Array]] = {}
        self._version = 0
        self._touched = 0

    def take(self, step: int, n: int) -> Draw:
        """The present points, whatever the step. `version` is a hash of their contents (63 bits)."""
        self._present()
        shown = self._shown
        return Draw(self._version if not self._touched else (self._version, self._touched), lambda: shown)

    def touch(self, step: int) -> None:
        """The version changes without the points: what goes with them (their weights) did at this step."""
        self._touched = step

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

    def blind(self, batch: str) -> bool:
        """Whether a set is drawn again without a look at the residual."""
        return isinstance(self._adaptive(batch)[1], Fresh)

    def propose(self, batch: str, step: int) -> Columns:
        """Fresh candidates for a set; behind those of `rard` the present buffer, whose residuals it compares."""
        sampling, rule = self._adaptive(batch)
        rng = generator(self.seed, "candidates", batch, step, self.versions[batch])
        count = sampling.size * (1 if isinstance(rule, Fresh) else rule.candidates)
        found = _checked(batch, (sampling.candidates or sampling.draw)(count, rng))
        if not isinstance(rule, Rard):
            return found
        present = self._present()[batch]
        return {name: np.concatenate([values, present[name]]) for name, values in found.items()}

    def adopt(
        self,
        batch: str,
        step: int,
        candidates: Columns,
        residual: NDArray[np.float64] | Mapping[str, NDArray[np.float64]],
    ) -> NDArray[np.int64]:
        """Replaces a set, or points of it, by candidates that its rule picks. Returns per row of the set where it was
        before, or `resampling.NEW`.

        `residual`: one value per candidate, or several terms of it, of which `by` decides; not read where the rule is
        blind. Raises NonFinite where a value is NaN or infinite: the set stays as it was.
        """
        sampling, rule = self._adaptive(batch)
        version = self.versions[batch]
        if isinstance(rule, Fresh):
            self._replace(batch, {name: np.asarray(v) for name, v in candidates.items()})
            return np.full(sampling.size, NEW)
        terms = dict(residual) if isinstance(residual, Mapping) else {batch: residual}
        bad = [name for name, value in terms.items() if not np.isfinite(value).all()]
        if bad:
            raise NonFinite(step, bad, f"residual at the new candidate points of {batch!r}")
        by = rule.by if isinstance(residual, Mapping) else "sum"
        size, rng = sized(terms, by, sampling.scales), generator(self.seed, "rad", batch, step, version)
        if isinstance(rule, Rad):
            chosen = rad(size, sampling.count, rule.k, rule.c, rng)
            self._replace(batch, {name: np.asarray(v)[chosen] for name, v in candidates.items()})
            return np.full(sampling.size, NEW)
        cut = len(size) - sampling.size
        found = refined(rule, self.active[batch], size[:cut], size[cut:], rng)
        new = sampling.moved({name: np.asarray(v)[:cut][found.chosen] for name, v in candidates.items()}, rng)
        points = merged(self._present()[batch], found.kept, {name: np.asarray(v) for name, v in new.items()})
        self.active[batch] = found.active
        self._replace(batch, filled(points, found.active, sampling.size))
        return found.kept[np.arange(sampling.size) % found.active]

    def _replace(self, batch: str, columns: dict[str, Array]) -> None:
        self._hold({**self._present(), batch: columns}, {**self.versions, batch: self.versions[batch] + 1})

    def arrays(self) -> dict[str, Array]:
        """`points/<set>/<column>`, `versions/<set>` and `active/<set>` of the sets that were drawn again; `touched`."""
        points, adapted = self._present(), [b for b, v in self.versions.items() if v]
        kept = {f"points/{b}/{name}": v for b in adapted for name, v in points[b].items()}
        kept |= {f"versions/{b}": np.array(self.versions[b], np.int64) for b in adapted}
        kept |= {f"active/{b}": np.array(self.active[b], np.int64) for b in adapted if b in self.active}
        return kept | ({"touched": np.array(self._touched, np.int64)} if self._touched else {})

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Takes up what `arrays` gave; sets of which it has nothing are those of the seed again."""
        points = self._initial()
        versions = dict.fromkeys(self.sets, 0)
        active = {b: s.count for b, s in self.sets.items() if b in self.active}
        touched = 0
        loaded: dict[str, dict[str, Array]] = {}
        known = {f"points/{b}/{c}": (b, c) for b, s in self.sets.items() if s.adapt for c in points[b]}
        counters = {f"versions/{b}": b for b, s in self.sets.items() if s.adapt}
        actives = {f"active/{b}": b for b in self.active}
        for name, value in arrays.items():
            if name in counters:
                versions[counters[name]] = int(value)
            elif name in actives:
                active[actives[name]] = int(value)
            elif name == "touched":
                touched = int(value)
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
        self.active, self._touched = active, touched
        self._hold(points, versions)

    def _adaptive(self, batch: str) -> tuple[Sampling, Rad | Rard | Fresh]:
        sampling = self.sets.get(batch)
        if sampling is None or sampling.adapt is None:
            raise UserError(f"points: the set {batch!r} is not adaptive{nearest(batch, self.adaptive())}")
        return sampling, sampling.adapt

    def _initial(self) -> dict[str, dict[str, Array]]:
        streams = {
            b: generator(0, "fixed points", b) if s.fixed else generator(self.seed, "points", b)
            for b, s in self.sets.items()
        }
        drawn = {b: _checked(b, s.draw(s.count, streams[b])) for b, s in self.sets.items()}
        return {
            b: filled(d, s.count, s.size) if b in self.active else d
            for (b, s), d in zip(self.sets.items(), drawn.values(), strict=True)
        }

    def _present(self) -> dict[str, dict[str, Array]]:
        if self._points is None:
            self._hold(self._initial(), self.versions)
        assert self._points is not None
        return self._points

    def _hold(self, points: dict[str, dict[str, Array]], versions: dict[str, int]) -> None:
        self._points, self.versions = points, versions
        self._shown = {b: {**columns, **self._derived(b, columns)} for b, columns in points.items()}
        self._version = fingerprint(self._shown)

    def _derived(self, batch: str, columns: dict[str, Array]) -> dict[str, Array]:
        """Columns that follow from the points: shares in the mean (only points that count have one), places."""
        out = {name: np.asarray(v) for name, v in self.sets[batch].places(columns).items()}
        if batch in self.active:
            size, active = len(next(iter(columns.values()))), self.active[batch]
            out[SHARE] = np.where(np.arange(size) < active, size / active, 0.0)
        return out


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
