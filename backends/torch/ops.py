"""`backends.ops.Ops` in torch.

Where an argument is a plain number, the answer is one too (or, beside a tensor, a tensor of its type): the texts of
tasks and networks may mix them freely, as they do in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from backends.ops import HostScalars, NumpyOps
from backends.torch import rules
from backends.torch.nested import nested

Tensor = torch.Tensor
Array = Any

_NUMPY = NumpyOps()


class TorchScalars(HostScalars):
    """The numbers that steer a line search, as Python floats."""

    @staticmethod
    def put(x: Any, like: Tensor) -> Tensor:
        dtype = torch.bool if isinstance(x, bool) else like.dtype
        return torch.full((), x, dtype=dtype, device=like.device)


def _elementwise(name: str, fn: Callable[[Tensor], Tensor]) -> Any:
    def apply(x: Array) -> Array:
        return fn(x) if isinstance(x, Tensor) else float(getattr(_NUMPY, name)(x))

    apply.__name__ = name
    return staticmethod(apply)


def _pair(x: Array, y: Array) -> tuple[Tensor, Tensor]:
    """Both as tensors; a number takes type and device of the other one."""
    if isinstance(x, Tensor) and not isinstance(y, Tensor):
        return x, torch.full((), y, dtype=torch.result_type(x, y), device=x.device)
    if isinstance(y, Tensor) and not isinstance(x, Tensor):
        return torch.full((), x, dtype=torch.result_type(y, x), device=y.device), y
    return x, y


class TorchOps:
    """The protocol in torch; gradients are autograd's."""

    scalars = TorchScalars()

    tanh, sin, cos = _elementwise("tanh", torch.tanh), _elementwise("sin", torch.sin), _elementwise("cos", torch.cos)
    exp, log, sqrt = _elementwise("exp", torch.exp), _elementwise("log", torch.log), _elementwise("sqrt", torch.sqrt)
    abs, erf = _elementwise("abs", torch.abs), _elementwise("erf", torch.erf)
    sigmoid, relu = _elementwise("sigmoid", torch.sigmoid), _elementwise("relu", torch.relu)
    gelu = _elementwise("gelu", lambda x: 0.5 * x * (1.0 + torch.erf(x * 0.5**0.5)))
    silu = _elementwise("silu", lambda x: x * torch.sigmoid(x))
    # torch's own softplus is linear above 20: wrong by 2e-9 there.
    softplus = _elementwise("softplus", lambda x: -functional.logsigmoid(-x))

    @staticmethod
    def maximum(x: Array, y: Array) -> Array:
        x, y = _pair(x, y)
        return torch.maximum(x, y) if isinstance(x, Tensor) else max(x, y)

    @staticmethod
    def minimum(x: Array, y: Array) -> Array:
        x, y = _pair(x, y)
        return torch.minimum(x, y) if isinstance(x, Tensor) else min(x, y)

    @staticmethod
    def where(condition: Array, x: Array, y: Array) -> Array:
        return torch.where(condition, x, y) if isinstance(condition, Tensor) else x if condition else y

    @staticmethod
    def isfinite(x: Array) -> Array:
        return torch.isfinite(x) if isinstance(x, Tensor) else bool(_NUMPY.isfinite(x))

    @staticmethod
    def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.reshape(x, _shape(shape))

    @staticmethod
    def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.broadcast_to(x, _shape(shape))

    @staticmethod
    def stack(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return torch.stack(list(xs), axis)

    @staticmethod
    def concat(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return torch.cat(list(xs), axis)

    @staticmethod
    def unstack(x: Tensor, axis: int = 0) -> list[Tensor]:
        return list(torch.unbind(x, axis))

    @staticmethod
    def features(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), 0)

    @staticmethod
    def taken(x: Tensor, places: Tensor) -> Tensor:
        return x[places]

    @staticmethod
    def placed(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
        return torch.zeros_like(like).index_copy(0, places, x.to(like.dtype))

    matmul, outer = staticmethod(torch.matmul), staticmethod(torch.outer)

    @staticmethod
    def linear(h: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        z = w.T @ h
        return z if b is None else z + b[:, None]

    @staticmethod
    def sum(x: Tensor, axis: int | None = None) -> Tensor:
        return torch.sum(x) if axis is None else torch.sum(x, axis)

    @staticmethod
    def mean(x: Tensor, axis: int | None = None) -> Tensor:
        return torch.mean(x) if axis is None else torch.mean(x, axis)

    @staticmethod
    def max(x: Tensor, axis: int | None = None) -> Tensor:
        return torch.amax(x) if axis is None else torch.amax(x, axis)

    @staticmethod
    def any(x: Array) -> Array:
        return torch.any(x) if isinstance(x, Tensor) else bool(x)

    @staticmethod
    def all(x: Array) -> Array:
        return torch.all(x) if isinstance(x, Tensor) else bool(x)

    @staticmethod
    def cholesky_solve(A: Tensor, b: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(A)
        found = torch.cholesky_solve(b[:, None], factor)[:, 0]
        return torch.where(info == 0, found, torch.full_like(b, torch.nan))

    @staticmethod
    def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
        finite = torch.isfinite(A).all()  # what is not finite would raise
        values, vectors = torch.linalg.eigh(torch.where(finite, A, torch.zeros_like(A)))
        bad = torch.full_like(values, torch.nan)
        return torch.where(finite, values, bad), torch.where(finite, vectors, bad)

    @staticmethod
    def zeros(shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.zeros(_shape(shape), dtype=like.dtype, device=like.device)

    @staticmethod
    def ones(shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.ones(_shape(shape), dtype=like.dtype, device=like.device)

    @staticmethod
    def eye(n: int, like: Tensor) -> Tensor:
        """By comparison, which fuses into what reads it; `torch.eye` is written to memory first."""
        row = torch.arange(n, device=like.device)
        return (row[:, None] == row).to(like.dtype)

    @staticmethod
    def astype(x: Array, like: Tensor) -> Tensor:
        if isinstance(x, np.ndarray) and x.ndim:
            return torch.as_tensor(x, dtype=like.dtype, device=like.device)
        return x.to(like.dtype) if isinstance(x, Tensor) else TorchScalars.put(x, like)

    @staticmethod
    def to_int64(x: Array) -> Tensor:
        return x.to(torch.int64) if isinstance(x, Tensor) else torch.full((), int(x), dtype=torch.int64)

    @staticmethod
    def to_float32(x: Array) -> Tensor:
        return x.to(torch.float32) if isinstance(x, Tensor) else torch.full((), float(x), dtype=torch.float32)

    @staticmethod
    def stop_gradient(x: Array) -> Array:
        return x.detach() if isinstance(x, Tensor) else x

    @staticmethod
    def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
        while condition(state):
            state = body(state)
        return state

    @staticmethod
    def cond(predicate: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return yes() if predicate else no()

    def activation(self, name: str, plan: Any, channels: Sequence[Tensor | None]) -> list[Tensor | None]:
        return rules.activation(self, name, plan, channels)

    nested = staticmethod(nested)


def _shape(shape: Sequence[int] | int) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


OPS = TorchOps()
"""The one instance: rules of activations are cached by it."""
