"""Encoder and decoder of a variational autoencoder (Kingma and Welling, arXiv 1312.6114)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from backends.networks.mlp import MLP, Activation, Depth, Width
from backends.networks.network import Network, Params, under

ENCODER, DECODER = "encoder/", "decoder/"


class VaeNetwork(Network):
    """Two fully connected networks: x -> (mean, log variance) of a latent normal, and z -> the parameters of x."""

    kind: Literal["vae"] = "vae"
    latent: Annotated[int, Field(ge=1, le=65536)] = 8
    """Latent dimensions."""
    width: Width = 64
    """Units of each hidden layer, of the encoder and of the decoder."""
    depth: Depth = 1
    """Hidden layers, of the encoder and of the decoder each."""
    activation: Activation = "tanh"
    """Function of each hidden unit."""

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> Params:
        """Encoder: inputs -> 2 latent; decoder: latent -> outputs."""
        part = self._part()
        encoder = part.init(rng, inputs, 2 * self.latent)
        decoder = part.init(rng, self.latent, outputs)
        return {
            **{ENCODER + name: value for name, value in encoder.items()},
            **{DECODER + name: value for name, value in decoder.items()},
        }

    def encode(self, ops: Any, params: Mapping[str, Any], x: Any) -> tuple[Any, Any]:
        """x [inputs, samples] -> mean and log variance, [latent, samples] each."""
        h = self._part().apply(ops, under(ENCODER, params), x)
        return h[: self.latent], h[self.latent :]

    def decode(self, ops: Any, params: Mapping[str, Any], z: Any) -> Any:
        """z [latent, samples] -> [outputs, samples], not squashed (logits or means, as the task reads them)."""
        return self._part().apply(ops, under(DECODER, params), z)

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        """The reconstruction through the latent mean, without noise."""
        return self.decode(ops, params, self.encode(ops, params, h)[0])

    def widest(self) -> int:
        return max(self.width, 2 * self.latent)

    def _part(self) -> MLP:
        return MLP(width=self.width, depth=self.depth, activation=self.activation)
