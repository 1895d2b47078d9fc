"""A user's torch.nn.Module and loss as a task trains them (`backends.own.model`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from backends.blame import told
from backends.errors import UserError
from backends.own.model import Loss, compared, described, outputs_of, pair_of
from backends.task import FROZEN, Context
from backends.torch.device import own_generator

Tensor = torch.Tensor


def own_model(model: Any, example: Any = None) -> TorchModel:
    """The adapter of a module. Raises UserError where there is nothing to train."""
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is {described(model)}; the torch backend trains a torch.nn.Module", path="model")
    return TorchModel(model)


def randomness(argument: str, seed: int) -> Any:
    """What an argument of a user's method is given: a number for `seed`, else a torch.Generator."""
    return seed if argument == "seed" else torch.Generator().manual_seed(seed)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without a gradient."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


class _Calling(nn.Module):
    """So that torch.func.functional_call, which calls modules, can hand numbers to a whole loss function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.model)


class TorchModel:
    """The module keeps no state of the training; `trained` writes into it."""

    def __init__(self, model: nn.Module) -> None:
        self.name, self.module, self._calling = type(model).__name__, model, _Calling(model)
        named = dict(model.named_parameters())
        lazy = [name for name, p in named.items() if isinstance(p, nn.parameter.UninitializedParameter)]
        if lazy:
            raise UserError(f"{self.name}: the parameter {lazy[0]!r} has no shape yet; call the model once before")
        if not any(p.requires_grad for p in named.values()):
            what = "are all frozen (requires_grad=False)" if named else "are missing"
            raise UserError(f"the parameters of {self.name} {what}: there is nothing to train", path="model")
        if odd := [name for name, p in named.items() if not p.is_floating_point()]:
            raise UserError(f"{self.name}: the parameter {odd[0]!r} is {named[odd[0]].dtype}, not a real number")
        self._stored = {name: name if p.requires_grad else FROZEN + name for name, p in named.items()}

    def params(self) -> dict[str, NDArray[np.float64]]:
        """Parameters by name; those that need no gradient are called `frozen/…`."""
        named = self.module.named_parameters()
        return {self._stored[name]: p.detach().double().cpu().numpy().copy() for name, p in named}

    def aux(self) -> dict[str, NDArray[Any]]:
        """The module's buffers."""
        buffers = self.module.named_buffers()
        return {name: (b.double() if b.is_floating_point() else b).detach().cpu().numpy().copy() for name, b in buffers}

    def call(
        self, loss: Loss, params: Mapping[str, Tensor], batch: Any, context: Context
    ) -> tuple[Any, dict[str, Tensor]]:
        """(what the loss returns, new buffers). torch's generator is seeded by whoever runs the step: `rng` is None."""
        buffers = {name: context.aux[name].clone() for name, _ in self.module.named_buffers()}
        given = {f"model.{name}": params[stored] for name, stored in self._stored.items()}
        given |= {f"model.{name}": value for name, value in buffers.items()}
        was = self.module.training
        self.module.train(context.training)
        try:
            with told(loss.name, lambda: f" for the batch {described(batch)}"):
                result = torch.func.functional_call(
                    self._calling, given, (lambda model: self._result(loss, model, params, batch, context),)
                )
        finally:
            self.module.train(was)
        return result, {name: given[f"model.{name}"] for name in buffers}

    def _result(self, loss: Loss, model: nn.Module, params: Mapping[str, Tensor], batch: Any, context: Context) -> Any:
        if loss.style == "outputs":
            return outputs_of(model, batch)
        if loss.style == "pair":
            x, y = pair_of(batch, loss)
            out = model(x)
            return (
                compared(loss.function, out, y, _Functions) if isinstance(loss.function, str) else loss.function(out, y)
            )
        if loss.style == "params":
            subject: Any = {name: params[stored] for name, stored in self._stored.items()}
        else:
            subject = model
        return loss.run(subject, batch, None, context.key[1], context.training)

    def shapes(
        self, function: Callable[..., dict[str, Tensor]], columns: Mapping[str, NDArray[Any]]
    ) -> dict[str, tuple[int, ...]]:
        """By calling it once, without a gradient, on copies of the buffers."""
        dtype = torch.float32

        def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
            kinds = {"f": dtype, "b": torch.bool}
            return {k: torch.tensor(v, dtype=kinds.get(v.dtype.kind, torch.int64)) for k, v in arrays.items()}

        with torch.no_grad(), own_generator(torch.device("cpu")):
            found = function(tensors(self.params()), tensors(columns), tensors(self.aux()))
        return {name: tuple(value.shape) for name, value in found.items()}

    def trained(self, params: Mapping[str, NDArray[Any]], aux: Mapping[str, NDArray[Any]]) -> nn.Module:
        """The module itself, with these numbers."""
        with torch.no_grad():
            for name, p in self.module.named_parameters():
                p.copy_(torch.from_numpy(np.array(params[self._stored[name]])))
            for name, b in self.module.named_buffers():
                b.copy_(torch.from_numpy(np.array(aux[name])))
        return self.module


class _Functions:
    """What `compared` needs, per sample."""

    abs = staticmethod(torch.abs)
    softplus = staticmethod(functional.softplus)

    @staticmethod
    def sum(x: Tensor) -> Tensor:
        return x.sum(1)

    @staticmethod
    def mean(x: Tensor) -> Tensor:
        return x.mean(1)

    @staticmethod
    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        # torch wants the classes on the second axis; further axes (pixels, tokens) are averaged.
        losses = functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        return losses.reshape(losses.shape[0], -1).mean(1)
