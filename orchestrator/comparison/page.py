"""A comparison as one HTML file: everything is in it, no script, nothing is loaded from elsewhere.

It says nothing about the machine that wrote it: no host, no user, no absolute path, no date of its own.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.comparison.facts import Facts
from orchestrator.comparison.text import settings_of, shown

if TYPE_CHECKING:
    from jinja2 import Template

    from orchestrator.comparison.comparison import Comparison
    from orchestrator.comparison.rows import Row

PICTURES = 40
"""Pictures of runs in one page: it must still open in a browser."""
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_PACKAGES = ("orchestrator", "jax", "torch", "optax", "numpy")


@dataclass(frozen=True)
class Shown:
    """A picture in the page."""

    title: str
    note: str
    source: str
    """A `data:` address."""


def page(comparison: Comparison) -> str:
    """The whole page."""
    from orchestrator.comparison import pictures

    shown_pictures = list(_pictures(comparison.rows))
    return _template().render(
        **_tables(comparison),
        fragment=False,
        title=_title(comparison),
        curves=_figure(pictures.curves(comparison.rows)),
        weights=_figure(pictures.weights(comparison.rows)),
        pictures=shown_pictures[:PICTURES],
        more_pictures=max(len(shown_pictures) - PICTURES, 0),
        shared=_shared(comparison),
        origins=[_origin(r) for r in comparison.runs],
    )


def fragment(comparison: Comparison) -> str:
    """The tables alone, for a notebook."""
    return _template().render(**_tables(comparison), fragment=True)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("orchestrator.comparison", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    return environment.get_template("report.html.j2")


def _tables(comparison: Comparison) -> dict[str, Any]:
    """The table of runs, and the settings that differ where they are too many for its columns."""
    best = {m: [id(r) for r in comparison.best(m)] for m in comparison.metrics}
    rows = [
        {
            "label": row.label,
            "members": [r.label for r in row.runs] if row.n > 1 else [],
            "status": row.status,
            "step": f"{row.step:,}",
            "settings": [settings_of(row, k) for k in comparison.columns],
            "metrics": [(comparison.cell(row, m), id(row) in best[m]) for m in comparison.metrics],
        }
        for row in comparison.rows
    ]
    return {
        "rows": rows,
        "columns": comparison.columns,
        "metrics": comparison.metrics,
        "notes": comparison.notes(),
        "beside": [(k, [settings_of(row, k) for row in comparison.rows]) for k in comparison.beside],
    }


def _title(comparison: Comparison) -> str:
    names = list(dict.fromkeys(r.name for r in comparison.runs))
    few = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    count = len(comparison.runs)
    return f"{few}: {count} run{'s' if count != 1 else ''}"


def _figure(figure: Any) -> str:
    """A figure as a `data:` address; empty for none."""
    from orchestrator.comparison.pictures import svg

    return "" if figure is None else _data(svg(figure), "image/svg+xml")


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _pictures(rows: Sequence[Row]) -> Iterator[Shown]:
    """The last picture of each run."""
    for row in rows:
        for run in row.runs:
            content = _read(run.picture)
            if run.picture is not None and content:
                error = run.metrics.get("error/l2")
                note = f"step {run.step:,}" + (f", error/l2 {error:.3g}" if error is not None else "")
                yield Shown(run.label, note, _data(content, _TYPES[run.picture.suffix]))


def _read(path: Path | None) -> bytes:
    try:
        return path.read_bytes() if path else b""
    except OSError:
        return b""


def _shared(comparison: Comparison) -> list[tuple[str, str]]:
    """The settings that all runs have in common."""
    first = comparison.runs[0].settings
    return [(k, shown(v)) for k, v in first.items() if k not in comparison.settings]


def _origin(run: Facts) -> dict[str, str]:
    """Where a run comes from, without host, user and paths."""
    git, packages = run.origin.get("git") or {}, run.origin.get("packages") or {}
    commit = str(git.get("commit") or "")[:12]
    when = run.origin.get("time")
    took = run.metrics.get("time/train_s")
    return {
        "run": run.label,
        "status": run.status,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(when))) if when else "–",
        "trained": f"{took:.1f} s" if took is not None else "–",
        "on": " ".join(str(run.settings.get(k, "")) for k in ("backend", "device")).strip() or "–",
        "commit": (commit + (" + changes" if git.get("dirty") else "")) or "–",
        "python": str(run.origin.get("python") or "–"),
        "packages": ", ".join(f"{p} {packages[p]}" for p in _PACKAGES if p in packages) or "–",
    }
