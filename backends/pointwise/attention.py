"""Residual-based attention (Anagnostopoulos, Toscano, Stergiopulos, Karniadakis, arXiv 2307.00379).

lambda_i <- gamma lambda_i + eta |r_i| / max |r| (their equation 5); the loss is the mean of (lambda_i r_i)^2. The
largest residual is that of all points of the set, of all passes and workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.pointwise import by_point
from backends.spec import Attention

Array = Any
State = dict[str, Any]
KNOBS = ("gamma", "eta")
SETTLES = False
saw, moved = by_point.saw, by_point.moved


def initial(spec: Attention, size: int) -> dict[str, NDArray[np.float64]]:
    """lambda [size], 1 at the start, and seen [size], the squared residuals of a step."""
    return {"lambda": np.ones(size), "seen": np.zeros(size)}


def factor(ops: Any, spec: Attention, state: State, place: Array) -> Array:
    """lambda^2 of each point."""
    chosen = ops.taken(state["lambda"], place)
    return chosen * chosen


def advanced(ops: Any, spec: Attention, state: State, numbers: Mapping[str, Array], steps: int) -> State:
    """`steps` updates with the same residuals, in closed form."""
    size = ops.sqrt(state["seen"])
    relative = size / ops.maximum(ops.max(size), 0.0 * ops.max(size) + 1e-30)
    gamma, eta = numbers["gamma"], numbers["eta"]
    kept = gamma if steps == 1 else gamma**steps
    rate = eta if steps == 1 else eta * (1.0 - kept) / (1.0 - gamma)
    return {**state, "lambda": kept * state["lambda"] + rate * relative}


def readings(spec: Attention, state: State) -> dict[str, float]:
    """`min` and `max` of the weights."""
    weight = np.square(np.asarray(state["lambda"], np.float64))
    return {"min": float(weight.min()), "max": float(weight.max())}
