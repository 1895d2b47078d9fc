"""The domain before training: points inside, and every part of the boundary with its outward normals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from backends.task import Picture
from orchestrator.plots.style import COLOURS, FAINT, tidy

ARROWS = 40
"""Normals that are drawn per part."""


def draw_geometry(picture: Picture) -> Figure:
    """Panels [n, d] are points, [n, 2 d] points with normals; d = 1, 2 or 3."""
    names = list(picture.axes)
    dimension = len(names)
    points = {name: np.asarray(v, np.float64) for name, v in picture.panels.items()}
    both = np.concatenate([v[:, :dimension] for v in points.values()])
    extent = np.maximum(np.ptp(both, axis=0), 1e-12)
    figure = Figure(figsize=(7.5, 5.0))
    figure.suptitle(picture.title or picture.name)
    axes: Any = figure.add_subplot(projection="3d" if dimension == 3 else None)
    colours = iter((*COLOURS, *COLOURS, *COLOURS))
    for name, rows in points.items():
        at = rows[:, :dimension] if dimension > 1 else np.stack([rows[:, 0], np.zeros(len(rows))], 1)
        if rows.shape[1] == dimension:
            axes.scatter(*at.T, s=2.0, color=FAINT, lw=0, label=f"{name} ({len(rows)})")
            continue
        colour = next(colours)
        axes.scatter(*at.T, s=7.0, color=colour, lw=0, label=f"{name} ({len(rows)})")
        some = np.unique(np.linspace(0, len(rows) - 1, min(ARROWS, len(rows))).astype(int))
        _arrows(axes, at[some], rows[some, dimension:], 0.07 * float(extent.max()), colour)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1] if dimension > 1 else "")
    if dimension == 3:
        axes.set_zlabel(names[2])
        axes.set_box_aspect(extent)
    elif dimension == 2:
        reach = 0.1 * float(extent.max())  # room for the arrows
        axes.set(xlim=(both[:, 0].min() - reach, both[:, 0].max() + reach))
        axes.set(ylim=(both[:, 1].min() - reach, both[:, 1].max() + reach))
        if extent.max() < 8 * extent.min():
            axes.set_aspect("equal")
        tidy(axes)
    figure.legend(loc="outside right upper", markerscale=2.0)
    return figure


def _arrows(axes: Any, at: NDArray[np.float64], normals: NDArray[np.float64], length: float, colour: str) -> None:
    if normals.shape[1] == 3:
        axes.quiver(*at.T, *(length * normals.T), color=colour, lw=0.7, arrow_length_ratio=0.35)
        return
    if normals.shape[1] == 1:
        normals = np.concatenate([normals, np.zeros_like(normals)], 1)
    axes.quiver(*at.T, *(length * normals.T), color=colour, angles="xy", scale_units="xy", scale=1.0, width=0.003)
