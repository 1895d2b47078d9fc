"""A comparison in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.console import console
from orchestrator.printing import tabular

if TYPE_CHECKING:
    from orchestrator.comparison.comparison import Comparison
    from orchestrator.comparison.rows import Row

Cells = list[list[str]]


def shown(value: Any) -> str:
    """A setting as text: hashes and paths of this machine are shortened."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:8]
    if text.startswith("/"):
        return "…/" + "/".join(PurePath(text).parts[-2:]).lstrip("/")
    return text


def settings_of(row: Row, key: str) -> str:
    """A setting of a row; several values in a group."""
    return ", ".join(shown(v) for v in row.values(key))


def header(comparison: Comparison) -> list[str]:
    """Column names of the table of runs."""
    return ["run", "status", "step", *comparison.columns, *comparison.metrics]


def body(comparison: Comparison, best: Callable[[str], str], plain: Callable[[str], str] = str) -> Cells:
    """Cells of the table of runs; `best` marks a metric, `plain` is what becomes of every other text."""
    out = []
    for row in comparison.rows:
        first = [row.label, row.status, str(row.step), *(settings_of(row, k) for k in comparison.columns)]
        metrics = [(comparison.cell(row, m), row in comparison.best(m)) for m in comparison.metrics]
        out.append([*map(plain, first), *(best(cell) if marked else plain(cell) for cell, marked in metrics)])
    return out


def settings_table(comparison: Comparison) -> tuple[list[str], Cells]:
    """The other settings that differ, one per line."""
    cells = [[key, *(settings_of(row, key) for row in comparison.rows)] for key in comparison.beside]
    return ["setting", *(row.label for row in comparison.rows)], cells


def show(comparison: Comparison) -> None:
    """Print the tables on stdout and what is to be known about them."""
    out = console(stderr=False)
    numbers = ("step", *comparison.metrics)
    table = tabular(out, *header(comparison), right=numbers)
    for cells in body(comparison, lambda cell: cell + "*"):
        table.add_row(*cells)
    out.print(table)
    if comparison.beside:
        names, rows = settings_table(comparison)
        second = tabular(out, *names)
        for cells in rows:
            second.add_row(*cells)
        out.print(second)
    for note in comparison.notes():
        typer.echo(note, err=True)


def markdown(comparison: Comparison) -> str:
    """The tables and notes in GitHub's Markdown; what is best stands in bold."""
    numbers = {"step", *comparison.metrics}
    cells = body(comparison, lambda cell: f"**{cell}**", _plain)
    parts = [_table(header(comparison), cells, numbers)]
    if comparison.beside:
        names, rows = settings_table(comparison)
        parts.append("Settings that differ:\n\n" + _table(names, [[_plain(c) for c in r] for r in rows], set()))
    notes = "\n".join(f"- {_plain(n.replace('* best', 'bold: best'))}" for n in comparison.notes())
    return "\n\n".join([*parts, notes] if notes else parts) + "\n"


def _table(names: Sequence[str], cells: Cells, numbers: set[str]) -> str:
    lines = [[_plain(n) for n in names], ["---:" if n in numbers else "---" for n in names], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown does not interpret."""
    for sign in "\\`*[]|#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
