"""The look of all figures: colours that the colour-blind can tell apart (Okabe and Ito), open frames, small type."""

from __future__ import annotations

from typing import Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#8C6D31")
INK, FAINT = "#222222", "#8A8A8A"
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.formatter.limits": (-2, 4),
    "axes.formatter.use_mathtext": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.07,
    "figure.dpi": 150,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.dpi": 150,
    "text.color": INK,
    "xtick.color": "#555555",
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.color": "#555555",
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
}


def tidy(axes: Axes, grid: bool = True) -> None:
    """Open frame, with a faint grid behind the lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(grid)


def span(values: Any) -> tuple[float, float]:
    """Smallest and largest finite value; never an empty interval."""
    finite = np.asarray(values)[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def largest(values: Any) -> float:
    """Largest finite absolute value; 0 where there is none."""
    finite = np.abs(np.asarray(values, np.float64))
    return float(finite[np.isfinite(finite)].max(initial=0.0))
