"""First-order optimizers on one flat vector of parameters, as optax computes them.

Each is a pair of pure functions: `init(x)` gives the parts of the state, `direction(g, x, parts, knobs)` what the
parameters lose times the rate, and the new parts; whoever calls applies the rate. Knobs are 0-d tensors, so that no
value of theirs is a compiled constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from backends.stages import FirstOrder as Stage
from backends.torch.layout import Layout

Tensor = torch.Tensor
Parts = dict[str, Tensor]
Knobs = Mapping[str, Tensor]
Direction = Callable[[Tensor, Tensor, Parts, Knobs], tuple[Tensor, Parts]]


@dataclass(frozen=True)
class FirstOrder:
    """An optimizer that looks at one gradient per step."""

    init: Callable[[Tensor], Parts]
    direction: Direction


def optimizer(stage: Stage, layout: Layout) -> FirstOrder:
    """The optimizer of a stage, for parameters laid out like this."""
    names, direction = _METHODS[stage.method]
    if stage.method == "muon":
        direction = partial(_muon, layout)

    def init(x: Tensor) -> Parts:
        parts = {name: torch.zeros_like(x) for name in names if name != "count"}
        if "count" in names:
            parts["count"] = x.new_zeros((), dtype=torch.int64)
        if stage.method in _SQUARES:
            parts[_SQUARES[stage.method]] += getattr(stage, "initial", 0.0)
        return parts

    def decayed(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
        found, parts = direction(g, x, parts, knobs)
        found = found + knobs["weight_decay"] * x if "weight_decay" in knobs else found
        return (_trusted(found, x, layout) if stage.method == "lamb" else found), parts

    return FirstOrder(init, decayed)


def clipped(g: Tensor, limit: Tensor) -> Tensor:
    """The gradient scaled down to the 2-norm `limit` where it is longer, as `optax.clip_by_global_norm`."""
    norm = torch.sqrt(torch.sum(g * g))
    return torch.where(norm < limit, g, (g / norm) * limit)


def _moments(g: Tensor, parts: Parts, knobs: Knobs) -> tuple[Parts, Tensor]:
    """Means of gradient and square, and the number of this step as a float."""
    b1, b2 = knobs["b1"], knobs["b2"]
    count = parts["count"] + 1
    new = {"mu": b1 * parts["mu"] + (1 - b1) * g, "nu": b2 * parts["nu"] + (1 - b2) * (g * g), "count": count}
    return new, count.to(g.dtype)


def _root(new: Parts, steps: Tensor, knobs: Knobs) -> Tensor:
    """The root of the second moment, corrected for its start at zero; eps outside (arXiv 1412.6980, algorithm 1)."""
    return torch.sqrt(new["nu"] / (1 - knobs["b2"] ** steps)) + knobs["eps"]


def _adam(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    new, steps = _moments(g, parts, knobs)
    return (new["mu"] / (1 - knobs["b1"] ** steps)) / _root(new, steps, knobs), new


def _nadam(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    new, steps = _moments(g, parts, knobs)
    b1 = knobs["b1"]
    ahead = b1 * (new["mu"] / (1 - b1 ** (steps + 1))) + (1 - b1) * (g / (1 - b1**steps))
    return ahead / _root(new, steps, knobs), new


def _radam(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    """Arithmetic of arXiv 1908.03265, algorithm 2; rectified from a length of 5 on."""
    new, steps = _moments(g, parts, knobs)
    most = 2.0 / (1.0 - knobs["b2"]) - 1.0
    power = knobs["b2"] ** steps
    length = most - 2 * steps * power / (1 - power)
    mean = new["mu"] / (1 - knobs["b1"] ** steps)
    r = torch.sqrt((length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length))
    return torch.where(length >= 5.0, r * mean / _root(new, steps, knobs), mean), new


def _lion(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    b1, b2, mu = knobs["b1"], knobs["b2"], parts["mu"]
    return torch.sign((1 - b1) * g + b1 * mu), {"mu": (1 - b2) * g + b2 * mu}


NEWTON_SCHULZ = 3.4445, -4.775, 2.0315
"""Coefficients of the quintic iteration, five rounds of it, as in optax."""


def _muon(layout: Layout, g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    """As `optax.contrib.muon`; the second moment of matrices stays zero."""
    count = parts["count"] + 1
    steps = count.to(g.dtype)
    found: list[Tensor] = []
    new: dict[str, list[Tensor]] = {"mu": [], "nu": []}
    old = {name: layout.views(parts[name]) for name in new}
    for name, slope in layout.views(g).items():
        matrix = slope.ndim == 2
        decay = knobs["beta" if matrix else "b1"]
        mu = decay * old["mu"][name] + (1 - decay) * slope
        nu = old["nu"][name] if matrix else knobs["b2"] * old["nu"][name] + (1 - knobs["b2"]) * (slope * slope)
        ahead = decay * (mu / (1 - decay ** (steps + 1))) + (1 - decay) * (slope / (1 - decay**steps))
        if matrix:
            direction = _orthogonal(ahead, knobs["eps"]) * max(1.0, slope.shape[1] / slope.shape[0]) ** 0.5
        else:
            direction = ahead / _root({"nu": nu}, steps, knobs)
        found.append(direction.reshape(-1))
        new["mu"].append(mu.reshape(-1))
        new["nu"].append(nu.reshape(-1))
    return torch.cat(found), {**{name: torch.cat(values) for name, values in new.items()}, "count": count}


def _orthogonal(x: Tensor, eps: Tensor) -> Tensor:
    """A matrix with x's singular vectors and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    turned = x.shape[0] > x.shape[1]
    y = x.T if turned else x
    y = y / (torch.sqrt(torch.sum(y * y)) + eps)
    for _ in range(5):
        square = y @ y.T
        y = a * y + (b * square + c * (square @ square)) @ y
    return y.T if turned else y


