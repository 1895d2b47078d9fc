"""Named parameters as one flat vector, sorted by name, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.errors import UserError
from backends.task import trainable


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trained parameters, in order."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, params: Mapping[str, NDArray[Any]], frozen: Collection[str] = ()) -> Layout:
        """Of those parameters that are trained: all but `frozen`, and ones that never are. Raises UserError where
        there are none."""
        names = sorted(name for name in params if trainable(name) and name not in frozen)
        if not names:
            raise UserError("the task has no parameter that could be trained", path="network")
        return cls(tuple((name, tuple(np.shape(params[name]))) for name in names))

    @property
    def size(self) -> int:
        """Numbers in the flat vector."""
        return sum(prod(shape) for _, shape in self.entries)

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name, as parts of the vector's memory."""
        parts = torch.split(flat, [prod(shape) for _, shape in self.entries])
        return {name: part.view(shape) for (name, shape), part in zip(self.entries, parts, strict=True)}

    def arrays(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The same of a host vector, as copies."""
        ends = np.cumsum([prod(shape) for _, shape in self.entries], dtype=np.int64)
        parts = np.split(flat, ends[:-1])
        return {name: part.reshape(shape).copy() for (name, shape), part in zip(self.entries, parts, strict=True)}

    def flat(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """One host vector of named arrays."""
        return np.concatenate([np.reshape(arrays[name], -1) for name, _ in self.entries])
