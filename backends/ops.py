"""The array functions that tasks, networks and optimizers may use, whatever framework runs.

Names and semantics are numpy's unless said. `backends.jax.ops` and `backends.torch.ops` implement the
protocol; `NumpyOps` below is the reference (recorders, finite-difference checks, tests). Operators
(`+ - * / ** @ == < & | ^ ~ >> [] .T .shape .dtype .ndim`) are the arrays' own. Arrays made from nothing take
their dtype and device from `like`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Array = Any


class Scalars(Protocol):
    """Arithmetic on the few numbers that steer control flow (a line search).

    In JAX these are traced 0-d arrays (float64, bool) and the functions are jax.numpy's; elsewhere Python floats and
    bools on the host, which cost a tenth of 0-d tensors. Flags combine with `&` and `|`; `~` is not to be used (on a
    Python bool it is an integer).
    """

    def get(self, x: Any) -> Any:
        """A 0-d array or a Python number as such a scalar: bools stay bools, all else becomes float64."""
        ...

    def put(self, x: Any, like: Array) -> Array:
        """The number as a 0-d array with the dtype and device of `like`."""
        ...

    def where(self, flag: Any, x: Any, y: Any) -> Any:
        """x or y, whole: scalars or arrays."""
        ...

    def invert(self, flag: Any) -> Any: ...
    def minimum(self, x: Any, y: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def abs(self, x: Any) -> Any: ...
    def sqrt(self, x: Any) -> Any:
        """The root of a number that is not negative."""
        ...

    def isfinite(self, x: Any) -> Any: ...


class HostScalars:
    """`Scalars` on the host, for numpy and torch (`put` is the framework's)."""

    minimum, maximum, abs = staticmethod(min), staticmethod(max), staticmethod(abs)
    sqrt, isfinite, invert = staticmethod(math.sqrt), staticmethod(math.isfinite), staticmethod(operator.not_)

    @staticmethod
    def get(x: Any) -> Any:
        value = x.item() if hasattr(x, "item") else x
        return value if isinstance(value, bool) else float(value)

    @staticmethod
    def put(x: Any, like: Array) -> Array:
        return np.asarray(x, like.dtype)

    @staticmethod
    def where(flag: Any, x: Any, y: Any) -> Any:
        return x if flag else y


class Ops(Protocol):
    """What every backend offers."""

    @property
    def scalars(self) -> Scalars: ...

    # --- elementwise ---
    def tanh(self, x: Array) -> Array: ...
    def sin(self, x: Array) -> Array: ...
    def cos(self, x: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def abs(self, x: Array) -> Array: ...
    def erf(self, x: Array) -> Array: ...
    def sigmoid(self, x: Array) -> Array: ...
    def gelu(self, x: Array) -> Array:
        """x * Phi(x), the exact form."""
        ...

    def silu(self, x: Array) -> Array:
        """x * sigmoid(x)."""
        ...

    def softplus(self, x: Array) -> Array: ...
    def relu(self, x: Array) -> Array: ...
    def maximum(self, x: Array, y: Array) -> Array: ...
    def minimum(self, x: Array, y: Array) -> Array: ...
    def where(self, condition: Array, x: Array, y: Array) -> Array: ...
    def isfinite(self, x: Array) -> Array: ...

    # --- shape ---
    def reshape(self, x: Array, shape: Sequence[int]) -> Array: ...
    def broadcast_to(self, x: Array, shape: Sequence[int]) -> Array: ...
    def stack(self, xs: Sequence[Array], axis: int = 0) -> Array: ...
    def concat(self, xs: Sequence[Array], axis: int = 0) -> Array: ...
    def unstack(self, x: Array, axis: int = 0) -> list[Array]:
        """The slices along `axis`, through ONE operation whose backward is one concatenation."""
        ...

    def features(self, parts: Sequence[Array]) -> Array:
        """Arrays (or Jets) [features, samples] joined along the feature axis."""
        ...

    def taken(self, x: Array, places: Array) -> Array:
        """x[places], for places that follow on one another (integers [n], n of them in a row)."""
        ...

    def placed(self, x: Array, places: Array, like: Array) -> Array:
        """Zeros in the form of `like` with x at such places."""
        ...

    # --- linear algebra and reductions ---
    def matmul(self, x: Array, y: Array) -> Array: ...
    def outer(self, x: Array, y: Array) -> Array: ...
    def linear(self, h: Array, w: Array, b: Array | None = None) -> Array:
        """w.T @ h (+ b): h is [inputs, samples] (array or Jet), w [inputs, outputs], b [outputs]."""
        ...

    def cholesky_solve(self, A: Array, b: Array) -> Array:
        """x [n] with A x = b for symmetric A [n, n]; NaN throughout where A is not positive definite."""
        ...

    def eigh(self, A: Array) -> tuple[Array, Array]:
        """Eigenvalues [n], ascending, and eigenvectors [n, n] in columns, of symmetric A; NaN where A is not finite."""
        ...

    def sum(self, x: Array, axis: int | None = None) -> Array: ...
    def mean(self, x: Array, axis: int | None = None) -> Array: ...
    def max(self, x: Array, axis: int | None = None) -> Array: ...
    def any(self, x: Array) -> Array: ...
    def all(self, x: Array) -> Array: ...

    # --- creation and types ---
    def zeros(self, shape: Sequence[int], like: Array) -> Array: ...
    def ones(self, shape: Sequence[int], like: Array) -> Array: ...
    def eye(self, n: int, like: Array) -> Array: ...
    def astype(self, x: Array, like: Array) -> Array:
        """x with the dtype of `like`."""
        ...

    def to_int64(self, x: Array) -> Array: ...
    def to_float32(self, x: Array) -> Array: ...
    def stop_gradient(self, x: Array) -> Array: ...

    # --- control flow (lax in JAX, Python in torch and numpy) ---
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any: ...
    def cond(self, predicate: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any: ...

    # --- derivative channels ---
    def activation(self, name: str, plan: Any, channels: Sequence[Array | None]) -> list[Array | None]:
        """The channels of f(z) from those of z, with a hand-written backward (`backends.derivatives.jets`)."""
        ...

    def nested(self, fn: Callable[[Array], Array], points: Array, indices: Sequence[tuple[int, ...]]) -> list[Array]:
        """Derivatives of a function without Jets, by nested differentiation of the framework.

        fn: [coordinates, samples] -> [outputs, samples], each sample for itself. Returns, for each index (a tuple of
        coordinate numbers; () is the value), an array [outputs, samples].
        """
        ...


class NumpyOps:
    """The protocol in numpy, float64; no gradients."""

    scalars = HostScalars()

    tanh, sin, cos, exp, log, sqrt, abs = np.tanh, np.sin, np.cos, np.exp, np.log, np.sqrt, np.abs
    maximum, minimum, isfinite, matmul = np.maximum, np.minimum, np.isfinite, np.matmul
    # numpy's functions that are no ufuncs would bind to the instance.
    where, reshape, broadcast_to = staticmethod(np.where), staticmethod(np.reshape), staticmethod(np.broadcast_to)
    stack, outer, sum = staticmethod(np.stack), staticmethod(np.outer), staticmethod(np.sum)
    mean, max, any, all = staticmethod(np.mean), staticmethod(np.max), staticmethod(np.any), staticmethod(np.all)

    @staticmethod
    def erf(x: Array) -> Array:
        from scipy.special import erf

        return erf(x)

    @staticmethod
    def sigmoid(x: Array) -> Array:
        return 0.5 * (1.0 + np.tanh(0.5 * x))

    def gelu(self, x: Array) -> Array:
        return 0.5 * x * (1.0 + self.erf(x * np.sqrt(0.5)))

    def silu(self, x: Array) -> Array:
        return x * self.sigmoid(x)

    @staticmethod
    def softplus(x: Array) -> Array:
        return np.logaddexp(x, 0.0)

    @staticmethod
    def relu(x: Array) -> Array:
        return np.maximum(x, 0.0)

    @staticmethod
    def concat(xs: Sequence[Array], axis: int = 0) -> Array:
        return np.concatenate(xs, axis)

    @staticmethod
    def features(parts: Sequence[Array]) -> Array:
        return np.concatenate(parts, 0)

    @staticmethod
    def unstack(x: Array, axis: int = 0) -> list[Array]:
        return list(np.moveaxis(x, axis, 0))

    @staticmethod
    def taken(x: Array, places: Array) -> Array:
        return x[places]

    @staticmethod
    def placed(x: Array, places: Array, like: Array) -> Array:
        out = np.zeros(like.shape, like.dtype)
        out[places] = x
        return out

    @staticmethod
    def linear(h: Array, w: Array, b: Array | None = None) -> Array:
        z = w.T @ h
        return z if b is None else z + b[:, None]

    @staticmethod
    def cholesky_solve(A: Array, b: Array) -> Array:
        from scipy.linalg import cho_factor, cho_solve

        try:
            return cho_solve(cho_factor(A, lower=True, check_finite=False), b, check_finite=False)
        except np.linalg.LinAlgError:
            return np.full_like(b, np.nan)

    @staticmethod
    def eigh(A: Array) -> tuple[Array, Array]:
        if not np.isfinite(A).all():
            return np.full_like(A[0], np.nan), np.full_like(A, np.nan)
        values, vectors = np.linalg.eigh(A)
        return values, vectors

    @staticmethod
    def zeros(shape: Sequence[int], like: Array) -> Array:
        return np.zeros(shape, like.dtype)

    @staticmethod
    def ones(shape: Sequence[int], like: Array) -> Array:
        return np.ones(shape, like.dtype)

    @staticmethod
    def eye(n: int, like: Array) -> Array:
        return np.eye(n, dtype=like.dtype)

    @staticmethod
    def astype(x: Array, like: Array) -> Array:
        return np.asarray(x).astype(like.dtype)

    @staticmethod
    def to_int64(x: Array) -> Array:
        return np.asarray(x).astype(np.int64)

    @staticmethod
    def to_float32(x: Array) -> Array:
        return np.asarray(x).astype(np.float32)

    @staticmethod
    def stop_gradient(x: Array) -> Array:
        return x

    @staticmethod
    def while_loop(condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        while condition(state):
            state = body(state)
        return state

    @staticmethod
    def cond(predicate: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return yes() if predicate else no()

    def activation(self, name: str, plan: Any, channels: Sequence[Array | None]) -> list[Array | None]:
        from backends.derivatives.jets import forward

        return forward(name, plan, self, channels)

    @staticmethod
    def nested(fn: Callable[[Array], Array], points: Array, indices: Sequence[tuple[int, ...]]) -> list[Array]:
        """Central differences, good to about six digits at first and four at second order."""

        def derivative(index: tuple[int, ...], x: Array) -> Array:
            if len(index) == 0:
                return fn(x)
            first, *rest = index
            step = np.zeros((x.shape[0], 1))
            step[first] = 1e-4 ** (1 / len(index)) if len(index) > 2 else 1e-4
            return (derivative(tuple(rest), x + step) - derivative(tuple(rest), x - step)) / (2 * step[first])

        return [derivative(tuple(i), points) for i in indices]
