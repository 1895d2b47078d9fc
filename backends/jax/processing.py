"""What becomes of a gradient before the optimizer sees it (`backends.gradients`), inside the compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from backends import gradients
from backends.jax.first_order import clipped
from backends.jax.gradient import flat, unflat
from backends.jax.ops import OPS

Array = Any
Tree = dict[str, Any]


def processed(
    gradient: Tree,
    free: Tree,
    knobs: Mapping[str, Array],
    key: tuple[Array, Array],
    process: gradients.Process | None,
) -> Tree:
    """The gradient after the user's function, clipping by value and by norm, and noise; key: (seed, step)."""
    if process is not None:
        gradient = gradients.own(process, OPS, gradient, free, key[1])
    if "clip_value" in knobs:
        limit = knobs["clip_value"]
        gradient = jax.tree.map(lambda g: jnp.clip(g, -limit, limit), gradient)
    if "clip" in knobs:
        gradient = clipped(gradient, knobs["clip"])
    if "noise_eta" in knobs:
        vector = flat(gradient)
        noise = gradients.noise(OPS, knobs, key, jnp.arange(vector.shape[0]), vector)
        gradient = unflat(vector + noise, gradient)
    return gradient
