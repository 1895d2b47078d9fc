"""Loggers beside MLflow: TensorBoard, Weights & Biases, and one wide CSV file.

Rank 0 writes the run folder; one process per run (`orchestrator.loggers.follow`) reads it and hands everything on, so a
logger that is slow, away or broken neither slows training nor ends it: it is one warning with its name.

    sink.py          what a logger is: metrics, figures, an end
    csv_table.py     metrics.csv in the run folder
    tensorboard.py   event files, by tensorboardX
    wandb_run.py     a W&B run, online or offline
    follow.py        the process that reads the run folder
    handle.py        that process as the run sees it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from backends.errors import UserError
from orchestrator.loggers.csv_table import Csv
from orchestrator.loggers.tensorboard import TensorBoard
from orchestrator.loggers.wandb_run import Wandb

__all__ = ["AnyLogger", "Csv", "LoggerSpec", "TensorBoard", "Wandb", "absolute", "check", "named"]

AnyLogger = Csv | TensorBoard | Wandb
LoggerSpec = Annotated[AnyLogger, Field(discriminator="kind")]


def named(specs: Sequence[AnyLogger]) -> dict[str, AnyLogger]:
    """The loggers of a file by their kind; `tensorboard#2` for a second one."""
    found: dict[str, AnyLogger] = {}
    for spec in specs:
        count = sum(1 for name in found if name.partition("#")[0] == spec.kind)
        found[f"{spec.kind}#{count + 1}" if count else spec.kind] = spec
    return found


def check(specs: Sequence[AnyLogger]) -> None:
    """Raise UserError where a package is missing, or where two loggers would write to the same place."""
    for i, spec in enumerate(specs):
        if not spec.installed():
            raise UserError(
                f"the logger {spec.kind!r} needs a package that is not installed here: "
                f"pip install 'orchestrator[{spec.kind}]'",
                path=f"loggers.{i}.kind",
            )
        first = specs.index(spec)
        if first < i:
            raise UserError(
                f"this is the logger loggers.{first} once more, and would write to the same place; remove one of them",
                path=f"loggers.{i}",
            )


def absolute(specs: Sequence[AnyLogger]) -> tuple[AnyLogger, ...]:
    """The same loggers with folders that mean the same from everywhere."""
    return tuple(_anchored(spec) for spec in specs)


def _anchored(spec: AnyLogger) -> AnyLogger:
    if isinstance(spec, Csv) or spec.dir is None:
        return spec
    return spec.model_copy(update={"dir": str(Path(spec.dir).expanduser().absolute())})
