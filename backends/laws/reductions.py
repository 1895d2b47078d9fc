"""How the values at many points become one per sample: what the batches of laws and of bands have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from backends.pde.recorder import Recording

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Array = Any
Densities = Callable[[Recording, Mapping[str, Array]], Mapping[str, Any]]
"""The terms of a recording at some points, raw: [points] each, or a tuple of such."""


class Reduction(Protocol):
    """Of one batch whose samples stand for many points (`backends.laws.nodes`)."""

    @property
    def signature(self) -> Hashable:
        """What shapes a program."""
        ...

    def values(
        self,
        ops: Any,
        problem: Problem,
        recording: Recording,
        columns: Mapping[str, Array],
        densities: Densities,
        constants: Mapping[str, Array],
    ) -> Mapping[str, Any]:
        """Every term of the batch: [samples], or a tuple of such."""
        ...


def each(fn: Callable[[Array], Array], value: Any) -> Any:
    """fn of an array, or of every part of a vector residual."""
    return tuple(map(fn, value)) if isinstance(value, tuple) else fn(value)
