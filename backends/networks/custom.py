"""The user's own network as the experiment file names it; the worker loads it (`backends.own.code`)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from backends.networks.network import Network

_TARGET = r"^[^:\s][^:]*:[A-Za-z_][A-Za-z0-9_.]*$"


class CustomNetwork(Network):
    """`{kind: custom, target: "mine.py:Net", …}`: a torch.nn.Module, a flax or equinox module, or a plain function.

    All other keys are handed to the target, which checks them itself.
    """

    model_config = ConfigDict(extra="allow")
    jets: ClassVar[bool] = False

    kind: Literal["custom"] = "custom"
    target: Annotated[str, Field(pattern=_TARGET)]
    """`mine.py:Net` (a file beside the experiment file) or `package.module:Object`."""

    @property
    def fields(self) -> dict[str, Any]:
        """The target's own keys."""
        return dict(self.model_extra or {})
