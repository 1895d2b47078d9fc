"""The derivative of every residual by every trained parameter, sample by sample: what Gauss-Newton and NTK work with.

Rows are residuals, each times the root of weight / samples, so that the squares of all rows add up to the loss (but
for terms of kind `loss`, which have no rows). One pass of the network gives them: a gradient under `vmap`, in which
the samples still share every product with a weight matrix (measured: 3 to 4 gradients). A user's own module, which
differentiates inside, and a batch that reduces itself go row by row. All functions here run while a graph is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backends import pointwise
from backends.derivatives.jets import forward
from backends.errors import OrchestratorError
from backends.gauss_newton import alone
from backends.task import Context, parts_of
from backends.torch.objective import Objective
from backends.torch.ops import OPS, TorchOps

Tensor = torch.Tensor
Tensors = Mapping[str, Tensor]
ROWS = 64
"""Rows that are differentiated at once where that goes row by row."""


class PlainOps(TorchOps):
    """The same functions without a hand-written backward, which `vmap` could not pass."""

    def activation(self, name: str, plan: Any, channels: Sequence[Tensor | None]) -> list[Tensor | None]:
        return forward(name, plan, self, channels)


PLAIN = PlainOps()


@dataclass(frozen=True)
class Residuals:
    """The residuals of one batch as a function of the flat vector x [n] of trained parameters."""

    objective: Objective
    batch: str
    count: int
    """Samples of this worker in all passes."""
    frozen: Tensors
    aux: Tensors
    row: Tensor
    """Of the knob table."""
    seed: Tensor

    @property
    def reduced(self) -> bool:
        """Whether the batch reduces itself."""
        return self.objective.task.reduced(self.batch)

    @property
    def names(self) -> tuple[str, ...]:
        """The trained residuals of the batch."""
        return residuals(self.objective, self.batch)

    def values(self, x: Tensor, columns: Tensors, *, ops: Any = OPS, single: bool = False) -> Tensor:
        """[residuals, samples], or [rows] where the batch reduces itself. Raises UserError where `single` and the task
        draws noise or changes `aux`: a residual is then no function of its sample alone."""
        o = self.objective
        knobs = o.row.knobs(self.row, x.dtype)
        constants = {k.removeprefix("task/"): v for k, v in knobs.items() if k.startswith("task/")}
        key = alone.NoNoise() if single else (self.seed, o.row.step(self.row))
        context = Context(constants, self.aux, key)
        given = o.task.per_sample(ops, {**self.frozen, **o.layout.views(x)}, self.batch, columns, context)
        if context.updates and single:
            alone.refuse(f"changes {', '.join(sorted(context.updates))} with every batch")
        rows = next(iter(columns.values())).shape[0]
        _, weighing = pointwise.factors(OPS, o.task, self.batch, self.aux, columns)
        n, found = self.count * o.world.size, []
        for name in self.names:
            value = given[name]
            for part in parts_of(value):
                part = part.to(x.dtype)
                part = part if weighing is None or part.ndim == 0 else part * torch.sqrt(weighing)
                found.append(part * torch.sqrt(knobs[f"weight/{name}"] * ((1 if part.ndim else rows) / n)))
        return torch.cat([p.reshape(-1) for p in found]) if self.reduced else torch.stack(found)

    def rows(self, x: Tensor, columns: Tensors) -> tuple[Tensor, Tensor]:
        """(J [m, n], rho [m]) of these samples."""
        if self.reduced:
            return self._one_by_one(x, columns, single=False)

        def single(at: Tensor, sample: Tensors) -> tuple[Tensor, Tensor]:
            found = self.values(at, {k: v[None] for k, v in sample.items()}, ops=PLAIN, single=True)[:, 0]
            return found, found

        try:
            J, rho = torch.func.vmap(torch.func.jacrev(single, has_aux=True), (None, 0))(x.detach(), dict(columns))
        except OrchestratorError:
            raise
        except RuntimeError:  # the network differentiates inside, or branches on its numbers
            return self._one_by_one(x, columns, single=True)
        return J.reshape(-1, x.numel()), rho.reshape(-1)

    def product(self, x: Tensor, v: Tensor, columns: Tensors) -> Tensor:
        """J'J v [n] without J: J v is the derivative of J'u by u, times v."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            found = self.values(at, columns)
            u = torch.zeros_like(found).requires_grad_()
            (back,) = torch.autograd.grad(found, at, u, create_graph=True)
            (along,) = torch.autograd.grad(back, u, v, retain_graph=True)
            (whole,) = torch.autograd.grad(found, at, along)
        return whole

    def _one_by_one(self, x: Tensor, columns: Tensors, *, single: bool) -> tuple[Tensor, Tensor]:
        """One backward pass per row, `ROWS` of them at once."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            found = self.values(at, columns, single=single).reshape(-1)
            unit = torch.eye(found.numel(), dtype=x.dtype, device=x.device)
            J = [
                torch.autograd.grad(found, at, some, retain_graph=True, is_grads_batched=True)[0]
                for some in torch.split(unit, ROWS)
            ]
        return torch.cat(J), found.detach()


def residuals(objective: Objective, batch: str) -> tuple[str, ...]:
    """The trained terms of a batch that are residuals."""
    return tuple(t.name for t in objective.terms if t.batch == batch and t.kind == "residual")
