"""Traces of the neural tangent kernel: the mean square of the gradients of single residuals, exact on a sub-sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.protocol import KERNEL_ROWS, evenly
from backends.task import Context, parts_of
from backends.torch.device import default_dtype, fetch
from backends.torch.objective import Objective
from backends.torch.ops import OPS
from backends.torch.process_group import total
from backends.torch.samples import Batch, columns
from backends.torch.state import State

Tensor = torch.Tensor


def traces(
    objective: Objective, state: State, batches: Sequence[Batch], row: Tensor, seed: Tensor, samples: int
) -> NDArray[np.float64]:
    """[trained terms]: the mean over samples of |gradient of the residual|^2, added over parts of a vector residual;
    NaN for terms that are no residuals.

    At most `samples` samples of each batch, evenly spaced, over all workers; of a batch that reduces itself all samples
    are seen, and of a term's values at most so many taken. Not recorded: few samples, seldom asked for.
    """
    knobs = objective.row.knobs(row, state.x.dtype)
    constants = {k.removeprefix("task/"): v for k, v in knobs.items() if k.startswith("task/")}
    context = Context(constants, state.aux, (seed, objective.row.step(row)))
    found = {}
    with default_dtype(state.x.dtype):
        for batch in batches:
            reduced = objective.task.reduced(batch.name)
            whole = joined(batch)
            kept = evenly(batch.samples, samples if reduced else max(samples // objective.world.size, 1))
            some = whole if reduced else {k: v[kept] for k, v in whole.items()}
            found |= _means(objective, state, batch.name, some, context, kept if reduced else None)
    values = torch.stack([found.get(t.name, state.x.new_tensor(torch.nan)) for t in objective.terms])
    if objective.world.size > 1:
        values = total(values, objective.world) / objective.world.size
    return fetch(values).astype(np.float64)


def joined(batch: Batch) -> dict[str, Tensor]:
    """All columns of a batch at the first step, its passes one after the other."""
    parts = [columns(fixed, now) for fixed, now in zip(batch.fixed, batch.now[0], strict=True)]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]} if len(parts) > 1 else parts[0]


def _means(
    objective: Objective,
    state: State,
    batch: str,
    columns: Mapping[str, Tensor],
    context: Context,
    kept: NDArray[np.intp] | None,
) -> dict[str, Tensor]:
    """The mean square of each residual of a batch. `kept`: which values of one that must be seen whole are taken."""
    rows = next(iter(columns.values())).shape[0]
    size = rows if kept is not None else max(d for d in range(1, min(rows, KERNEL_ROWS) + 1) if rows % d == 0)
    sums: dict[str, Tensor] = {}
    for start in range(0, rows, size):
        part = {k: v[start : start + size] for k, v in columns.items()}
        for name, mean in _of_part(objective, state, batch, part, context, kept).items():
            sums[name] = sums[name] + mean if name in sums else mean
    return {name: value / (rows // size) for name, value in sums.items()}


def _of_part(
    objective: Objective,
    state: State,
    batch: str,
    columns: Mapping[str, Tensor],
    context: Context,
    kept: NDArray[np.intp] | None,
) -> dict[str, Tensor]:
    with torch.enable_grad():
        free = {name: p.detach().requires_grad_() for name, p in objective.layout.views(state.x).items()}
        now = Context(context.constants, context.aux, context.key, True, {})
        values = objective.task.per_sample(OPS, {**state.frozen, **free}, batch, columns, now)
        found = {}
        for term, reach in zip(objective.terms, objective.reaches or [None] * len(objective.terms), strict=True):
            if term.batch != batch or term.kind != "residual":
                continue
            value: Any = values[term.name]
            parts = [p.to(state.x.dtype) for p in parts_of(value)]
            parts = [p[kept] if kept is not None and p.ndim else torch.atleast_1d(p) for p in parts]
            wanted = [p for name, p in free.items() if reach is None or name in reach]
            found[term.name] = _squares(torch.stack(parts, 1).reshape(-1), wanted) / len(parts[0])
    return found


def _squares(values: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The sum over `values` of the squared norm of their gradient."""
    if not values.requires_grad or not params:
        return values.new_zeros(())
    whole = values.new_zeros(())
    for start in range(0, len(values), KERNEL_ROWS):
        rows = torch.eye(len(values), dtype=values.dtype, device=values.device)[start : start + KERNEL_ROWS]
        slopes = torch.autograd.grad(values, params, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
        whole = whole + sum((g * g).sum() for g in slopes if g is not None)
    return whole.detach()
