"""Figures: fields, images, points and histories, drawn without pyplot; each function returns a `Figure`.

The only package that imports matplotlib. Fields use viridis, with one scale for prediction and reference; signed
errors a diverging map centred on zero, with their largest value in the title; terms and weights logarithmic axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from backends.task import Picture
from orchestrator.plots.history import histories, history
from orchestrator.plots.pictures import draw
from orchestrator.plots.style import STYLE

__all__ = ["data_of", "draw", "histories", "history", "save"]


def data_of(picture: Picture) -> dict[str, NDArray[Any]]:
    """The arrays behind a picture: its panels, and its axes under `axis/<name>`."""
    axes = {f"axis/{name}": np.asarray(values) for name, values in picture.axes.items() if np.size(values)}
    return {**axes, **{name: np.asarray(values) for name, values in picture.panels.items()}}


def save(
    figure: Figure, stem: Path, formats: Sequence[str] = ("png",), data: Mapping[str, NDArray[Any]] | None = None
) -> Path:
    """Write `<stem>.<format>` for each format and the data as `<stem>.npz`; the first file. Raises OSError."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    with matplotlib.rc_context(STYLE):
        for file in files:
            figure.savefig(file)
    if data:
        with stem.with_name(f"{stem.name}.npz").open("wb") as target:
            np.savez_compressed(target, **dict(data))  # pyright: ignore[reportArgumentType]
    return files[0]
