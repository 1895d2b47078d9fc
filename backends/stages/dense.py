"""What the dense matrices of second-order stages take, and which stages do without them."""

from __future__ import annotations

from collections.abc import Sequence

from backends.errors import UserError
from backends.stages import GaussNewton, SsBroyden, Stage

LARGEST = 20_000
"""Most rows of a dense matrix: it then takes 3.2 GB."""
MATRICES = 3
"""Matrices that exist at once: an inverse Hessian while it is updated, or J'J, what is added to it, and its factor."""


def bytes_of(stage: Stage, parameters: int) -> int:
    """Bytes of the stage's dense matrices for so many trained parameters; 0 where it makes none that it needs."""
    dense = isinstance(stage, GaussNewton) and stage.solver == "dense"
    if isinstance(stage, SsBroyden) and stage.memory is None:
        dense = True
    return MATRICES * 8 * parameters**2 if dense else 0


def refuse_too_large(stages: Sequence[Stage], parameters: int, memory: int) -> None:
    """Raises UserError for a stage whose matrices are more than `memory` bytes, or for more than `LARGEST` parameters.

    It says how much they are, and what to take instead.
    """
    for i, stage in enumerate(stages):
        needed = bytes_of(stage, parameters)
        if needed > memory or (needed and parameters > LARGEST):
            what, instead = (
                ("a dense inverse Hessian", "`memory: 100`, which keeps that many directions of it, `kind: lbfgs`")
                if isinstance(stage, SsBroyden)
                else ("a dense Gauss-Newton matrix", "`solver: cg`, which makes none, `kind: lbfgs`")
            )
            raise UserError(
                f"the stage keeps {what} of {parameters:,} x {parameters:,} numbers, {needed / 1e9:.1f} GB with its "
                f"copies, for {parameters:,} parameters; at most {LARGEST:,} are allowed, and this machine has "
                f"{memory / 1e9:.1f} GB. Take {instead} or a smaller network",
                path=f"stages.{i}",
            )
