"""Figures of a comparison: losses and errors of all runs over the steps, and the weights that move."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from orchestrator.comparison.facts import Series
from orchestrator.comparison.rows import Row
from orchestrator.plots.style import COLOURS, STYLE, tidy

PANELS = (
    ("loss", "training loss (weighted)"),
    ("validation/total", "held-out terms, total (unweighted)"),
    ("error/l2", "relative L2 error"),
)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
"""Lines of the 9th, 17th, 25th row and on, which take the colours again."""
POINTS = 400
"""Points drawn of one curve."""
NAMED = 24
"""Rows in a legend."""
WEIGHTS = 9
"""Panels of weights."""


def curves(rows: Sequence[Row]) -> Figure | None:
    """One panel each for loss, held-out terms and error, where recorded; None where nothing was."""
    panels = [(m, title) for m, title in PANELS if any(_drawn(r.series, m) for row in rows for r in row.runs)]
    return _panels(rows, panels, logarithmic=True) if panels else None


def weights(rows: Sequence[Row]) -> Figure | None:
    """One panel per weight that moved in at least one run; None where none did."""
    names = sorted({m for row in rows for r in row.runs for m in r.series if m.startswith("weight/")})
    moved = [m for m in names if any(_moves(r.series, m) for row in rows for r in row.runs)]
    return _panels(rows, [(m, m) for m in moved[:WEIGHTS]], logarithmic=False) if moved else None


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same numbers: no date, no random names."""
    target = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "orchestrator"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _panels(rows: Sequence[Row], panels: Sequence[tuple[str, str]], *, logarithmic: bool) -> Figure:
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    named = rows[:NAMED]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * columns + 0.4, 2.9 * lines + 0.22 * (1 + len(named) // 3)))
        plots: list[Axes] = list(np.ravel(figure.subplots(lines, columns, squeeze=False)))
        for axes, (metric, title) in zip(plots, panels):
            axes.set_title(title, loc="left")
            positive = [_draw(axes, rows, metric)]
            if logarithmic and all(positive):
                axes.set_yscale("log")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlabel("optimizer step")
            tidy(axes)
        for axes in plots[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **_look(i)) for i in range(len(named))]
        labels = [_text(row.label) for row in named]
        if len(rows) > len(named):
            handles.append(Line2D([], [], lw=0))
            labels.append(f"and {len(rows) - len(named)} more")
        if len(rows) > 1:
            figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 3 if columns > 1 else 1))
        return figure


def _draw(axes: Axes, rows: Sequence[Row], metric: str) -> bool:
    """The curves of a metric; whether all of them can stand on a logarithmic axis."""
    positive = True
    for i, row in enumerate(rows):
        for run in row.runs:
            if not _drawn(run.series, metric):
                continue
            steps, values = _thinned(*run.series[metric])
            positive &= bool((values[np.isfinite(values)] > 0).all())
            few = {"marker": "o", "ms": 2.5} if len(values) < 12 else {}
            axes.plot(steps, values, **{**_look(i), **few}, alpha=1.0 if row.n == 1 else 0.55)
    return positive


def _look(row: int) -> dict[str, Any]:
    return {"color": COLOURS[row % len(COLOURS)], "ls": DASHES[row // len(COLOURS) % len(DASHES)], "lw": 1.3}


def _drawn(series: Series, metric: str) -> bool:
    return metric in series and bool(np.isfinite(series[metric][1]).any())


def _moves(series: Series, metric: str) -> bool:
    if not _drawn(series, metric):
        return False
    values = series[metric][1]
    return len(np.unique(values[np.isfinite(values)])) > 1


def _thinned(steps: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most POINTS of a curve, the first and the last among them."""
    if len(steps) <= POINTS:
        return steps, values
    kept = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
    return steps[kept], values[kept]


def _text(label: str) -> str:
    """A label that matplotlib takes literally: `$` begins no formula, a leading `_` does not hide it."""
    return " " * label.startswith("_") + label.replace("$", r"\$")
