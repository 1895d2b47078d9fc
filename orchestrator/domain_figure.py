"""The figure of a problem's domain, before anything is trained: by `check --figure`, and at the start of every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.errors import UserError
from backends.pde.domain_picture import described, picture
from backends.pde.task import PdeTask
from backends.task import Task

FORMATS = (".png", ".pdf", ".svg")


def drawn(task: Task, feed: Any, stem: Path, formats: tuple[str, ...]) -> Path | None:
    """Draws the domain with the training points of step 0; None where it is a plain box. Raises OSError."""
    if not isinstance(task, PdeTask):
        return None
    found = picture(task, feed.take(0, 1).fixed())
    if found is None:
        return None
    from orchestrator import plots

    return plots.save(plots.draw(found), stem, formats, data=plots.data_of(found))


def write(file: Path, overrides: list[str], out: Path) -> str:
    """Draws the domain of an experiment file; returns its description. Raises UserError."""
    from orchestrator.build import task_of
    from orchestrator.runs import checked, read_folder

    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--figure {out}: the file must end in {', '.join(FORMATS)}")
    experiment = checked(file, overrides).experiment
    task = task_of(experiment, read_folder(file))
    try:
        made = drawn(task, task.feed(experiment.seed), out.with_suffix(""), (out.suffix[1:].lower(),))
    except OSError as error:
        raise UserError(f"--figure {out} can't be written: {error.strerror or error}") from error
    if made is None:
        raise UserError("--figure draws a geometry or points of files, and this experiment's domain is a plain box")
    assert isinstance(task, PdeTask)
    return described(task) or "points of files"
