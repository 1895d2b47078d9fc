"""The fully connected network, plain and with the two gates of Wang, Teng and Perdikaris."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from backends.networks.fourier import FourierFeatures
from backends.networks.network import Network, Params, glorot, layers

Activation = Literal["tanh", "sin", "gelu", "silu", "relu"]
Width = Annotated[int, Field(ge=1, le=65536)]
Depth = Annotated[int, Field(ge=1, le=100)]


class _Connected(Network):
    """Hidden layers of one width, between optional Fourier features and a linear layer."""

    width: Width = 64
    """Units of each hidden layer."""
    depth: Depth = 4
    """Hidden layers."""
    activation: Activation = "tanh"
    """Function of each hidden unit; all but relu suit equations of second order and above."""
    features: FourierFeatures | None = None
    """Random Fourier features of the inputs in front of the first layer; default: the inputs themselves."""

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> Params:
        front = self.features.init(rng, inputs) if self.features else {}
        return {**front, **layers(rng, [self._seen(inputs), *[self.width] * self.depth, outputs])}

    def widest(self) -> int:
        return max(self.width, self._seen(1))

    def _seen(self, inputs: int) -> int:
        """Features that the first layer sees."""
        return 2 * self.features.count if self.features else inputs

    def _front(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        return self.features.apply(ops, params, h) if self.features else h

    def hidden(self, ops: Any, params: Mapping[str, Any], h: Any) -> Iterator[Any]:
        """What every hidden layer gives, [width, samples] each, in order."""
        raise TypeError(f"{type(self).__name__} needs a method hidden(ops, params, h)")

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        for layer in self.hidden(ops, params, h):
            h = layer
        return self._out(ops, params, h)

    def _out(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        return ops.linear(h, params[f"w{self.depth}"], params[f"b{self.depth}"])


class MLP(_Connected):
    """h_k = f(W_k' h_(k-1) + b_k), and a linear layer at the end."""

    kind: Literal["mlp"] = "mlp"

    def hidden(self, ops: Any, params: Mapping[str, Any], h: Any) -> Iterator[Any]:
        f = getattr(ops, self.activation)
        h = self._front(ops, params, h)
        for k in range(self.depth):
            h = f(ops.linear(h, params[f"w{k}"], params[f"b{k}"]))
            yield h


class ModifiedMLP(_Connected):
    """Every hidden layer mixes two encodings u, v of the input: h = z u + (1 - z) v (arXiv 2001.04536).

    Resolves steep solutions better than the plain network, at the price of one more product per layer.
    """

    kind: Literal["modified_mlp"] = "modified_mlp"

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> Params:
        params = super().init(rng, inputs, outputs)
        for gate in "uv":
            params[f"w_{gate}"] = glorot(rng, self._seen(inputs), self.width)
            params[f"b_{gate}"] = np.zeros(self.width)
        return params

    def hidden(self, ops: Any, params: Mapping[str, Any], h: Any) -> Iterator[Any]:
        f = getattr(ops, self.activation)
        h = self._front(ops, params, h)
        u, v = (f(ops.linear(h, params[f"w_{gate}"], params[f"b_{gate}"])) for gate in "uv")
        difference = u - v
        for k in range(self.depth):
            z = f(ops.linear(h, params[f"w{k}"], params[f"b{k}"]))
            h = z * difference + v  # one product instead of two: z u + (1 - z) v
            yield h
