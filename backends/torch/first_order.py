"""First-order optimizers on one flat vector of parameters, as optax computes them.

Each is a pair of pure functions: `init(x)` gives the parts of the state, `direction(g, x, parts, knobs)` what the
parameters lose times the rate, and the new parts; whoever calls applies the rate. Knobs are 0-d tensors, so that no
value of theirs is a compiled constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from backends.torch.layout import Layout

Tensor = torch.Tensor
Parts = dict[str, Tensor]
Knobs = Mapping[str, Tensor]


@dataclass(frozen=True)
class FirstOrder:
    """An optimizer that looks at one gradient per step."""

    init: Callable[[Tensor], Parts]
    direction: Callable[[Tensor, Tensor, Parts, Knobs], tuple[Tensor, Parts]]


def optimizer(method: str, layout: Layout) -> FirstOrder:
    """The optimizer of a stage by its `method`, for parameters laid out like this."""
    return _OPTIMIZERS[method]


def clipped(g: Tensor, limit: Tensor) -> Tensor:
    """The gradient scaled down to the 2-norm `limit` where it is longer, as `optax.clip_by_global_norm`."""
    norm = torch.sqrt(torch.sum(g * g))
    return torch.where(norm < limit, g, (g / norm) * limit)


def _moments(x: Tensor) -> Parts:
    return {"mu": torch.zeros_like(x), "nu": torch.zeros_like(x), "count": x.new_zeros((), dtype=torch.int64)}


def _adam(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    """Moments corrected for their start at zero; eps outside the root (arXiv 1412.6980, algorithm 1)."""
    b1, b2 = knobs["b1"], knobs["b2"]
    count = parts["count"] + 1
    mu = b1 * parts["mu"] + (1 - b1) * g
    nu = b2 * parts["nu"] + (1 - b2) * (g * g)
    steps = count.to(g.dtype)
    direction = (mu / (1 - b1**steps)) / (torch.sqrt(nu / (1 - b2**steps)) + knobs["eps"])
    return direction, {"mu": mu, "nu": nu, "count": count}


def _adamw(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    direction, parts = _adam(g, x, parts, knobs)
    return direction + knobs["weight_decay"] * x, parts


def _sgd(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    trace = g + knobs["momentum"] * parts["trace"]
    return trace, {"trace": trace}


_OPTIMIZERS: Mapping[str, FirstOrder] = {
    "adam": FirstOrder(_moments, _adam),
    "adamw": FirstOrder(_moments, _adamw),
    "sgd": FirstOrder(lambda x: {"trace": torch.zeros_like(x)}, _sgd),
}
