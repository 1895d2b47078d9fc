"""Rows of a comparison: one per run, or one per group of runs that differ in nothing but their seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backends.errors import UserError, nearest
from orchestrator.comparison.facts import Facts, Setting

DEFAULT_METRICS = ("error/l2", "validation/total", "loss", "time/train_s", "time/steps_per_s")
_SMALL = ("error", "validation", "loss")
"""First segments of metrics of which less is better."""


@dataclass(frozen=True)
class Row:
    """One run, or several that are averaged."""

    runs: tuple[Facts, ...]
    repeated: int = 0
    """Runs left out because another one of the same settings and seed is there: they would count twice."""
    told: str = ""
    """What tells a group from others of the same experiment: `width=20`."""

    @property
    def n(self) -> int:
        """How many runs it stands for."""
        return len(self.runs)

    @property
    def label(self) -> str:
        """The run folder's name; of a group the experiment's name and how many."""
        if self.n == 1:
            return self.runs[0].label
        return " ".join(filter(None, (self.runs[0].name, self.told, f"(n = {self.n})")))

    @property
    def status(self) -> str:
        """One word; of a group all that occur."""
        return ", ".join(dict.fromkeys(r.status for r in self.runs))

    @property
    def step(self) -> int:
        """The last step (of a group the latest)."""
        return max(r.step for r in self.runs)

    def values(self, key: str) -> list[Setting | None]:
        """The distinct values of a setting, in order of the runs."""
        return list(dict.fromkeys(r.settings.get(key) for r in self.runs))

    @cached_property
    def means(self) -> Mapping[str, float]:
        """Metric -> mean over the runs that have it."""
        return {m: statistics.fmean(v) for m, v in self._samples.items()}

    @cached_property
    def spreads(self) -> Mapping[str, float]:
        """Metric -> sample standard deviation (n - 1), where two runs or more have it."""
        return {m: statistics.stdev(v) for m, v in self._samples.items() if len(v) > 1}

    @property
    def counts(self) -> Mapping[str, int]:
        """Metric -> how many runs have it."""
        return {m: len(v) for m, v in self._samples.items()}

    @cached_property
    def _samples(self) -> dict[str, list[float]]:
        out: dict[str, list[float]] = {}
        for run in self.runs:
            for metric, value in run.metrics.items():
                out.setdefault(metric, []).append(value)
        return out


def differing(facts: Sequence[Facts]) -> list[str]:
    """Settings that are not the same in all runs, in the order of the file; last those that not all runs have."""
    keys = dict.fromkeys(k for f in facts for k in f.settings)
    found = [k for k in keys if len({f.settings.get(k, _ABSENT) for f in facts}) > 1]
    return sorted(found, key=lambda k: not all(k in f.settings for f in facts))


_ABSENT = object()


def grouped(facts: Sequence[Facts], over: Sequence[str]) -> list[Row]:
    """One row per set of runs that differ in the settings `over` alone; empty: one per run.

    Only runs that ended well are put together; the others stand for themselves, so that they are seen. Of runs with
    equal values of `over` (the same bits, or a mistake) the newest counts. Raises UserError for an unknown setting.
    """
    known = {k for f in facts for k in f.settings}
    for key in over:
        if key not in known and key != "seed":
            raise UserError(f"--group: no run has a setting {key!r}{nearest(key, known)}")
    groups: dict[object, list[Facts]] = {}
    for fact in facts:
        kept = tuple(sorted((k, str(v)) for k, v in fact.settings.items() if k not in over))
        own = (fact.name, kept) if over and fact.ended_well and fact.settings else id(fact)
        groups.setdefault(own, []).append(fact)
    return _told_apart([row for members in groups.values() for row in _rows(members, over)], over)


def _told_apart(rows: list[Row], over: Sequence[str]) -> list[Row]:
    """The rows, groups of one experiment with the settings in which they differ in their labels (at most three)."""
    out = []
    for row in rows:
        alike = [r.runs[0] for r in rows if r.n > 1 and r.runs[0].name == row.runs[0].name]
        keys = [k for k in differing(alike) if k not in over and k in row.runs[0].settings] if row.n > 1 else []
        told = ", ".join(f"{k.rpartition('.')[2]}={row.runs[0].settings[k]}" for k in keys[:3])
        out.append(replace(row, told=told))
    return out


def _rows(members: Sequence[Facts], over: Sequence[str]) -> list[Row]:
    newest = {tuple(f.settings.get(k) for k in over): f for f in members}
    if len(newest) < 2:
        return [Row((f,)) for f in members]
    return [Row(tuple(newest.values()), len(members) - len(newest))]


def metrics_of(facts: Sequence[Facts], asked: Sequence[str]) -> list[str]:
    """The metrics to show. An asked one may be its last part (`train_s`). Raises UserError where no run has it."""
    known = list(dict.fromkeys(m for f in facts for m in f.metrics))
    if not asked:
        return [m for m in DEFAULT_METRICS if m in known]
    out = []
    for name in asked:
        fitting = [name] if name in known else [m for m in known if m.rpartition("/")[2] == name]
        if len(fitting) > 1:
            raise UserError(f"--metric {name}: may be any of {', '.join(fitting)}")
        if not fitting:
            raise UserError(f"--metric: no run has recorded {name!r}{nearest(name, known)}")
        out += fitting
    return list(dict.fromkeys(out))


def best(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows that are best in a metric, one per task that has at least two rows; none where there is no better.

    Only runs that ended well take part. A weighted loss is compared among equal weights alone.
    """
    sign = _sign(metric)
    fields: dict[object, list[Row]] = {}
    for row in rows:
        if sign and metric in row.means and all(r.ended_well for r in row.runs):
            fields.setdefault(_field(row.runs[0], metric), []).append(row)
    return [min(f, key=lambda r: sign * r.means[metric]) for f in fields.values() if len(f) > 1]


def _field(run: Facts, metric: str) -> object:
    """Runs of one field can be compared in this metric."""
    weights = {k: v for k, v in run.settings.items() if k.startswith("weights.")}
    return run.task, tuple(sorted((k, str(v)) for k, v in weights.items())) if metric == "loss" else ()


def _sign(metric: str) -> int:
    """1: less is better; -1: more is better; 0: neither (a constant, a rate)."""
    if metric == "time/steps_per_s":
        return -1
    return 1 if metric == "time/train_s" or metric.partition("/")[0] in _SMALL else 0


def number(value: float, spread: float | None = None) -> str:
    """Four significant digits; with a spread three, and two of the spread."""
    if spread is None:
        return _digits(value, 4)
    return f"{_digits(value, 3)} ± {_digits(spread, 2)}"


def _digits(value: float, count: int) -> str:
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        decimals = count - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(decimals, 0)}f}"
    return f"{value:.{count - 1}e}"
