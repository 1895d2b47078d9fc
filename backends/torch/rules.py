"""Functions of derivative channels with their hand-written backward, as torch sees them.

The mathematics is `backends.derivatives.channels`; here it becomes one autograd function per (function, plan, channels
that are not zero). Its backward is made of ordinary operations, so it can be traced, and differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from backends.derivatives.channels import Plan, backward, forward, reached
from backends.derivatives.towers import saves_value


def activation(ops: Any, name: str, plan: Plan, channels: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """The channels of f(z) from those of z; None stands for zero."""
    live = tuple(i for i, x in enumerate(channels) if x is not None)
    found = _rule(ops, name, plan, live).apply(*(channels[i] for i in live))
    out: list[torch.Tensor | None] = [None] * plan.size
    for i, x in zip(reached(plan, live), found, strict=True):
        out[i] = x
    return out


@cache
def _rule(ops: Any, name: str, plan: Plan, live: tuple[int, ...]) -> Any:
    out, value_is_enough = reached(plan, live), saves_value(name)

    def spread(at: Sequence[int], values: Sequence[Any]) -> list[Any]:
        full: list[Any] = [None] * plan.size
        for i, x in zip(at, values, strict=True):
            full[i] = x
        return full

    class Rule(torch.autograd.Function):
        """f of all channels at once."""

        @staticmethod
        def forward(ctx: Any, *z: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = forward(name, plan, ops, spread(live, z))
            # Saved beside the value: every channel of z, but z itself only where the backward needs it.
            ctx.save_for_backward(y[0], *(z[1:] if value_is_enough else z))
            ctx.set_materialize_grads(False)
            return tuple(y[i] for i in out)

        @staticmethod
        def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
            value, *z = ctx.saved_tensors
            channels = spread(live, [None, *z] if value_is_enough else z)
            found = backward(name, plan, ops, value, channels, spread(out, cotangents))
            return tuple(found[i] for i in live)

    return Rule
