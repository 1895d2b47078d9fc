"""A training state on the device, and the host arrays of a checkpoint, in names that both backends share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.torch.device import fetch, put
from backends.torch.layout import Layout

Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, torch.Tensor]


@dataclass
class State:
    """Spent by `step`, which writes into it."""

    stage: int
    x: torch.Tensor
    """All trained parameters, flat, in the order of the layout."""
    frozen: Tensors
    aux: Tensors
    optimizer: Tensors
    """Parts by name; those as long as x are one number per parameter."""
    constants: torch.Tensor
    """The knobs `task/*` of the last step, float64."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision."""
        return self.x.dtype


@dataclass(frozen=True)
class Format:
    """How the state of one stage is called in a checkpoint."""

    kind: str
    layout: Layout
    constants: tuple[str, ...]
    by_parameter: bool
    """Whether optimizer parts as long as x are split by parameter (first-order stages)."""

    def arrays(self, state: State) -> Arrays:
        """Own host copies of everything."""
        x = self.layout.arrays(fetch(state.x))
        found = {f"params/{name}": value for name, value in x.items()}
        found |= {f"params/{name}": fetch(value) for name, value in state.frozen.items()}
        found |= {f"aux/{name}": fetch(value) for name, value in state.aux.items()}
        found |= {
            f"constants/{n}": v for n, v in zip(self.constants, map(np.asarray, fetch(state.constants)), strict=True)
        }
        for part, value in state.optimizer.items():
            name = f"optimizer/{self.kind}/{part}"
            if self._split(value):
                found |= {f"{name}/{k}": v for k, v in self.layout.arrays(fetch(value)).items()}
            else:
                found[name] = fetch(value)
        return found

    def load(self, arrays: Mapping[str, NDArray[Any]], like: State) -> State:
        """The state of these arrays, in the names and shapes of `like`. Raises UserError for any that does not fit."""
        check(arrays, {name: value.shape for name, value in self.arrays(like).items()})
        device = str(like.x.device)

        def tensor(name: str, old: torch.Tensor) -> torch.Tensor:
            host = np.asarray(arrays[name])
            return put(host.astype(np.float64) if old.is_floating_point() else host, old.dtype, device)

        def flat(prefix: str, old: torch.Tensor) -> torch.Tensor:
            rows = {name: np.asarray(arrays[prefix + name], np.float64) for name, _ in self.layout.entries}
            return put(self.layout.flat(rows), old.dtype, device)

        prefix = f"optimizer/{self.kind}/"
        optimizer = {
            part: flat(f"{prefix}{part}/", old) if self._split(old) else tensor(prefix + part, old)
            for part, old in like.optimizer.items()
        }
        constants = np.array([float(arrays[f"constants/{n}"]) for n in self.constants], np.float64)
        return State(
            like.stage,
            flat("params/", like.x),
            {name: tensor(f"params/{name}", old) for name, old in like.frozen.items()},
            {name: tensor(f"aux/{name}", old) for name, old in like.aux.items()},
            optimizer,
            put(constants, torch.float64, device),
        )

    def _split(self, value: torch.Tensor) -> bool:
        return self.by_parameter and value.shape == (self.layout.size,)


def check(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError naming the first array that is missing, unknown or misshapen."""
    for name, shape in expected.items():
        if name not in arrays:
            raise UserError(f"the checkpoint has no array {name!r}, which this experiment needs")
        if tuple(np.shape(arrays[name])) != tuple(shape):
            found = list(np.shape(arrays[name]))
            raise UserError(
                f"the checkpoint's array {name!r} has the shape {found}; this experiment needs {list(shape)}"
            )
    for name in arrays:
        if name not in expected:
            raise UserError(f"the checkpoint's array {name!r} is unknown to this experiment{nearest(name, expected)}")


def converted(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Tensors:
    """Copies in another precision; integers and flags stay what they are."""
    return {name: x.to(dtype if x.is_floating_point() else x.dtype, copy=True) for name, x in tensors.items()}


Initial = Callable[[torch.Tensor], Tensors]
"""x -> the parts of a fresh optimizer."""
