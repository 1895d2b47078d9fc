"""Networks, written once: pure functions of (ops, params, h) that run on arrays and on Jets, on every backend.

`network: {kind: mlp | modified_mlp | vae | custom, …}` in an experiment file.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backends.networks.custom import CustomNetwork
from backends.networks.fourier import FourierFeatures
from backends.networks.mlp import MLP, ModifiedMLP
from backends.networks.network import Network
from backends.networks.vae import VaeNetwork

__all__ = ["MLP", "CustomNetwork", "FourierFeatures", "ModifiedMLP", "Network", "NetworkSpec", "VaeNetwork"]

NetworkSpec = Annotated[MLP | ModifiedMLP | VaeNetwork | CustomNetwork, Field(discriminator="kind")]
"""A network as the experiment file describes it."""
