"""Causal weights in time windows (Wang, Sankaran, Perdikaris, arXiv 2203.07404).

w_m = exp(-eps * sum_{k<m} L_k), with L_k the mean squared residual of the points in window k (their equation 3.5,
without a gradient). The loss is the mean over all points of weight times squared residual: the paper's where the
windows have equally many points. The state has one weight per window, so it outlives new points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.spec import Causal

Array = Any
State = dict[str, Any]
KNOBS = ("factor", "last", "delta")
SETTLES = True


def initial(spec: Causal, size: int) -> dict[str, NDArray[np.float64]]:
    """weight [windows], eps [], seen [2, windows]: sums over the points of share * squared residual, and of share."""
    return {
        "weight": np.ones(spec.windows),
        "eps": np.array(float(spec.eps)),
        "seen": np.zeros((2, spec.windows)),
    }


def windows(spec: Causal, time: NDArray[np.float64], low: float, high: float) -> NDArray[np.int64]:
    """The window of each point, from its time in [low, high]."""
    part = (time - low) / (high - low)
    return np.clip(np.floor(part * spec.windows).astype(np.int64), 0, spec.windows - 1)


def factor(ops: Any, spec: Causal, state: State, place: Array) -> Array:
    """The weight of each point's window."""
    return state["weight"][place]


def saw(ops: Any, spec: Causal, state: State, place: Array, share: Array, size: Array) -> Array:
    """Sums by window, as a product with its indicator: the same in every order of threads."""
    inside = ops.astype(_range(ops, spec.windows, place)[:, None] == place[None, :], size)
    return ops.stack([ops.matmul(inside, share * size), ops.matmul(inside, share)])


def advanced(ops: Any, spec: Causal, state: State, numbers: Mapping[str, Array], steps: int) -> State:
    """Weights from the losses of the windows; eps grows where all weights are near 1."""
    sums, shares = ops.unstack(state["seen"])
    losses = sums / ops.maximum(shares, ops.zeros(shares.shape, like=shares) + 1e-30)
    number = _range(ops, spec.windows, ops.to_int64(losses))
    before = ops.astype(number[:, None] > number[None, :], losses)
    weight = ops.exp(-state["eps"] * ops.matmul(before, losses))
    grown = ops.minimum(state["eps"] * numbers["factor"], 0.0 * state["eps"] + numbers["last"])
    eps = ops.where(-ops.max(-weight) > numbers["delta"], ops.maximum(grown, state["eps"]), state["eps"])
    return {**state, "weight": weight, "eps": eps}


def moved(state: State, kept: NDArray[np.int64]) -> State:
    """Windows stay where they are."""
    return dict(state)


def readings(spec: Causal, state: State) -> dict[str, float]:
    """`min`: the smallest weight, near 1 where the residual is small at all times (the paper's criterion of
    convergence); `eps`."""
    return {"min": float(np.min(state["weight"])), "eps": float(state["eps"])}


def _range(ops: Any, count: int, like: Array) -> Array:
    """0 … count - 1 as integers, by doubling: `ops` makes no ranges."""
    numbers, have = ops.zeros((1,), like=like), 1
    while have < count:
        numbers, have = ops.concat([numbers, numbers + have]), 2 * have
    return numbers[:count]
