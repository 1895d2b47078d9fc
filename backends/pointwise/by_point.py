"""What rules with a number per point have in common: where it lies, and what becomes of it when points change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
State = dict[str, Any]


def places(size: int) -> NDArray[np.int64]:
    """The place of each point of a set."""
    return np.arange(size, dtype=np.int64)


def saw(ops: Any, spec: Any, state: State, place: Array, share: Array, size: Array) -> Array:
    """The squared residuals in their places."""
    return ops.placed(size, place, like=state["seen"])


def moved(state: State, kept: NDArray[np.int64]) -> State:
    """Points that stay keep their lambda, a new one begins with the mean of all."""
    before = np.asarray(state["lambda"])
    return {**state, "lambda": np.where(kept >= 0, before[np.maximum(kept, 0)], before.mean()).astype(before.dtype)}
