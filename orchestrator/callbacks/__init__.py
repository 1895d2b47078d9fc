"""Callbacks that the experiment file names: configuration and behaviour of each beside one another.

early_stopping.py   stop where a metric no longer improves
plateau.py          lower the learning rate where it no longer improves
ramp.py             move a knob by a plan
gradient_norms.py   lengths of the gradient, layer by layer
monitors.py         rates and momentum, throughput, memory
profiler.py         a framework's profiler on a window of steps
custom.py           the user's own class
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from backends.errors import UserError
from orchestrator.callbacks.custom import CustomCallback, own_objects
from orchestrator.callbacks.early_stopping import EarlyStopping, StopsEarly
from orchestrator.callbacks.gradient_norms import GradientNorms
from orchestrator.callbacks.monitors import LrMonitor, Memory, Throughput
from orchestrator.callbacks.plateau import ReduceOnPlateau
from orchestrator.callbacks.profiler import Profiler
from orchestrator.callbacks.ramp import Ramp

__all__ = [
    "CallbackSpec",
    "CustomCallback",
    "EarlyStopping",
    "GradientNorms",
    "LrMonitor",
    "Memory",
    "Profiler",
    "Ramp",
    "ReduceOnPlateau",
    "StopsEarly",
    "Throughput",
    "check",
    "named",
    "own_objects",
]

CallbackSpec = Annotated[
    EarlyStopping
    | ReduceOnPlateau
    | Ramp
    | GradientNorms
    | LrMonitor
    | Throughput
    | Memory
    | Profiler
    | CustomCallback,
    Field(discriminator="kind"),
]


def named(specs: Sequence[CallbackSpec], folder: Path) -> dict[str, Any]:
    """The callbacks of a file (ramps are knobs, not callbacks), by names that do not depend on where the file lies."""
    made: dict[str, Any] = {}
    for spec in specs:
        if isinstance(spec, Ramp):
            continue
        name = Path(spec.target).name if isinstance(spec, CustomCallback) else spec.kind
        count = sum(1 for known in made if known.partition("#")[0] == name)
        made[f"{name}#{count + 1}" if count else name] = spec.make(folder)
    return made


def check(specs: Sequence[CallbackSpec], folder: Path, *, total_steps: int | None, rates: bool) -> None:
    """What can be known of callbacks before a run. `rates`: some stage has a learning rate. Raises UserError.

    `total_steps`: None where the file counts in epochs and the data's length is not known yet.
    """
    scales: list[int] = []
    for i, spec in enumerate(specs):
        if isinstance(spec, CustomCallback):
            try:
                spec.check(folder)
            except UserError as error:
                raise UserError(str(error), path=f"callbacks.{i}.target") from error
        elif isinstance(spec, Profiler) and total_steps is not None and spec.start + spec.steps > total_steps:
            raise UserError(
                f"the window ends at step {spec.start + spec.steps}, after the run's last step ({total_steps})",
                path=f"callbacks.{i}.start",
            )
        elif isinstance(spec, ReduceOnPlateau):
            if not rates:
                raise UserError(
                    "no stage of this run has a learning rate (quasi-Newton stages find their own step)",
                    path=f"callbacks.{i}.kind",
                )
            scales.append(i)
    if len(scales) > 1:
        raise UserError(
            f"'lr_scale' has two owners: callbacks.{scales[0]} and this one; keep one", path=f"callbacks.{scales[1]}"
        )
