"""All pictures of a run at one step: the task's own and the histories of terms, weights and errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends.task import Picture
from orchestrator import plots
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder
from orchestrator.result import history


def draw_all(
    pictures: Sequence[Picture], folder: RunFolder, experiment: Experiment, step: int
) -> list[tuple[Path, str]]:
    """Draw and save; returns (file, key) of each first-format file. Histories end at `step`.

    Raises OSError where a file can't be written.
    """
    folder.figures.mkdir(exist_ok=True)
    formats = experiment.figures.formats
    made: list[tuple[Path, str]] = []
    for picture in pictures:
        stem = folder.figures / f"{picture.name}-{step:09d}"
        made.append(
            (plots.save(plots.draw(picture), stem, formats, data=plots.data_of(picture)), f"figures/{picture.name}")
        )
    series = {name: (at[at <= step], values[at <= step]) for name, (at, values) in history(folder).items()}
    series = {name: found for name, found in series.items() if len(found[0])}
    bounds = []
    total = 0
    for stage in experiment.stages[:-1]:
        total += stage.steps
        bounds.append((total, stage.name))
    for name, figure, data in plots.histories(series, bounds):
        made.append((plots.save(figure, folder.figures / f"{name}-{step:09d}", formats, data=data), f"figures/{name}"))
    return made
