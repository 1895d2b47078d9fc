"""First-order stages as optax chains whose hyperparameters are traced values from the knob table.

State in portable form: `mu`, `nu` and `count` (adam, adamw), `trace` (sgd), each a dict by parameter but the count.
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


def init(kind: str, free: Mapping[str, np.ndarray]) -> Tree:
    """The state before the first step: host arrays, zero."""
    state: Tree = {part: {k: np.zeros_like(v) for k, v in free.items()} for part in _PARTS[kind]}
    return state | ({"count": np.zeros((), np.int64)} if kind != "sgd" else {})


def update(kind: str, gradient: Tree, state: Tree, free: Tree, knobs: Mapping[str, Array]) -> tuple[Tree, Tree]:
    """(new parameters, new state) after one step along `gradient`, clipped where `clip` is among the knobs."""
    chain = _chain(kind, knobs)
    moments = _moments(kind, state)
    before: Any = jax.eval_shape(chain.init, free)
    updates, after = chain.update(gradient, tuple(moments if type(s) is type(moments) else s for s in before), free)
    states: Any = after
    (kept,) = [s for s in states if isinstance(s, optax.ScaleByAdamState | optax.TraceState)]
    updated: Any = optax.apply_updates(free, updates)
    return updated, dict(kept._asdict())


def _chain(kind: str, knobs: Mapping[str, Array]) -> optax.GradientTransformation:
    parts = [optax.clip_by_global_norm(knobs["clip"])] if "clip" in knobs else []
    if kind == "sgd":
        parts.append(optax.trace(knobs["momentum"]))
    else:
        parts.append(optax.scale_by_adam(knobs["b1"], knobs["b2"], knobs["eps"]))
    if kind == "adamw":
        parts.append(optax.add_decayed_weights(knobs["weight_decay"]))
    return optax.chain(*parts, optax.scale(-knobs["lr"]))


def _moments(kind: str, state: Tree) -> optax.ScaleByAdamState | optax.TraceState:
    if kind == "sgd":
        return optax.TraceState(trace=state["trace"])
    return optax.ScaleByAdamState(count=state["count"], mu=state["mu"], nu=state["nu"])
