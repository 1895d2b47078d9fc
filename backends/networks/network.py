"""What a network is: pure functions of (ops, params, h), feature axis first, no axis named.

`h` is [features, samples], an array or a Jet; parameters are a flat dict of arrays, initialised with
numpy, so both backends start from the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from backends.spec import Leaf

Params = dict[str, NDArray[np.float64]]


class Network(Leaf):
    """A network as configuration and mathematics in one: `network: {kind: …}`."""

    jets: ClassVar[bool] = True
    """Whether Jets go through `apply`; otherwise derivatives come from nested differentiation."""

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> Params:
        """Initial parameters by name (names that contain `frozen/` are not trained)."""
        raise TypeError(f"{type(self).__name__} needs a method init(rng, inputs, outputs)")

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        """[inputs, samples] -> [outputs, samples]."""
        raise TypeError(f"{type(self).__name__} needs a method apply(ops, params, h)")

    def bound(self, context: Any) -> Network:
        """This network as one call sees it: a module with buffers or dropout reads `context.aux`, `context.key` and
        `context.training`, and writes `context.updates` (`backends.task.Context`). Ours need none of it."""
        return self

    def widest(self) -> int:
        """Units of the widest layer."""
        return 64

    def aux(self) -> dict[str, NDArray[Any]]:
        """State that changes without a gradient (buffers); empty unless a user's module has some."""
        return {}


def glorot(rng: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float64]:
    """Weights [inputs, outputs], normal with variance 2 / (inputs + outputs) (Glorot and Bengio, 2010)."""
    return rng.normal(size=(inputs, outputs)) * np.sqrt(2.0 / (inputs + outputs))


def layers(rng: np.random.Generator, sizes: list[int]) -> Params:
    """Weights `w0`, `w1`, … (Glorot) and biases `b0`, `b1`, … (zero) of a chain of linear layers."""
    params: Params = {}
    for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        params[f"w{k}"], params[f"b{k}"] = glorot(rng, inputs, outputs), np.zeros(outputs)
    return params


def under(prefix: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters whose names start with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in params.items() if name.startswith(prefix)}
