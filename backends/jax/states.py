"""States as host arrays: built from a task, named as both backends name them, read back strictly.

A host state is `{"params", "aux", "optimizer", "constants"}`, each a dict of arrays (or of dicts of them, in
`optimizer`). Floats are in the precision of the stage, constants in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.jax import gauss_newton, quasi_newton, update
from backends.jax.program import Program
from backends.jax.samples import cast
from backends.randomness import generator
from backends.stages import GaussNewton
from backends.stages.custom import refuse_foreign

Tree = dict[str, Any]


def initial(program: Program, seed: int) -> Tree:
    """The state before step 0."""
    task = program.task
    params = task.init(generator(seed, "init"))
    constants = {name: np.float64(value) for name, value in task.constants.items()}
    return entered(program, {"params": params, "aux": task.aux(), "constants": constants})


def entered(program: Program, state: Mapping[str, Any]) -> Tree:
    """The same parameters in the precision of a stage, with its optimizer fresh."""
    precision = program.precision
    params = {name: cast(value, precision) for name, value in state["params"].items()}
    free, _ = program.split(params)
    if program.stage is None:
        optimizer = update.init(program, free)
    elif isinstance(program.stage, GaussNewton):
        optimizer = gauss_newton.init(program.stage, free)
    else:
        optimizer = quasi_newton.init(program.stage, program.task, free)
    return {
        "params": params,
        "aux": {name: cast(value, precision) for name, value in state["aux"].items()},
        "optimizer": optimizer,
        "constants": {name: np.asarray(value, np.float64) for name, value in state["constants"].items()},
    }


def named(kind: str, state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """`params/<name>`, `aux/<name>`, `constants/<name>`, `optimizer/<kind>/<part>` or `…/<part>/<name>`."""
    out = {}
    for group in ("params", "aux", "constants"):
        out |= {f"{group}/{name}": value for name, value in state[group].items()}
    for part, value in state["optimizer"].items():
        whole = f"optimizer/{kind}/{part}"
        out |= {f"{whole}/{name}": v for name, v in value.items()} if isinstance(value, dict) else {whole: value}
    return out


def restored(program: Program, arrays: Mapping[str, NDArray[Any]]) -> Tree:
    """The opposite of `named`. Raises UserError for a missing, unknown or misshapen array."""
    refuse_foreign(arrays, "jax")
    like = initial(program, 0)
    wanted = named(program.kind, like)
    for name in arrays:
        if name not in wanted:
            raise UserError(f"checkpoint: {name!r} has no place in this experiment{nearest(name, wanted)}")
    for name, value in wanted.items():
        if name not in arrays:
            raise UserError(f"checkpoint: the array {name!r} is missing{nearest(name, arrays)}")
        if np.shape(arrays[name]) != value.shape:
            raise UserError(
                f"checkpoint: {name!r} has the shape {np.shape(arrays[name])}, this experiment needs {value.shape}; "
                "were the network, the points or the stages changed?"
            )
    found = {name: np.asarray(arrays[name]).astype(value.dtype) for name, value in wanted.items()}

    def read(prefix: str, tree: Mapping[str, Any]) -> Tree:
        return {
            name: read(f"{prefix}{name}/", value) if isinstance(value, dict) else found[prefix + name]
            for name, value in tree.items()
        }

    optimizer = read(f"optimizer/{program.kind}/", like["optimizer"])
    return {group: read(f"{group}/", like[group]) for group in ("params", "aux", "constants")} | {
        "optimizer": optimizer
    }
