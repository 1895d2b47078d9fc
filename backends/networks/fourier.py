"""Random Fourier features: the first layer of a network that has to resolve high frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from backends.spec import Leaf

FREQUENCIES = "frozen/frequencies"


class FourierFeatures(Leaf):
    """h -> [sin(2 pi B' h), cos(2 pi B' h)] with fixed random B [inputs, count] (arXiv 2006.10739)."""

    count: Annotated[int, Field(ge=1, le=65536)] = 64
    """Frequencies; the network sees twice as many features."""
    scale: PositiveFloat = 1.0
    """Standard deviation of the frequencies, in oscillations per unit of an input (inputs are scaled to [-1, 1])."""

    def init(self, rng: np.random.Generator, inputs: int) -> dict[str, NDArray[np.float64]]:
        """The angular frequencies 2 pi B, which are not trained."""
        return {FREQUENCIES: rng.normal(size=(inputs, self.count)) * (2.0 * np.pi * self.scale)}

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        """[inputs, samples] -> [2 count, samples]."""
        angle = ops.linear(h, params[FREQUENCIES])
        return ops.features([ops.sin(angle), ops.cos(angle)])
