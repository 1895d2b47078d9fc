"""Pictures of a task as figures: fields, profiles over one coordinate, rows of images, coloured points."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from backends.task import Picture
from orchestrator.plots.geometry import draw_geometry
from orchestrator.plots.style import COLOURS, FAINT, STYLE, largest, span, tidy

_SPATIAL = frozenset("xyz")


def draw(picture: Picture) -> Figure:
    """The figure of one picture of a task."""
    with matplotlib.rc_context(STYLE):
        return _KINDS[picture.kind](picture)


def _field(picture: Picture) -> Figure:
    """Prediction and reference on one colour scale, the signed error on its own; or lines over one coordinate."""
    if len(picture.axes) == 1:
        return _profile(picture)
    (across, x), (up, y) = picture.axes.items()
    names = list(picture.panels)
    square = {across, up} <= _SPATIAL
    wide = 0.8 + 2.2 * float(np.clip(np.ptp(x) / max(np.ptp(y), 1e-300), 0.4, 2.5)) if square else 3.3
    figure = Figure(figsize=(0.5 + wide * len(names), 3.0))
    figure.suptitle(picture.title or picture.name)
    plots: list[Axes] = list(np.ravel(figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)))
    shared = [n for n in ("prediction", "reference") if n in names]
    alike = span(np.concatenate([np.ravel(picture.panels[n]) for n in shared])) if shared else (0.0, 1.0)
    for axes, name in zip(plots, names, strict=True):
        values = np.asarray(picture.panels[name], np.float64)
        norm, colours = _scale(name, values, alike)
        shading = "gouraud" if np.isfinite(values).all() else "nearest"  # which would smear the edge of a geometry
        mesh = axes.pcolormesh(x, y, values.T, norm=norm, cmap=colours, shading=shading, rasterized=True)
        axes.set_title(f"{name}, max |e| = {largest(values):.2e}" if name == "error" else name)
        axes.set_xlabel(across)
        if square:
            axes.set_aspect("equal")
        if name not in shared:
            figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.02)
        elif name == shared[-1]:
            figure.colorbar(mesh, ax=[a for a, n in zip(plots, names) if n in shared], fraction=0.05, pad=0.01)
    plots[0].set_ylabel(up)
    return figure


def _scale(name: str, values: NDArray[np.float64], alike: tuple[float, float]) -> tuple[Normalize, str]:
    """Colour scale and map of one panel."""
    if name in ("prediction", "reference"):
        return Normalize(*alike), "viridis"
    if name == "error":
        top = largest(values) or 1e-300
        return TwoSlopeNorm(0.0, -top, top), "RdBu_r"
    low, high = span(values)
    positive = values[np.isfinite(values) & (values > 0)]
    if name.startswith("|") and positive.size and high > 100 * np.quantile(positive, 0.05):
        return LogNorm(max(float(np.quantile(positive, 0.02)), high * 1e-8), high, clip=True), "viridis"
    return Normalize(low, high), "viridis"


def _profile(picture: Picture) -> Figure:
    """Lines over one coordinate: everything in one panel, the error (where there is one) in a second."""
    ((across, x),) = picture.axes.items()
    curves = {n: np.asarray(v, np.float64) for n, v in picture.panels.items() if n != "error"}
    error = picture.panels.get("error")
    figure = Figure(figsize=(8.4 if error is not None else 5.2, 3.0))
    figure.suptitle(picture.title or picture.name)
    left, *right = np.ravel(figure.subplots(1, 1 if error is None else 2, squeeze=False))
    for name, values in sorted(curves.items(), key=lambda pair: pair[0] != "reference"):
        known = name == "reference"
        left.plot(x, values, label=name, color="#B0B0B0" if known else None, lw=3.2 if known else 1.4)
    if any(n.startswith("|") for n in curves) and all((v > 0).any() for v in curves.values()):
        left.set_yscale("log")
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curves), borderpad=0)
    for axes in right:
        axes.axhline(0, color=FAINT, lw=0.6)
        axes.plot(x, np.asarray(error), color=COLOURS[1])
        axes.set_title(f"error, max |e| = {largest(error):.2e}")
    for axes in (left, *right):
        axes.set_xlabel(across)
        tidy(axes)
    return figure


def _images(picture: Picture) -> Figure:
    """One row of small images per panel, all on one grey scale."""
    rows = {name: np.asarray(values, np.float64) for name, values in picture.panels.items()}
    limits = span(np.concatenate([v.ravel() for v in rows.values()]))
    count, height, width = (max(v.shape[i] for v in rows.values()) for i in range(3))
    inches = min(0.8, 12 / count)
    figure = Figure(figsize=(1.2 + inches * count, 0.5 + 1.1 * inches * height / width * len(rows)))
    figure.suptitle(picture.title or picture.name)
    plots: list[Axes] = list(np.ravel(figure.subplots(len(rows), 1, squeeze=False)))
    for axes, (name, values) in zip(plots, rows.items(), strict=True):
        strip = np.full((values.shape[1], values.shape[0] * (values.shape[2] + 1) - 1), np.nan)
        for i, image in enumerate(values):
            strip[:, i * (values.shape[2] + 1) :][:, : values.shape[2]] = image
        axes.imshow(strip, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _scatter(picture: Picture) -> Figure:
    """Points coloured by a third value, on a logarithmic scale where it spans decades."""
    across, up, *_ = [*picture.axes, "", ""]
    figure = Figure(figsize=(0.9 + 4.3 * len(picture.panels), 3.4))
    figure.suptitle(picture.title or picture.name)
    plots: list[Axes] = list(np.ravel(figure.subplots(1, len(picture.panels), squeeze=False)))
    for axes, (name, points) in zip(plots, picture.panels.items(), strict=True):
        x, y, values = np.asarray(points, np.float64).T
        order = np.argsort(values)
        norm, colours = _scale("|", np.abs(values), (0.0, 1.0))
        size = float(np.clip(6000 / max(len(x), 1), 1.5, 14))
        dots = axes.scatter(x[order], y[order], c=values[order], s=size, norm=norm, cmap=colours, lw=0, rasterized=True)
        axes.set(title=name, xlabel=across, ylabel=up)
        figure.colorbar(dots, ax=axes, fraction=0.05, pad=0.02)
        tidy(axes, grid=False)
    return figure


_KINDS: dict[str, Callable[[Picture], Figure]] = {
    "field": _field,
    "images": _images,
    "scatter": _scatter,
    "geometry": draw_geometry,
    "lines": _profile,
}
