"""What a probe reads off a state: losses, statistics of every term's gradient, traces of the tangent kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from backends.protocol import CURVATURE, ROWS, curved, kernel_samples, of_gradients
from backends.torch import kernel
from backends.torch.curvature import curvature
from backends.torch.device import fetch, own_generator
from backends.torch.program import Program
from backends.torch.samples import Batch
from backends.torch.state import State


def measured(
    program: Program, state: State, batches: Sequence[Batch], row: torch.Tensor, what: frozenset[str]
) -> dict[str, NDArray[np.float64]]:
    """The statistics `what` of `Backend.probe` on the first step of `batches`, over all workers; `row`: its knobs."""
    found, kernels = {}, kernel_samples(what)
    if any(not name.startswith((CURVATURE, ROWS)) for name in what - set(kernels)):
        losses, slopes = _slopes(program, state, batches, row)
        found = {"losses": losses}
        if any(name.startswith(("grad_", "gram")) for name in what):
            found |= of_gradients(slopes)
        if "gradient" in what:
            found["gradient"] = fetch(program.objective.row.part(row, "weight/")).astype(np.float64) @ slopes
    for term in curved(what):
        matrix, rows = curvature(program, state, batches, row, term)
        found |= {CURVATURE + term: matrix, ROWS + term: np.asarray(rows)}
    if kernels:
        seed = torch.tensor(program.seed, device=state.x.device)
        with own_generator(row.device):
            program.draw_alike(row)
            for name, count in kernels.items():
                found[name] = kernel.traces(program.objective, state, batches, row, seed, count)
    return {name: found[name] for name in found if name in what}


def _slopes(
    program: Program, state: State, batches: Sequence[Batch], row: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(losses [terms], gradient of each unweighted term [terms, parameters]) over all workers."""
    terms, size = len(program.objective.terms), program.objective.layout.size
    work = program.work(state, batches, terms * (1 + size))
    passes, rest = program.passes(work, row, each=True), program.gradient(work, row, each=True)
    with own_generator(row.device):
        if any(b.traced.draws for b in (*passes, rest)):
            program.draw_alike(row)
        for one in passes:
            one(0, row)
        flat = fetch(rest(0, row)[0]).astype(np.float64)
    return flat[:terms], flat[terms:].reshape(terms, size)
