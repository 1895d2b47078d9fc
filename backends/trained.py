"""A trained task as a plain function, named columns in and named outputs out: what every export format starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.ops import NumpyOps
from backends.randomness import generator
from backends.spec import Precision
from backends.task import Context, Task
from backends.weighting.uncertainty import without

Array = Any
NEEDS_ROWS = "sample"
"""An output that no export has: its noise is numbered by rows, which a function of images does not see."""


@dataclass(frozen=True)
class Trained:
    """A task with the arrays of a checkpoint."""

    task: Task
    params: Mapping[str, NDArray[Any]]
    aux: Mapping[str, NDArray[Any]]
    constants: Mapping[str, NDArray[Any]]
    precision: Precision
    inputs: Mapping[str, tuple[int, ...]]
    """Column -> the shape of one sample, in the order in which exported functions take them."""
    outputs: tuple[str, ...]

    @classmethod
    def of(
        cls, task: Task, arrays: Mapping[str, NDArray[Any]], precision: Precision, outputs: Sequence[str] | None = None
    ) -> Trained:
        """From the arrays that a backend saved (`Backend.arrays`). Raises UserError where they are another task's."""
        groups = {g: {k.removeprefix(g): v for k, v in arrays.items() if k.startswith(g)} for g in _GROUPS}
        groups["params/"] = without(groups["params/"])
        ours = task.init(generator(0, "init"))  # also makes a user's own module
        for name in sorted(ours.keys() | groups["params/"].keys()):
            there, here = (np.shape(p[name]) if name in p else None for p in (groups["params/"], ours))
            if there != here:
                raise UserError(
                    f"the checkpoint does not fit its experiment file: {name} is {there or 'absent'} there and "
                    f"{here or 'absent'} here; was experiment.yaml changed?"
                )
        names = tuple(outputs) if outputs else _default(task)
        if NEEDS_ROWS in names and NEEDS_ROWS in task.outputs:
            raise UserError(
                "'sample' can't be exported: its noise is numbered by rows of a data set. Export 'reconstruction', "
                "'mean' or 'log_variance'"
            )
        return cls(
            task, groups["params/"], groups["aux/"], groups["constants/"], precision, inputs_of(task), tuple(names)
        )

    def columns(self, samples: int) -> dict[str, NDArray[Any]]:
        """Example columns of that many samples, in the precision of the run: inside the domain, all different."""
        rng = generator(0, "example")
        box = self.task.problem.box() if hasattr(self.task, "problem") else {}  # pyright: ignore[reportAttributeAccessIssue]
        found = {}
        for name, shape in self.inputs.items():
            low, high = box.get(name, (0.0, 1.0))
            found[name] = rng.uniform(low, high, (samples, *shape)).astype(self.precision)
        return found

    def call(
        self,
        ops: Any,
        params: Mapping[str, Array],
        aux: Mapping[str, Array],
        constants: Mapping[str, Array],
        zero: Array,
        columns: Mapping[str, Array],
    ) -> dict[str, Array]:
        """The outputs over any framework's ops; `zero`: an integer of it."""
        context = Context(constants, aux, (zero, zero), training=False)
        found = self.task.predict(ops, params, self.outputs, columns, context)
        return {name: found[name] for name in self.outputs}

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The outputs, computed in numpy. For networks of ours; a user's own module needs its framework."""
        for name in self.inputs:
            if name not in columns:
                raise UserError(f"the column {name!r} is missing{nearest(name, columns)}")

        def cast(arrays: Mapping[str, Any]) -> dict[str, Any]:
            floats = {k: np.asarray(v) for k, v in arrays.items()}
            return {k: v.astype(self.precision) if v.dtype.kind == "f" else v for k, v in floats.items()}

        given = {name: np.asarray(columns[name], self.precision) for name in self.inputs}
        constants = {k: np.asarray(v, self.precision)[()] for k, v in self.constants.items()}
        found = self.call(NumpyOps(), cast(self.params), cast(self.aux), constants, 0, given)
        return {name: np.asarray(value) for name, value in found.items()}


_GROUPS = ("params/", "aux/", "constants/")


def inputs_of(task: Task) -> dict[str, tuple[int, ...]]:
    """The columns that predictions read, with the shape of a sample. Raises UserError where the task has none."""
    problem, samples = getattr(task, "problem", None), getattr(task, "samples", None)
    if problem is not None:
        return dict.fromkeys(problem.coords, ())
    if samples is not None and samples.inputs:
        return {name: tuple(samples.columns[name].shape[1:]) for name in samples.inputs}
    raise UserError(f"{type(task).__name__} does not say which columns its predictions read, so it can't be exported")


def _default(task: Task) -> tuple[str, ...]:
    """All fields; of an autoencoder its reconstruction."""
    return ("reconstruction",) if "reconstruction" in task.outputs else tuple(task.outputs)
