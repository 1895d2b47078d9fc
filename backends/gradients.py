"""What becomes of a gradient before a first-order optimizer sees it: a user's function, clipping, noise, in this order.

The gradient is that of the weighted loss over all workers and passes; every worker computes the same. Limits, eta and
gamma are columns of the knob table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveFloat

from backends.errors import UserError, nearest
from backends.own.code import load as load_own
from backends.randomness import normal
from backends.spec import Clip, Leaf

Array = Any
Process = Callable[[Any, dict[str, Array], dict[str, Array], Array], Mapping[str, Array]]
STREAM = "gradient noise"


class Noise(Leaf):
    """Gaussian noise added to the gradient, less and less of it (Neelakantan et al., arXiv 1511.06807, equation 1).

    Its variance at step t of the run is eta / (1 + t)^gamma. The numbers are functions of seed, step and parameter
    index, the same on both backends and after a resume.
    """

    eta: PositiveFloat = 0.01
    """Variance at step 0 (the paper tries 0.01, 0.3 and 1)."""
    gamma: NonNegativeFloat = 0.55
    """How fast it falls; 0: never."""


class OwnGradients(Leaf):
    """The user's function of all gradients, written once for both backends and recorded into the step.

        def process(ops, gradients, params, step):
            return {name: g / (1e-8 + ops.sqrt(ops.sum(g * g))) for name, g in gradients.items()}

    `gradients` and `params` are dicts of arrays by parameter name, `step` is the number of the step in the run, a 0-d
    array. It returns a dict with the same names and shapes.
    """

    target: str = Field(min_length=3)
    """`mine.py:process` (relative to the experiment file) or `package.module:process`."""

    def load(self, folder: Path) -> Process:
        """The function. Raises UserError where the target names none, or one that takes other arguments."""
        found: Any = load_own(self.target, folder)
        if not callable(found) or isinstance(found, type):
            raise UserError(f"{self.target!r} is no function, it is {_a(found)}", path="gradients.custom.target")
        try:
            inspect.signature(found).bind(None, {}, {}, 0)
        except TypeError as error:
            raise UserError(
                f"{self.target!r} is called with (ops, gradients, params, step), which it does not take: {error}",
                path="gradients.custom.target",
            ) from error
        function: Any = found
        return function


class Gradients(Leaf):
    """What happens to the gradient in first-order stages, beside `clip`."""

    custom: OwnGradients | None = None
    """The user's own function; it comes first, clipping and noise after it."""
    noise: Noise | None = None
    """Annealed noise; it comes last, so it is not clipped."""


def limits(clip: Clip | None, noise: Noise | None) -> dict[str, float]:
    """The knobs of clipping and noise, and their values."""
    found: dict[str, float] = {}
    if clip is not None and clip.value is not None:
        found["clip_value"] = clip.value
    if clip is not None and clip.norm is not None:
        found["clip"] = clip.norm
    if noise is not None:
        found |= {"noise_eta": noise.eta, "noise_gamma": noise.gamma}
    return found


def own(process: Process, ops: Any, gradients: Mapping[str, Array], params: Mapping[str, Array], step: Array) -> Any:
    """What the user's function makes of the gradients, checked. Raises UserError for other names or shapes."""
    found = process(ops, dict(gradients), dict(params), step)
    name = getattr(process, "__name__", "process")
    if not isinstance(found, Mapping):
        raise UserError(
            f"{name} must return a dict of gradients by parameter name; it returned {_a(found)}",
            path="gradients.custom.target",
        )
    for key in found:
        if key not in gradients:
            raise UserError(
                f"{name} returns a gradient for {key!r}, which is no trained parameter{nearest(key, gradients)}",
                path="gradients.custom.target",
            )
    for key, given in gradients.items():
        if key not in found:
            raise UserError(f"{name} returns no gradient for {key!r}", path="gradients.custom.target")
        if tuple(getattr(found[key], "shape", ())) != tuple(given.shape):
            shape = list(getattr(found[key], "shape", ()))
            raise UserError(
                f"{name} returns a gradient of the shape {shape} for {key!r}, which has {list(given.shape)}",
                path="gradients.custom.target",
            )
    return {key: ops.astype(found[key], like=given) for key, given in gradients.items()}


def noise(ops: Any, knobs: Mapping[str, Array], key: tuple[Array, Array], rows: Array, like: Array) -> Array:
    """[parameters] numbers to add to the flat gradient (parameters sorted by name); rows: 0, 1, … as integers."""
    step = ops.astype(key[1], like=like)
    spread = ops.sqrt(knobs["noise_eta"] / (1.0 + step) ** knobs["noise_gamma"])
    return spread * normal(ops, key, STREAM, rows, 1, like)[0]


def _a(value: Any) -> str:
    return f"a {type(value).__name__}"
