"""The weighted sum of terms, its gradient, and the one sum over workers.

Every term is a mean over the samples of all workers, so passes and workers simply add up. All functions here run
while a graph is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add, mul
from typing import Any

import torch

from backends import pointwise
from backends.errors import UserError
from backends.protocol import World
from backends.task import Context, Task, Term, parts_of
from backends.torch import remat
from backends.torch.device import default_dtype
from backends.torch.layout import Layout
from backends.torch.ops import OPS
from backends.torch.process_group import total
from backends.weighting import uncertainty

Tensor = torch.Tensor
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One row of the knob table with the step's number behind it: float64, so that no constant loses digits."""

    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """Numbers per row; a multiple of four keeps every row aligned for vector instructions."""
        return -(-(len(self.names) + 1) // 4) * 4

    def knobs(self, row: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Every knob by name, 0-d."""
        return dict(zip(self.names, torch.unbind(row[: len(self.names)].to(dtype)), strict=True))

    def part(self, row: Tensor, prefix: str) -> Tensor:
        """The knobs `prefix…`, which stand side by side, as a vector."""
        at = [i for i, name in enumerate(self.names) if name.startswith(prefix)]
        return row[at[0] : at[-1] + 1] if at else row[:0]

    def step(self, row: Tensor) -> Tensor:
        """The number of the step, 0-d int64."""
        return row[len(self.names)].to(torch.int64)


@dataclass(frozen=True)
class Objective:
    """What a stage minimises."""

    task: Task
    terms: tuple[Term, ...]
    """The trained ones."""
    layout: Layout
    row: Row
    world: World
    reaches: tuple[frozenset[str] | None, ...] = ()
    """Per term the parameters that its gradient reaches; None: all."""
    compute: torch.dtype | None = None
    """Half precision of network and derivatives."""
    remat: bool = False
    trains_weights: bool = False
    """Whether this stage trains log-variances of the terms (`backends.weighting.uncertainty`)."""

    def add(
        self,
        x: Tensor,
        frozen: Tensors,
        aux: Tensors,
        row: Tensor,
        seed: Tensor,
        samples: Mapping[str, tuple[Tensors, int]],
        each: bool = False,
        scale: Sequence[Tensor] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """([losses, gradient] flat, new aux) of these samples: their share in the means over all workers' samples.

        samples: per batch its columns, and how many samples it has on this worker in all passes together. With `each`
        the gradient of every term by itself, not weighted, one after the other: what is not finite in one stays out of
        the others, which weights of zero would not achieve. The gradient is that of the loss times `scale`.
        """
        knobs = self.row.knobs(row, x.dtype)
        constants = {k.removeprefix("task/"): v for k, v in knobs.items() if k.startswith("task/")}
        key = (seed, self.row.step(row))
        with torch.enable_grad():
            free = {name: p.detach().requires_grad_() for name, p in self.layout.views(x).items()}
            found: dict[str, Tensor] = {}
            half = None if each else self.compute
            shared = {} if half or each else self._shared({**frozen, **free}, samples, Context(constants, aux, key))
            for batch, (columns, count) in samples.items():
                context = Context(constants, aux, key, shared=shared)
                means = term_means(self.task, self.terms, {**frozen, **free}, batch, columns, context, count, half)
                found |= {name: value / self.world.size for name, value in means.items()}
                aux = {**aux, **updated(aux, context.updates)}
            if each:
                sums = [([found[t.name]] if t.name in found else [], r) for t, r in self._reaching()]
                slopes = [g for terms, reach in sums for g in _slopes(terms, free, reach).values()]
            else:
                weights = {name: knobs[f"weight/{name}"] for name in found}
                if self.trains_weights:
                    weights = uncertainty.weighed(OPS, {**frozen, **self.layout.views(x)}, weights)
                weighted = {name: weights[name] * value for name, value in found.items()}
                slopes = list(self._together(weighted, free, scale).values())
        losses = torch.stack([found[t.name].detach() if t.name in found else x.new_zeros(()) for t in self.terms])
        return torch.cat([losses, *(g.reshape(-1) for g in slopes)]), dict(aux)

    def _shared(
        self, params: Tensors, samples: Mapping[str, tuple[Tensors, int]], context: Context
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """The terms of those batches that one pass can serve, where there are several."""
        alike = {b: samples[b][0] for b in getattr(self.task, "together", ()) if b in samples}
        task: Any = self.task
        return task.per_sample_together(OPS, params, alike, context) if len(alike) > 1 else {}

    def _reaching(self) -> list[tuple[Term, frozenset[str] | None]]:
        return list(zip(self.terms, self.reaches or [None] * len(self.terms), strict=True))

    def _together(self, weighted: Tensors, free: Tensors, scale: Sequence[Tensor]) -> dict[str, Tensor]:
        """The gradient of all terms, by parameter: one backward pass for all that reach the same parameters."""
        whole: dict[str, Tensor] = {}
        for reach in dict.fromkeys(r for _, r in self._reaching()):
            chosen = [weighted[t.name] for t, r in self._reaching() if r == reach and t.name in weighted]
            if self.remat:
                remat.mark()
            found = _slopes(chosen, free, reach, scale)
            whole = {name: whole[name] + g for name, g in found.items()} if whole else found
        return whole

    def of_weights(self, g: Tensor, x: Tensor, frozen: Tensors, losses: Tensor) -> Tensor:
        """The flat gradient with that of the log-variances, where they are trained: it follows from the losses."""
        if not self.trains_weights:
            return g
        by_term = dict(zip((t.name for t in self.terms), torch.unbind(losses), strict=True))
        found = uncertainty.slopes(OPS, {**frozen, **self.layout.views(x)}, by_term)
        return torch.cat([found.get(name, slope).reshape(-1) for name, slope in self.layout.views(g).items()])

    def over_workers(self, flat: Tensor, aux: Tensors, before: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of [losses, gradient] over all workers, and the mean of aux that changed, through one buffer."""
        if self.world.size == 1:
            return flat, dict(aux)
        moving = [k for k, v in aux.items() if v is not before[k] and v.is_floating_point()]
        # Changes are shared, not values: what did not change keeps its bits.
        parts = [flat, *((aux[k] - before[k]).reshape(-1) / self.world.size for k in moving)]
        summed, *changes = torch.split(total(torch.cat(parts), self.world), [p.numel() for p in parts])
        means = {k: before[k] + c.reshape(before[k].shape) for k, c in zip(moving, changes, strict=True)}
        return summed, {**aux, **means}


def term_means(
    task: Task,
    terms: Iterable[Term],
    params: Tensors,
    batch: str,
    columns: Tensors,
    context: Context,
    count: int,
    compute: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Of those `terms` that `batch` gives: the sum over these samples (residuals squared) divided by `count`.

    With `compute` the task sees everything in that precision, and what it gives is squared and summed in that of the
    parameters.
    """
    samples = next(iter(columns.values())).shape[0]
    dtype = next(p.dtype for p in params.values() if p.is_floating_point())
    given = params, columns, context
    if compute is not None:
        halves = replace(context, constants=_low(context.constants, compute), aux=_low(context.aux, compute))
        given = _low(params, compute), _low(columns, compute), halves
    with default_dtype(compute) if compute else nullcontext():
        values = task.per_sample(OPS, given[0], batch, *given[1:])
    factors = pointwise.factors(OPS, task, batch, context.aux, columns)
    context.updates.update(
        pointwise.noted(OPS, task, batch, context.aux, columns, values, lambda x: torch.as_tensor(x).to(dtype))
    )
    out = {}
    for term in terms:
        if term.batch == batch:
            if term.name not in values:
                raise UserError(f"the task gives no values of its term {term.name!r} for the batch {batch!r}")
            parts = [p.to(dtype) for p in _parts(term.name, values[term.name], samples, task.reduced(batch))]
            squared = [p * p if term.kind == "residual" else p for p in parts]
            factor = factors[term.kind == "residual"]
            squared = squared if factor is None else [factor * p if p.ndim else p for p in squared]
            out[term.name] = reduce(add, (_share(p, samples, count) for p in squared))
    return out


def sizes(value: Any) -> Tensor:
    """|value| per sample; the length of a vector residual."""
    if not isinstance(value, tuple):
        return torch.abs(value)
    return torch.sqrt(reduce(add, (v * v for v in value)))


def updated(aux: Tensors, updates: Mapping[str, Any]) -> dict[str, Tensor]:
    """New values of aux as they are stored: without a gradient, in type and shape of the old ones."""
    for name in updates:
        if name not in aux:
            raise UserError(f"the task writes {name!r} into context.updates, but its aux() has no such array")
    return {
        name: torch.as_tensor(value).detach().to(aux[name].dtype).broadcast_to(aux[name].shape)
        for name, value in updates.items()
    }


def _parts(name: str, value: Any, samples: int, reduced: bool) -> tuple[Tensor, ...]:
    parts = parts_of(value)
    for part in parts:
        shape = tuple(getattr(part, "shape", ()))
        if shape != (samples,) and not (reduced and shape == ()):
            wanted = f"[{samples}]" + (" or one number" if reduced else "")
            raise UserError(
                f"the term {name!r} has the shape {list(shape)}; a term gives one value per sample, {wanted}"
            )
    return parts


def _share(value: Tensor, samples: int, count: int) -> Tensor:
    """What values, or their mean that a term took itself, add to the mean over `count` samples."""
    if value.ndim:
        return torch.sum(value) / count
    return value if samples == count else value * (samples / count)


def _low(tensors: Tensors, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def _slopes(
    terms: Sequence[Tensor], free: Tensors, reach: frozenset[str] | None, scale: Sequence[Tensor] = ()
) -> dict[str, Tensor]:
    """The gradient of the sum (times `scale`), zero where it depends on no parameter or must not reach it."""
    moving = [t for t in terms if t.requires_grad]
    wanted = [name for name in free if reach is None or name in reach] if moving else []
    found: dict[str, Tensor] = {}
    if wanted:
        total_ = reduce(mul, scale, reduce(add, moving))
        slopes = torch.autograd.grad(total_, [free[n] for n in wanted], allow_unused=True, retain_graph=True)
        found = {name: g for name, g in zip(wanted, slopes, strict=True) if g is not None}
    return {name: found[name] if name in found else torch.zeros_like(leaf) for name, leaf in free.items()}
