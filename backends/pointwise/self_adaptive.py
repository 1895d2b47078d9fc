"""Self-adaptive weights (McClenny and Braga-Neto, arXiv 2009.04544).

Each point has a lambda that climbs the gradient of its own part of the loss, m(lambda_i) r_i^2 / 2 (their equation 12,
by plain gradient ascent), while the network descends. m is the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.ops import NumpyOps
from backends.pointwise import by_point
from backends.spec import SelfAdaptive

Array = Any
State = dict[str, Any]
KNOBS = ("lr", "high")
SETTLES = False
saw, moved = by_point.saw, by_point.moved


def initial(spec: SelfAdaptive, size: int) -> dict[str, NDArray[np.float64]]:
    """lambda [size], where the mask is 1, seen [size], and the bound `high`, which the sigmoid needs."""
    start = 0.0 if spec.mask == "sigmoid" else 1.0
    return {"lambda": np.full(size, start), "high": np.array(float(spec.high)), "seen": np.zeros(size)}


def factor(ops: Any, spec: SelfAdaptive, state: State, place: Array) -> Array:
    """m(lambda) of each point."""
    return _mask(ops, spec, ops.taken(state["lambda"], place), state["high"])[0]


def advanced(ops: Any, spec: SelfAdaptive, state: State, numbers: Mapping[str, Array], steps: int) -> State:
    """One step up the gradient; no weight above `high`."""
    at, high = state["lambda"], 0.0 * state["high"] + numbers["high"]
    _, slope = _mask(ops, spec, at, high)
    new = at + 0.5 * numbers["lr"] * slope * state["seen"]
    if spec.mask != "sigmoid":
        new = ops.minimum(new, 0.0 * new + (high if spec.mask == "linear" else ops.sqrt(high)))
    return {**state, "lambda": new, "high": high}


def readings(spec: SelfAdaptive, state: State) -> dict[str, float]:
    """`min` and `max` of the weights."""
    host = {name: np.asarray(v, np.float64) for name, v in state.items()}
    weight = _mask(NumpyOps(), spec, host["lambda"], host["high"])[0]
    return {"min": float(weight.min()), "max": float(weight.max())}


def _mask(ops: Any, spec: SelfAdaptive, at: Array, high: Array) -> tuple[Array, Array]:
    """m and its derivative; the sigmoid is 1 at 0."""
    if spec.mask == "linear":
        return at, 0.0 * at + 1.0
    if spec.mask == "square":
        return at * at, 2.0 * at
    share = ops.sigmoid(at - ops.log(high - 1.0))
    return high * share, high * share * (1.0 - share)
