"""Metrics over the optimizer steps: loss terms, held-out terms and errors, weights, rate, unknown constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from orchestrator.plots.style import FAINT, INK, STYLE, tidy

Series = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""{metric: (steps, values)}."""
Bounds = Sequence[tuple[int, str]]
"""(last step of a stage, its name), for every stage but the last."""

_HISTORIES = (
    ("losses", "loss terms (unweighted) and their weighted sum", "mean square", ("loss",)),
    ("validation", "held-out terms and errors (unweighted)", "value", ("validation", "error")),
    ("weights", "weights of the loss terms", "weight", ("weight",)),
    ("rate", "learning rate", "learning rate", ("lr",)),
    ("unknowns", "unknown constants", "value", ("unknown",)),
)
"""name, title, axis, first segments of the metrics shown."""


def histories(series: Series, bounds: Bounds = ()) -> list[tuple[str, Figure, dict[str, NDArray[Any]]]]:
    """(name, figure, data) of the loss terms, validation, weights, rate and unknowns over the steps, where recorded."""
    made = []
    for name, title, label, heads in _HISTORIES:
        shown = {k: v for k, v in sorted(series.items()) if k.split("/")[0] in heads and np.isfinite(v[1]).any()}
        if shown:
            data = {k: v[1] for k, v in shown.items()} | {f"{k}/step": v[0] for k, v in shown.items()}
            made.append((name, history(shown, title, label, bounds), data))
    return made


def history(series: Series, title: str, label: str, bounds: Bounds = ()) -> Figure:
    """Metrics over optimizer steps, with the ends of the stages; logarithmic where all are positive."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.4))
        axes: Axes = figure.subplots()
        axes.set_title(title, loc="left", pad=16 if bounds else 6)
        log = (
            all((v[np.isfinite(v)] >= 0).all() and (v > 0).any() for _, v in series.values()) and _decades(series) > 0.7
        )
        for name, (steps, values) in series.items():
            total = "/" not in name or name == "validation/total"
            drawn = np.where(values > 0, values, np.nan) if log else values
            marker = "o" if np.isfinite(drawn).sum() < 30 else None
            style: dict[str, Any] = {"color": INK, "lw": 1.8, "zorder": 3} if total and len(series) > 1 else {}
            axes.plot(steps, drawn, label="loss (weighted)" if name == "loss" else name, marker=marker, ms=2.5, **style)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(LogLocator(subs="auto", numticks=50))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _stages(axes, bounds, max(int(s[-1]) for s, _ in series.values()))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="optimizer step", ylabel=label)
        tidy(axes)
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def _stages(axes: Axes, bounds: Bounds, last: int) -> None:
    """A thin line at the end of each stage, with its name above and to the left of it."""
    for step, name in bounds:
        if step < last:
            axes.axvline(step, color=FAINT, lw=0.8, ls=(0, (4, 3)), zorder=0)
            place = axes.get_xaxis_transform()
            axes.text(step, 1.015, f"{name} ┤", transform=place, ha="right", va="bottom", size=7.5, color=FAINT)


def _decades(series: Series) -> float:
    values = np.concatenate([v[np.isfinite(v) & (v > 0)] for _, v in series.values()])
    return float(np.log10(values.max() / values.min())) if values.size else 0.0
