"""The table of live values: one row per step, one owner per column.

Learning rates come from the stage's schedule, weights from the weighting, constants from the problem; a ramp
owns the knob that it names. Nothing here is compiled, so a change costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends import pointwise
from backends.errors import UserError, nearest
from backends.gradients import Noise, limits
from backends.groups import Group, Groups
from backends.protocol import columns_of
from backends.schedules import rates
from backends.spec import Clip
from backends.stages import Stage
from backends.task import Task
from backends.weighting import Plan
from orchestrator.callbacks import Ramp

LR_SCALE = "lr_scale"
"""By this every rate is multiplied; no column of the table."""
OF_GROUPS: Mapping[str, Callable[[Group, NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]] = {
    "lr": lambda group, rate, steps: rate * group.rate,
    "sign": lambda group, rate, steps: np.full(len(steps), float(group.sign)),
    "on": lambda group, rate, steps: (steps % group.every == group.offset).astype(np.float64),
}
"""The knobs of a group at the given steps, counted from the start of the run, from the stage's rates there."""


@dataclass
class Knobs:
    """Current values by name, and the plans (ramps, scheduled weights) that move some of them."""

    values: dict[str, float]
    ramps: tuple[Plan, ...] = ()
    clip: Clip | None = None
    groups: Groups = field(default_factory=dict, kw_only=True)
    """Parameter groups: a rate, a sign and a rhythm of their own in first-order stages."""
    noise: Noise | None = field(default=None, kw_only=True)
    """Added to gradients in first-order stages."""
    task: Task = field(kw_only=True)
    weighting: str = "fixed"
    """The kind of the strategy that writes `weight/*`."""
    owners: dict[str, str] = field(default_factory=dict)
    """The callback that has set a knob; nobody else may."""

    def table(self, stage: Stage, step: int, within: int, n: int) -> NDArray[np.float64]:
        """[n, columns] for n steps from global step `step`, which is step `within` of the stage."""
        ramps = {r.knob: r for r in self.ramps}
        rate = rates(stage, within, n) * self.values.get(LR_SCALE, 1.0) if hasattr(stage, "lr") else np.zeros(n)
        columns = []
        given = limits(self.clip, self.noise)
        for name in self.columns(stage):
            knob, _, group = name.partition("/")
            if name == "lr":
                columns.append(rate)
            elif group in self.groups and knob in OF_GROUPS:
                columns.append(OF_GROUPS[knob](self.groups[group], rate, np.arange(step, step + n)))
            elif name in given:
                columns.append(np.full(n, given[name]))
            elif name in ramps:
                columns.append(ramps[name].values(step, n))
            elif name in self.values:
                columns.append(np.full(n, self.values[name]))
            else:
                columns.append(np.full(n, float(getattr(stage, name))))
        return np.stack(columns, axis=1) if columns else np.zeros((n, 0))

    def columns(self, stage: Stage) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return columns_of(stage, self.task, self.clip, self.groups, self.noise)

    def now(self, stage: Stage, step: int, within: int) -> dict[str, float]:
        """Every live value at one step, by name."""
        return self.named(stage, self.table(stage, step, within, 1)[0])

    def named(self, stage: Stage, row: NDArray[np.float64]) -> dict[str, float]:
        """A row of the table, by name."""
        return dict(zip(self.columns(stage), row.tolist(), strict=True))

    def moving(self, knobs: Mapping[str, float]) -> dict[str, float]:
        """Those of `knobs` that may change while the run trains: what is worth a curve."""
        moved = {r.knob for r in self.ramps} | set(self.owners)
        return {k: v for k, v in knobs.items() if k == "lr" or k.startswith(("lr/", "weight/")) or k in moved}

    def set(self, changes: Mapping[str, float], asking: str) -> None:
        """Write values that a callback asked for. Raises UserError for unknown names and for another's knob."""
        for name, value in changes.items():
            if name not in self.values:
                raise UserError(f"{asking} asks for the knob {name!r}, which it can't set{nearest(name, self.values)}")
            owner = self._owner(name)
            if owner not in ("", asking):
                raise UserError(f"{asking} asks for the knob {name!r}, which {owner} owns already; keep one of them")
            if not math.isfinite(value) or (value < 0 and not name.startswith("task/")):
                raise UserError(f"{asking} asks for {name} = {value}; it must be finite, and a weight not negative")
            self.owners[name] = asking
            self.values[name] = float(value)

    def _owner(self, name: str) -> str:
        if name.startswith("weight/") and self.weighting != "fixed":
            return f"`weights: {{kind: {self.weighting}}}`"
        if any(r.knob == name for r in self.ramps):
            return "a ramp"
        return self.owners.get(name, "")


def initial(task: Task, weights: Mapping[str, float]) -> dict[str, float]:
    """Weights, constants, the scale of the rates and the numbers of pointwise weights before the first step."""
    return {
        LR_SCALE: 1.0,
        **{f"weight/{name}": float(value) for name, value in weights.items()},
        **{f"task/{name}": float(value) for name, value in task.constants.items()},
        **pointwise.knobs(task),
    }


def owners(task: Task, weighting: str, ramps: Sequence[Ramp]) -> list[tuple[int, str]]:
    """Conflicts and unknown names among the ramps: (index of the ramp, what is wrong)."""
    known = initial(task, {t.name: 1.0 for t in task.terms if t.trained})
    found: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for i, ramp in enumerate(ramps):
        if ramp.knob not in known:
            found.append((i, f"{ramp.knob!r} is not a knob of this task{nearest(ramp.knob, known)}"))
        elif ramp.knob.startswith("weight/") and weighting != "fixed":
            found.append((i, f"{ramp.knob!r} has two owners: this ramp and `weights: {{kind: {weighting}}}`; keep one"))
        elif ramp.knob in first:
            found.append((i, f"{ramp.knob!r} has two owners: callbacks.{first[ramp.knob]} and this one; keep one"))
        first.setdefault(ramp.knob, i)
    return found
