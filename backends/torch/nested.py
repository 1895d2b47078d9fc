"""Derivatives of a function that Jets can't pass (a user's own module), by nested differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Index = tuple[int, ...]


def nested(
    fn: Callable[[torch.Tensor], torch.Tensor], points: torch.Tensor, indices: Sequence[Index]
) -> list[torch.Tensor]:
    """`Ops.nested`: for each index (coordinate numbers; () is the value) the derivative [outputs, samples].

    One backward pass of the summed output gives the derivatives with respect to all coordinates, so a pass is made
    once per output and index that another one extends. Right only where `fn` treats each sample for itself.
    """
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        at = points.detach().requires_grad_()
        known: dict[Index, torch.Tensor] = {(): fn(at)}
        for index in indices:
            _fill(known, tuple(sorted(index)), at)
    found = [known[tuple(sorted(index))] for index in indices]
    return found if training else [x.detach() for x in found]


def _fill(known: dict[Index, torch.Tensor], index: Index, at: torch.Tensor) -> None:
    """Puts `index` among the known derivatives, after whatever it is a derivative of."""
    if index in known:
        return
    below = index[:-1]
    _fill(known, below, at)
    slopes = torch.stack([_slope(row, at) for row in torch.unbind(known[below], 0)], 0)
    for coordinate, column in enumerate(torch.unbind(slopes, 1)):
        known.setdefault(tuple(sorted((*below, coordinate))), column)


def _slope(row: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """[coordinates, samples]: the derivative of each sample's value; zero where it does not depend on them."""
    if not row.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(row.sum(), at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope
