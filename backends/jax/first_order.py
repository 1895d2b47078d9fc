"""First-order stages as optax transformations whose hyperparameters are traced values from the knob table.

An optimizer gives a direction; whoever calls subtracts the rate times it. State in portable form: parts by the names
that optax gives them (`mu`, `nu`, `trace`, `sum_of_squares`), each a dict by parameter, and `count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

Array = Any
Tree = dict[str, Any]
Knobs = Mapping[str, Array]

_MOMENTS = ("mu", "nu", "count")
_PARTS = {
    "adam": _MOMENTS,
    "adamw": _MOMENTS,
    "nadam": _MOMENTS,
    "radam": _MOMENTS,
    "lamb": _MOMENTS,
    "lion": ("mu",),
    "muon": _MOMENTS,
    "rmsprop": ("nu", "trace"),
    "rmsprop-centered": ("mu", "nu", "trace"),
    "adagrad": ("sum_of_squares",),
    "sgd": ("trace",),
    "sgd-nesterov": ("trace",),
}
"""What a method keeps."""
_SQUARES = {"rmsprop": "nu", "rmsprop-centered": "nu", "adagrad": "sum_of_squares"}
"""The part that begins with the stage's `initial`."""


def init(method: str, free: Mapping[str, np.ndarray], initial: float = 0.0) -> Tree:
    """The state before the first step: host arrays, zero but for the squares, which begin with `initial`."""

    def filled(part: str) -> Any:
        value = initial if part == _SQUARES.get(method) else 0.0
        return {name: np.full_like(array, value) for name, array in free.items()}

    return {part: np.zeros((), np.int64) if part == "count" else filled(part) for part in _PARTS[method]}


def direction(method: str, gradient: Tree, state: Tree, free: Tree, knobs: Knobs) -> tuple[Tree, Tree]:
    """(what the rate is multiplied with and the parameters lose, new state) for one gradient."""
    if method == "muon":
        return _muon(gradient, state, free, knobs)
    chain = optax.chain(*_chain(method, knobs))
    before: Any = jax.eval_shape(chain.init, free)
    found, after = chain.update(gradient, tuple(_filled(s, state) for s in before), free)
    states: Any = after
    updates: Any = found
    kept = {field: getattr(s, field) for s in states for field in getattr(s, "_fields", ()) if field in state}
    return updates, kept


def _muon(gradient: Tree, state: Tree, free: Tree, knobs: Knobs) -> tuple[Tree, Tree]:
    """`optax.contrib.muon`: matrices by `scale_by_muon` and their shape, all else by Adam with Nesterov's momentum."""
    matrices = [name for name in gradient if gradient[name].ndim == 2]
    updates: Tree = {}
    mu, nu, after = dict(state["mu"]), dict(state["nu"]), state["count"] + 1
    if matrices:
        own = {name: gradient[name] for name in matrices}
        shapes = dict.fromkeys(matrices, optax.contrib.MuonDimensionNumbers())
        moved = optax.contrib.scale_by_muon(beta=knobs["beta"], eps=knobs["eps"], weight_dimension_numbers=shapes)
        before: Any = moved.init(own)
        found, kept = moved.update(own, before._replace(count=state["count"], mu={n: mu[n] for n in matrices}))
        steps, kept = cast(Any, found), cast(Any, kept)
        updates |= {n: u * max(1.0, u.shape[1] / u.shape[0]) ** 0.5 for n, u in steps.items()}
        mu |= kept.mu
    others = {name: gradient[name] for name in gradient if name not in matrices}
    if others:
        adam = optax.scale_by_adam(knobs["b1"], knobs["b2"], knobs["eps"], nesterov=True)
        given = optax.ScaleByAdamState(state["count"], {n: mu[n] for n in others}, {n: nu[n] for n in others})
        found, kept = adam.update(others, given)
        steps, kept = cast(Any, found), cast(Any, kept)
        updates |= steps
        mu, nu = mu | kept.mu, nu | kept.nu
    decayed = {name: updates[name] + knobs["weight_decay"] * free[name] for name in gradient}
    return decayed, {"mu": mu, "nu": nu, "count": after}


def clipped(gradient: Tree, limit: Array) -> Tree:
    """The gradient scaled down to the 2-norm `limit` where it is longer."""
    found: Any = optax.clip_by_global_norm(limit).update(gradient, optax.EmptyState())[0]
    return found


def _filled(shapes: Any, state: Tree) -> Any:
    """One state of a chain with the values of ours; what we don't keep (lion's count, which it never reads) is 0."""
    fields = getattr(shapes, "_fields", ())
    return shapes._replace(**{f: state[f] if f in state else jnp.zeros((), jnp.int64) for f in fields})


def _chain(method: str, knobs: Knobs) -> list[optax.GradientTransformation]:
    decay = [optax.add_decayed_weights(knobs["weight_decay"])] if "weight_decay" in knobs else []
    last = [optax.scale_by_trust_ratio()] if method == "lamb" else []
    return [*_scaling(method, knobs), *decay, *last]


def _scaling(method: str, k: Knobs) -> list[optax.GradientTransformation]:
    if method.startswith("sgd"):
        return [optax.trace(k["momentum"], nesterov=method == "sgd-nesterov")]
    if method.startswith("rmsprop"):
        scale = optax.scale_by_stddev if method == "rmsprop-centered" else optax.scale_by_rms
        return [scale(k["decay"], k["eps"]), optax.trace(k["momentum"])]
    if method == "adagrad":
        return [optax.scale_by_rss(0.0, k["eps"])]
    if method == "lion":
        return [optax.scale_by_lion(k["b1"], k["b2"])]
    if method == "radam":
        return [optax.scale_by_radam(k["b1"], k["b2"], k["eps"])]
    return [optax.scale_by_adam(k["b1"], k["b2"], k["eps"], nesterov=method == "nadam")]
