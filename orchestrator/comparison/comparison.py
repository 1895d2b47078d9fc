"""A comparison as data, as text and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from backends.errors import UserError
from orchestrator.comparison.chosen import Meant, chosen
from orchestrator.comparison.facts import Facts, facts_of
from orchestrator.comparison.rows import Row, best, differing, grouped, metrics_of, number

COLUMNS = 6
"""Most settings that are columns of the table of runs."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. In a notebook it shows itself as a table."""

    runs: tuple[Facts, ...]
    rows: tuple[Row, ...]
    settings: tuple[str, ...]
    """The settings that differ."""
    metrics: tuple[str, ...]
    over: tuple[str, ...]
    """The settings that were averaged over (`seed`)."""

    @property
    def table(self) -> list[dict[str, Any]]:
        """One flat dictionary per row, for a data frame: run, status, n, settings that differ, metrics, `… ±`."""
        out = []
        for row in self.rows:
            entry: dict[str, Any] = {"run": row.label, "status": row.status, "step": row.step, "n": row.n}
            entry |= {k: _one(row.values(k)) for k in self.settings}
            for metric in self.metrics:
                entry[metric] = row.means.get(metric)
                if row.n > 1:
                    entry[f"{metric} ±"] = row.spreads.get(metric)
            out.append(entry)
        return out

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "settings": list(self.settings),
            "metrics": list(self.metrics),
            "grouped_over": list(self.over),
            "spread": "sample standard deviation",
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "run": row.label,
            "folders": [str(r.folder.path) for r in row.runs],
            "status": row.status,
            "step": row.step,
            "n": row.n,
            "repeated": row.repeated,
            "settings": {k: _one(row.values(k)) for k in self.settings},
            "metrics": {m: row.means.get(m) for m in self.metrics},
            "spread": {m: row.spreads[m] for m in self.metrics if m in row.spreads},
            "best": [m for m in self.metrics if row in self.best(m)],
        }

    def best(self, metric: str) -> list[Row]:
        """The rows that are marked as best in a metric."""
        return best(self.rows, metric)

    def cell(self, row: Row, metric: str) -> str:
        """A metric of a row as text; empty where it has none."""
        return number(row.means[metric], row.spreads.get(metric)) if metric in row.means else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The settings that are columns of the table of runs: those that all runs have, where they are few."""
        common = tuple(k for k in self.settings if all(k in r.settings for r in self.runs))
        return common if len(common) <= COLUMNS else ()

    @property
    def beside(self) -> tuple[str, ...]:
        """The other settings that differ: they stand in a table of their own, with a column per run."""
        return tuple(k for k in self.settings if k not in self.columns)

    def notes(self) -> list[str]:
        """What a reader must know about the table."""
        said = []
        if any(self.best(m) for m in self.metrics):
            said.append("* best of its task among the runs that ended well")
        if any(row.n > 1 for row in self.rows):
            said.append(f"± sample standard deviation over {', '.join(self.over)} (n runs)")
        repeated = sum(row.repeated for row in self.rows)
        if repeated:
            plural = "runs repeat" if repeated > 1 else "run repeats"
            said.append(f"{repeated} {plural} the settings of a newer one and was left out of the means")
        if self.metrics:
            said.append("metrics are those of the last step")
        said += [f"{r.label} {r.status}: {r.reason}" for r in self.runs if r.reason and r.status == "failed"]
        return said

    @property
    def markdown(self) -> str:
        """The tables in GitHub's Markdown."""
        from orchestrator.comparison.text import markdown

        return markdown(self)

    @property
    def html(self) -> str:
        """A page in one file: tables, curves, pictures, provenance. No script, nothing is loaded from elsewhere."""
        from orchestrator.comparison.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from orchestrator.comparison.page import fragment

        return fragment(self)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.runs)} runs in {len(self.rows)} rows>"


def compare(
    runs: Meant | Iterable[Meant],
    *,
    metrics: Sequence[str] = (),
    group: str | Sequence[str] = "seed",
    storage: str | None = None,
) -> Comparison:
    """Put runs side by side.

    `runs`: run folders, ids, names, `latest`, results of `run`, a storage folder or a pattern. `metrics`: default
    error/l2, validation/total, loss, time/train_s, time/steps_per_s, where recorded. `group`: runs that differ in
    these settings alone become mean ± spread; "none": one row per run. Raises UserError.
    """
    facts = tuple(facts_of(folder) for folder in chosen(runs, storage))
    asked = [group] if isinstance(group, str) else list(group)
    over = [key for text in asked for key in text.split(",") if key]
    if "none" in over:
        if len(over) > 1:
            raise UserError("--group none can't be combined with settings to group over")
        over = []
    rows = grouped(facts, over)
    return Comparison(facts, tuple(rows), tuple(differing(facts)), tuple(metrics_of(facts, metrics)), tuple(over))


def _one(values: Sequence[Any]) -> Any:
    """The value that all runs of a row share, else the list."""
    return values[0] if len(values) == 1 else list(values)
