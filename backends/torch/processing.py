"""What becomes of the flat gradient before the optimizer sees it (`backends.gradients`), while a step is recorded."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from backends import gradients
from backends.torch.first_order import clipped
from backends.torch.layout import Layout
from backends.torch.ops import OPS

Tensor = torch.Tensor


def processed(
    g: Tensor,
    x: Tensor,
    layout: Layout,
    knobs: Mapping[str, Tensor],
    key: tuple[Tensor, Tensor],
    process: gradients.Process | None,
) -> Tensor:
    """The gradient [parameters] after the user's function, clipping by value and norm, and noise; key: (seed, step)."""
    if process is not None:
        found = gradients.own(process, OPS, layout.views(g), layout.views(x), key[1])
        g = torch.cat([found[name].reshape(-1) for name, _ in layout.entries])
    if "clip_value" in knobs:
        g = torch.minimum(torch.maximum(g, -knobs["clip_value"]), knobs["clip_value"])
    if "clip" in knobs:
        g = clipped(g, knobs["clip"])
    if "noise_eta" in knobs:
        g = g + gradients.noise(OPS, knobs, key, torch.arange(len(g), device=g.device), g)
    return g
