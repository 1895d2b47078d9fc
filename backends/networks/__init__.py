"""Networks, written once: pure functions of (ops, params, h), feature axis first, no axis named.

`h` is [features, samples], an array or a Jet; parameters are a flat dict of arrays, initialised with
numpy, so both backends start from the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from backends.spec import Leaf


class Network(Leaf):
    """A network as configuration and mathematics in one: `network: {kind: …}`."""

    jets: ClassVar[bool] = True
    """Whether Jets go through `apply`; otherwise derivatives come from nested differentiation."""

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, NDArray[np.float64]]:
        """Initial parameters by name (names that contain `frozen/` are not trained)."""
        raise TypeError(f"{type(self).__name__} needs a method init(rng, inputs, outputs)")

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        """[inputs, samples] -> [outputs, samples]."""
        raise TypeError(f"{type(self).__name__} needs a method apply(ops, params, h)")

    def widest(self) -> int:
        """Units of the widest layer."""
        return 64

    def aux(self) -> dict[str, NDArray[Any]]:
        """State that changes without a gradient (buffers); empty unless a user's module has some."""
        return {}
