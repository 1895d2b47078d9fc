"""J'J of single terms: the Gauss-Newton matrix that an uncertainty is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from backends.gauss_newton.solving import BLOCK_BYTES
from backends.torch.device import default_dtype, fetch
from backends.torch.jacobian import Residuals, residuals
from backends.torch.kernel import joined
from backends.torch.process_group import total
from backends.torch.program import Program
from backends.torch.samples import Batch
from backends.torch.state import State


def curvature(
    program: Program, state: State, batches: Sequence[Batch], row: torch.Tensor, term: str
) -> tuple[NDArray[np.float64], int]:
    """(J'J / samples [parameters, parameters], how many residuals it has) of one unweighted term, over all workers.
    Not recorded: it is asked for once."""
    x, alone = state.x, row.clone()
    alone[program.objective.row.names.index(f"weight/{term}")] = 1.0
    objective = replace(program.objective, terms=tuple(t for t in program.objective.terms if t.name == term))
    seed = torch.tensor(program.seed, device=x.device)
    matrix, rows = x.new_zeros((x.numel(), x.numel())), 0
    with default_dtype(x.dtype):
        for batch in batches:
            if not residuals(objective, batch.name):
                continue
            of = Residuals(objective, batch.name, batch.samples, state.frozen, state.aux, alone, seed)
            columns = joined(batch)
            size = batch.samples if of.reduced else max(1, BLOCK_BYTES // (x.numel() * x.element_size()))
            for start in range(0, batch.samples, size):
                J, _ = of.rows(x, {k: v[start : start + size] for k, v in columns.items()})
                matrix, rows = matrix + J.T @ J, rows + len(J)
    world = objective.world
    return fetch(total(matrix, world) if world.size > 1 else matrix).astype(np.float64), rows * world.size
