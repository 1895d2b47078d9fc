"""A user's own torch.nn.Module as a network: its parameters by name, its buffers in `aux`, its noise seeded per step.

The module itself keeps no state of the training: parameters and buffers are handed to it for each call
(torch.func.functional_call), so that they live in checkpoints like those of any other network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PrivateAttr, ValidationError
from torch import nn

from backends.blame import place
from backends.errors import OwnCodeFailed, UserError, nearest
from backends.networks import Network
from backends.task import FROZEN, Context

Tensor = torch.Tensor
SIZES = {"inputs": "inputs", "in_features": "inputs", "outputs": "outputs", "out_features": "outputs"}
"""Arguments of a target that say how many numbers go in and out: filled in where the file does not."""


def adapt(target: Any, fields: Mapping[str, Any]) -> Network:
    """The network that `target` describes: a torch.nn.Module class, a function that makes a module, or a Network.

    `fields` are the file's own keys. Raises UserError where the target does not take them.
    """
    name = getattr(target, "__name__", type(target).__name__)
    if isinstance(target, type) and issubclass(target, Network):
        try:
            return target(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or name
            raise UserError(f"{name}: {where}: {first['msg']}", path="network") from error
    if isinstance(target, Network):
        return target
    if isinstance(target, nn.Module) or not callable(target):
        raise UserError(
            f"the target of the network is {_described(target)}; give a class derived from torch.nn.Module, or a "
            "function that returns a module",
            path="network.target",
        )
    if isinstance(target, type) and not issubclass(target, nn.Module):
        raise UserError(
            f"the class {name} is no torch.nn.Module, so the torch backend can't train it; derive it from "
            "torch.nn.Module, or write it as a backends.networks.Network for both backends",
            path="network.target",
        )
    return ModuleNetwork.of(target, name, fields)


class ModuleNetwork(Network):
    """A module with its fields. It is made by `init`, which knows the number of inputs and outputs."""

    jets: ClassVar[bool] = False
    _name: str = PrivateAttr("")
    _make: Callable[[int, int], nn.Module] | None = PrivateAttr(None)
    _module: nn.Module | None = PrivateAttr(None)
    _outputs: int = PrivateAttr(0)
    _context: Context | None = PrivateAttr(None)

    @classmethod
    def of(cls, target: Callable[..., Any], name: str, fields: Mapping[str, Any]) -> ModuleNetwork:
        """The network of a module class or factory. Raises UserError where it does not take these fields."""
        network = cls()
        network._name, network._make = name, _maker(target, name, dict(fields))
        return network

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, NDArray[np.float64]]:
        """The module's own initial parameters, drawn by torch from a seed of `rng`; those that need no gradient are
        called `frozen/…`."""
        assert self._make is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            module = self._make(inputs, outputs)
        self._module, self._outputs = module, outputs
        named = dict(module.named_parameters())
        lazy = [name for name, p in named.items() if isinstance(p, nn.parameter.UninitializedParameter)]
        if lazy:
            raise UserError(f"{self._name}: the parameter {lazy[0]!r} has no shape yet; use layers that are not lazy")
        if not any(p.requires_grad for p in named.values()):
            raise UserError(f"{self._name} has no parameters that could be trained", path="network.target")
        return {_stored(name, p): p.detach().double().cpu().numpy().copy() for name, p in named.items()}

    def aux(self) -> dict[str, NDArray[Any]]:
        """The module's buffers."""
        buffers = self._made().named_buffers()
        return {name: (b.double() if b.is_floating_point() else b).detach().cpu().numpy().copy() for name, b in buffers}

    def bound(self, context: Context) -> ModuleNetwork:
        """This network with the buffers of `context`, in training or not; in training it writes new buffers there."""
        network = self.model_copy()
        network._context = context
        return network

    def apply(self, ops: Any, params: Mapping[str, Any], h: Tensor) -> Tensor:
        """[inputs, samples] -> [outputs, samples]; the module itself sees [samples, inputs]."""
        module, context = self._made(), self._context
        parameters = {name: params[_stored(name, p)] for name, p in module.named_parameters()}
        buffers = self._buffers(h)
        training = context is not None and context.training
        module.train(training)
        given = {**parameters, **buffers}
        try:
            # One by one: a buffer that the module replaces is written back into `given`.
            out = torch.func.functional_call(module, given, (h.T,))
        except Exception as error:
            raise OwnCodeFailed(
                f"{place(error)}the network {self._name} raised {type(error).__name__} for an input of the shape "
                f"[samples, inputs] = {list(h.T.shape)}, {str(h.dtype).removeprefix('torch.')}: {error}"
            ) from error
        if training and context is not None:
            context.updates.update({name: given[name] for name in buffers})
        return self._checked(out, h)

    def widest(self) -> int:
        """The largest side of any weight matrix."""
        sizes = [n for p in (self._module.parameters() if self._module else ()) if p.ndim > 1 for n in p.shape[:2]]
        return max(sizes, default=64)

    def _made(self) -> nn.Module:
        if self._module is None:
            raise RuntimeError(f"the module {self._name} is made by init(rng, inputs, outputs), which was not called")
        return self._module

    def _buffers(self, h: Tensor) -> dict[str, Tensor]:
        """Copies of the buffers, which the module may write into; its first ones where no context is bound."""
        known = self._context.aux if self._context is not None else {}
        return {
            name: known[name].clone() if name in known else b.to(h.dtype if b.is_floating_point() else b.dtype).clone()
            for name, b in self._made().named_buffers()
        }

    def _checked(self, out: Any, h: Tensor) -> Tensor:
        samples = h.shape[1]
        if isinstance(out, Tensor) and tuple(out.shape) == (samples, self._outputs):
            return out.T
        if isinstance(out, Tensor) and tuple(out.shape) == (samples,) and self._outputs == 1:
            return out[None]
        found = f"a tensor of the shape {list(out.shape)}" if isinstance(out, Tensor) else _described(out)
        raise UserError(
            f"the network {self._name} returned {found} for an input of the shape {[samples, h.shape[0]]}; "
            f"forward must return a tensor [samples, outputs] = {[samples, self._outputs]}",
            path="network.target",
        )


def _maker(target: Callable[..., Any], name: str, fields: dict[str, Any]) -> Callable[[int, int], nn.Module]:
    """(inputs, outputs) -> the module."""
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [k for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in fields:
        if key not in named and not takes_any:
            raise UserError(f"{name} takes no {key!r}{nearest(key, named)}", path=f"network.{key}")
    sizes = [k for k in SIZES if k in named and k not in fields]
    for key, p in parameters.items():
        if key in named and key not in fields and key not in sizes and p.default is p.empty:
            raise UserError(f"{name} needs a value for {key!r}: write `{key}: …` under network", path="network")

    def make(inputs: int, outputs: int) -> nn.Module:
        known = {"inputs": inputs, "outputs": outputs}
        try:
            module = target(**fields, **{k: known[SIZES[k]] for k in sizes})
        except Exception as error:
            raise OwnCodeFailed(
                f"{place(error)}making the network {name} raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise UserError(f"{name} returned {_described(module)}, not a torch.nn.Module", path="network.target")
        return module

    return make


def _stored(name: str, parameter: Tensor) -> str:
    return name if parameter.requires_grad else FROZEN + name


def _described(value: Any) -> str:
    return "nothing (None)" if value is None else f"an object of the type {type(value).__name__}"
