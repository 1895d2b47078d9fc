"""One wide table of a run's metrics: `metrics.csv`, a row per step, a column per metric."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backends import files
from backends.spec import Leaf
from orchestrator.loggers.sink import About, Sink


class Csv(Leaf):
    """`metrics.csv` in the run folder: a row per recorded step, empty cells where a metric was not recorded."""

    kind: Literal["csv"] = "csv"

    def installed(self) -> bool:
        """Always."""
        return True

    def open(self, about: About) -> Sink:
        """Go on with the table, or begin it."""
        return Table(about.folder / "metrics.csv")


class Table:
    """The table. A new metric becomes a new column at the right: the file is then written anew, in one piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns, rows = _read(path)
        self.last = max((int(row["step"]) for row in rows), default=-1)
        if path.exists() and _text(self.columns, rows).encode() != path.read_bytes():
            self._rewrite(rows)  # the last line was torn when the process before this one was killed

    def metrics(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """One row."""
        if step <= self.last:
            return
        row = {"step": step, "time": repr(time_s), **{k: repr(float(v)) for k, v in values.items()}}
        new = [name for name in row if name not in self.columns]
        if new or self.last < 0:
            _, rows = _read(self.path)
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row)
        self.last = step

    def figure(self, step: int, time_s: float, key: str, file: Path) -> None:
        """Pictures lie in the run folder already."""

    def flush(self) -> None:
        """Onto the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self, status: str) -> None:
        """Nothing is open."""

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        files.replace(self.path, _text(self.columns, rows).encode())


def _text(columns: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and complete rows; what a killed process left of a last line is left out."""
    if not path.exists():
        return ["step", "time"], []
    text = path.read_bytes().decode("utf-8", errors="replace")
    table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    columns = list(table.fieldnames or ["step", "time"])
    return columns, [row for row in table if None not in row.values() and str(row.get("step", "")).isdecimal()]