def _rmsprop(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    decay = knobs["decay"]
    new = {"nu": (1 - decay) * (g * g) + decay * parts["nu"]}
    square = new["nu"]
    if "mu" in parts:
        new["mu"] = (1 - decay) * g + decay * parts["mu"]
        square = square - new["mu"] * new["mu"]
    trace = torch.rsqrt(square + knobs["eps"]) * g + knobs["momentum"] * parts["trace"]
    return trace, {**new, "trace": trace}


def _adagrad(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    total = g * g + parts["sum_of_squares"]
    found = torch.where(total > 0, torch.rsqrt(total + knobs["eps"]), torch.zeros_like(total)) * g
    return found, {"sum_of_squares": total}


def _sgd(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    trace = g + knobs["momentum"] * parts["trace"]
    return trace, {"trace": trace}


def _nesterov(g: Tensor, x: Tensor, parts: Parts, knobs: Knobs) -> tuple[Tensor, Parts]:
    trace = g + knobs["momentum"] * parts["trace"]
    return g + knobs["momentum"] * trace, {"trace": trace}


def _trusted(direction: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """Each array's direction with the length of the array itself; as it is where one of the two is zero."""
    found = []
    for d, p in zip(layout.views(direction).values(), layout.views(x).values(), strict=True):
        ours, theirs = torch.sqrt(torch.sum(p * p)), torch.sqrt(torch.sum(d * d))
        ratio = torch.where((ours == 0) | (theirs == 0), torch.ones_like(ours), ours / theirs)
        found.append((d * ratio).reshape(-1))
    return torch.cat(found)


_ADAMS = ("mu", "nu", "count")
_METHODS: Mapping[str, tuple[tuple[str, ...], Direction]] = {
    "adam": (_ADAMS, _adam),
    "adamw": (_ADAMS, _adam),
    "nadam": (_ADAMS, _nadam),
    "radam": (_ADAMS, _radam),
    "lamb": (_ADAMS, _adam),
    "lion": (("mu",), _lion),
    "muon": (_ADAMS, _adam),
    "rmsprop": (("nu", "trace"), _rmsprop),
    "rmsprop-centered": (("mu", "nu", "trace"), _rmsprop),
    "adagrad": (("sum_of_squares",), _adagrad),
    "sgd": (("trace",), _sgd),
    "sgd-nesterov": (("trace",), _nesterov),
}
"""By the stage's `method`: what it keeps, and its direction."""
_SQUARES = {"rmsprop": "nu", "rmsprop-centered": "nu", "adagrad": "sum_of_squares"}
"""The part that begins with the stage's `initial`."""
