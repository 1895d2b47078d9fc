"""The picture of a problem's domain: training points inside, points of each part of the boundary, normals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backends.geometry.sampling import BOUNDARY, on_boundary, parts, volume
from backends.names import NORMAL
from backends.pde.domain import clouds_of, shape_of, spatial
from backends.randomness import generator
from backends.task import Batches, Columns, Picture

if TYPE_CHECKING:
    from backends.pde.task import PdeTask

SHOWN, DRAWN = 4000, 200
"""Training points per set that are drawn, and points of a part that is not trained on."""
MEASURES = {1: "length", 2: "area", 3: "volume"}


def described(task: PdeTask) -> str:
    """One line: `geometry: area 3.72, parts left, right, bottom, top, hole`; empty where there is none."""
    shape = shape_of(task.problem)
    if shape is None:
        return ""
    what = MEASURES.get(shape.dimension, "volume")
    named = ", ".join(parts(shape))
    return f"geometry: {what} {volume(shape):.4g}" + (f", parts {named}" if named else "")


def picture(task: PdeTask, samples: Batches) -> Picture | None:
    """The domain in space; None for a plain box, and beyond three dimensions."""
    problem, space = task.problem, spatial(task.problem)
    if (shape_of(problem) is None and not clouds_of(problem)) or not 1 <= len(space) <= 3:
        return None
    panels: dict[str, NDArray[np.float64]] = {}
    for batch, recording in task.recordings.items():
        columns = samples.get(batch, {})
        if not recording.region.nodes and all(c in columns for c in space):
            panels[batch] = _rows(columns, space, normals=bool(recording.region.on))
    shape = shape_of(problem)
    if shape is not None and BOUNDARY not in panels:
        for part in parts(shape) or (BOUNDARY,):
            if part not in panels:
                rng = generator(0, "geometry", part)
                panels[part] = _rows(on_boundary(shape, part, space, DRAWN, "uniform", rng), space, normals=True)
    return Picture("geometry", "geometry", panels, dict.fromkeys(space, np.empty(0)), described(task) or "points")


def _rows(columns: Columns, space: tuple[str, ...], *, normals: bool) -> NDArray[np.float64]:
    wanted = [*space, *(NORMAL + c for c in space)] if normals and NORMAL + space[0] in columns else list(space)
    return np.stack([np.asarray(columns[c])[:SHOWN] for c in wanted], 1)
