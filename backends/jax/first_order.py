"""First-order stages as optax transformations whose hyperparameters are traced values from the knob table.

An optimizer gives a direction; whoever calls subtracts the rate times it. State in portable form: parts by name
(`mu`, `nu`, `trace`), each a dict by parameter, and `count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

Array = Any
Tree = dict[str, Any]

_PARTS = {"adam": ("mu", "nu"), "adamw": ("mu", "nu"), "sgd": ("trace",)}
"""What a stage keeps for each parameter."""


def init(method: str, free: Mapping[str, np.ndarray]) -> Tree:
    """The state before the first step: host arrays, zero."""
    state: Tree = {part: {k: np.zeros_like(v) for k, v in free.items()} for part in _PARTS[method]}
    return state | ({"count": np.zeros((), np.int64)} if method != "sgd" else {})


def direction(method: str, gradient: Tree, state: Tree, free: Tree, knobs: Mapping[str, Array]) -> tuple[Tree, Tree]:
    """(what the rate is multiplied with and the parameters lose, new state) for one gradient."""
    chain = optax.chain(*_parts(method, knobs))
    moments = _moments(method, state)
    before: Any = jax.eval_shape(chain.init, free)
    found, after = chain.update(gradient, tuple(moments if type(s) is type(moments) else s for s in before), free)
    states: Any = after
    (kept,) = [s for s in states if isinstance(s, optax.ScaleByAdamState | optax.TraceState)]
    updates: Any = found
    return updates, dict(kept._asdict())


def clipped(gradient: Tree, limit: Array) -> Tree:
    """The gradient scaled down to the 2-norm `limit` where it is longer."""
    found: Any = optax.clip_by_global_norm(limit).update(gradient, optax.EmptyState())[0]
    return found


def _parts(method: str, knobs: Mapping[str, Array]) -> list[optax.GradientTransformation]:
    if method == "sgd":
        return [optax.trace(knobs["momentum"])]
    scaled = optax.scale_by_adam(knobs["b1"], knobs["b2"], knobs["eps"])
    return [scaled, optax.add_decayed_weights(knobs["weight_decay"])] if method == "adamw" else [scaled]


def _moments(method: str, state: Tree) -> optax.ScaleByAdamState | optax.TraceState:
    if method == "sgd":
        return optax.TraceState(trace=state["trace"])
    return optax.ScaleByAdamState(count=state["count"], mu=state["mu"], nu=state["nu"])
