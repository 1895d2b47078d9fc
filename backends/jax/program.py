"""What a compiled function depends on besides its arrays: a hashable description, the static argument of every jit.

Two backends of one process whose descriptions are equal share compiled functions. A task that has a `signature` (a
hashable value; equal ones promise equal programs, so it leaves out constants, which are traced) is compared by it,
any other task by identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from backends import quasi, scaling
from backends.errors import UserError, nearest
from backends.gradients import Process
from backends.groups import Grouping, check_stages
from backends.protocol import Settings, columns_of, precision_of
from backends.randomness import generator
from backends.spec import Precision
from backends.stages import SECOND_ORDER, GaussNewton, Lbfgs, SsBroyden, Stage
from backends.stages.custom import OwnOptimizer
from backends.task import Task, parts_of, trained_terms

Array = Any
Tree = dict[str, Any]

TRACED: Counter[tuple[Program, str]] = Counter()
"""How often each function was traced, which JAX does once per compilation."""


@dataclass(frozen=True)
class Program:
    """One task in one precision on one kind of device; with a stage where the function trains."""

    identity: Hashable
    precision: Precision
    platform: str
    world: int
    kind: str = ""
    """Of the stage; empty in functions that only read a state."""
    method: str = ""
    """Of the stage: its kind, with the choices that shape the program."""
    stage: Lbfgs | SsBroyden | GaussNewton | None = None
    """A second-order stage without name, length and knobs: its memory, searches and tolerance shape the program."""
    columns: tuple[str, ...] = ()
    """Of the knob table."""
    grouping: Grouping = Grouping()  # noqa: RUF009 (frozen)
    accumulate: int = 1
    """Passes over a batch that is drawn per step."""
    compute: str | None = None
    """Half precision of network and derivatives."""
    remat: bool = False
    process: Process | None = None
    """The user's function of the gradients."""
    own: OwnOptimizer | None = None
    """The user's optimizer."""
    task: Task = field(compare=False, repr=False, kw_only=True)
    warn: Callable[[str], None] = field(compare=False, repr=False, kw_only=True)
    compiled: bool = field(compare=False, repr=False, kw_only=True)
    """False: every call runs the Python text."""
    initial: float = field(default=0.0, compare=False, repr=False, kw_only=True)
    """What a stage's sum of squares begins with: read when a state is made, not by compiled functions."""
    lr: float = field(default=0.0, compare=False, repr=False, kw_only=True)
    """Of the stage, likewise."""

    @property
    def dtype(self) -> Any:
        return jnp.float32 if self.precision == "float32" else jnp.float64

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of the trained terms, in order."""
        return tuple(t.name for t in trained_terms(self.task.terms))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Term -> residual or loss."""
        return {t.name: t.kind for t in self.task.terms}

    def terms_of(self, batch: str) -> tuple[str, ...]:
        """The trained terms of one batch."""
        return tuple(t.name for t in trained_terms(self.task.terms) if t.batch == batch)

    @cached_property
    def reaches(self) -> dict[str, frozenset[str] | None]:
        """Trained term -> the parameters that its gradient reaches; None: all."""
        return {t.name: self.grouping.reach(t) for t in trained_terms(self.task.terms)}

    @property
    def readings(self) -> tuple[str, ...]:
        """Further numbers of each step (`Steps.readings`)."""
        if self.stage is not None:
            return quasi.COUNTS
        return (scaling.SCALE, scaling.SKIPPED) if self.compute == "float16" else ()

    def split(self, params: Mapping[str, Array]) -> tuple[Tree, Tree]:
        """(trained, frozen) parameters."""
        free = {k: v for k, v in params.items() if self.grouping.free(k)}
        return free, {k: v for k, v in params.items() if k not in free}

    def numbers(self, values: Mapping[str, Array]) -> Tree:
        """Traced scalars in the precision of the program."""
        return {k: jnp.asarray(v).astype(self.dtype) for k, v in values.items()}

    def values_of(self, batch: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a task returned for a batch, checked: known terms, all trained ones there, in the right precision."""
        for name, value in values.items():
            if name not in self.kinds:
                raise UserError(
                    f"per_sample of {batch!r} returns {name!r}, which is no term{nearest(name, self.kinds)}"
                )
            for part in parts_of(value):
                if self.precision == "float32" and getattr(part, "dtype", None) == jnp.float64:
                    self.warn(
                        f"the term {name!r} is computed in float64 in a float32 stage, which is slow: there is a numpy "
                        "number such as np.sqrt(2) in it; write math.sqrt(2) or f.ops.sqrt"
                    )
        missing = [t for t in self.terms_of(batch) if t not in values]
        if missing:
            raise UserError(
                f"per_sample of {batch!r} does not return the term {missing[0]!r}; it gives {sorted(values)}"
            )
        return values

    def note(self, function: str) -> None:
        """Called by the Python text of a function, which runs when it is compiled: counts compilations."""
        if self.compiled:
            TRACED[(self, function)] += 1


@dataclass(frozen=True, eq=False)
class _ThisTask:
    """Stands for a task that has no signature: equal to itself only."""

    task: Task

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ThisTask) and other.task is self.task

    def __hash__(self) -> int:
        return id(self.task)


def programs(task: Task, stages: Sequence[Stage], settings: Settings) -> tuple[Program, ...]:
    """One description per stage."""
    signature = getattr(task, "signature", None)
    identity = (type(task), signature) if signature is not None else _ThisTask(task)
    check_stages(settings.groups, stages, task.terms)
    names = task.init(generator(settings.seed, "init")) if settings.groups else ()
    grouping = Grouping.of(settings.groups, names, task.terms)
    found = []
    if settings.device == "cpu" and any(getattr(s, "compute", None) for s in stages):
        settings.warn("half precision on a CPU saves memory, seldom time: compare with a float32 stage")
    for stage in stages:
        structure = None
        if isinstance(stage, SECOND_ORDER):
            knobs = {name: type(stage).model_fields[name].default for name in stage.knob_fields}
            structure = stage.model_copy(update={"name": stage.kind, "steps": 1, **knobs})
        found.append(
            Program(
                identity,
                precision_of(stage, None),
                settings.device.partition(":")[0],
                settings.world.size,
                stage.kind,
                stage.method,
                structure,
                columns_of(stage, task, settings.clip, settings.groups, settings.noise),
                grouping,
                settings.accumulate,
                getattr(stage, "compute", None),
                settings.remat,
                settings.process if hasattr(stage, "lr") else None,
                settings.optimizers.get(stage.name),
                task=task,
                warn=settings.warn,
                initial=getattr(stage, "initial", 0.0),
                lr=getattr(stage, "lr", 0.0),
                compiled=settings.compile != "never" or settings.world.size > 1,
            )
        )
    return tuple(found)
