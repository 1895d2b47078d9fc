"""f, f', f'', … of the scalar functions that derivative channels pass through, generated to any order.

`tower(name, ops, z, n)` returns the n + 1 arrays f(z), f'(z), …, f^(n)(z). Sources: tanh and sigmoid satisfy
f' = 1 - f² and f' = f (1 - f), so every derivative is a polynomial in f times f'; derivatives of a Gaussian are
Hermite polynomials times that Gaussian (erf, gelu); products with z follow Leibniz (silu, gelu).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from backends.errors import UserError, nearest

Array = Any
Tower = list[Any]
"""f, f', …: arrays, or None for a derivative that vanishes identically."""
Polynomial = tuple[float, ...]
"""Coefficients, constant first."""


def tower(name: str, ops: Any, z: Any, n: int, value: Any = None) -> Tower:
    """f(z), f'(z), …, f^(n)(z). `value` is f(z) where it is known; `z` may be None where `saves_value(name)`.

    Raises UserError where the function is unknown.
    """
    if name not in _TOWERS:
        raise UserError(f"activation: {name!r} has no derivatives here{nearest(name, _TOWERS)}")
    return _TOWERS[name](ops, z, n, value)


def power(z: Array, exponent: Any, n: int) -> Tower:
    """z^p and its n derivatives, by separate powers: z^p / z would be 0/0 where z is 0 and p > 1."""
    out: Tower = [z**exponent]
    factor: Any = 1.0
    for k in range(n):
        factor = factor * (exponent - k)
        out.append(factor * z ** (exponent - k - 1))
    return out


def saves_value(name: str) -> bool:
    """Whether every derivative follows from f(z) alone, so that a backward pass need not keep z."""
    return name in _FROM_VALUE


def smooth(name: str) -> bool:
    """Whether f has derivatives of every order (relu and abs have one, almost everywhere)."""
    return name not in _KINKED


def _tanh(ops: Any, z: Array, n: int, a: Any) -> Tower:
    a = ops.tanh(z) if a is None else a
    return [a] if n == 0 else [a, *_times_polynomials(1 - a * a, a, [_tanh_polynomial(k) for k in range(1, n + 1)])]


def _sigmoid(ops: Any, z: Array, n: int, a: Any) -> Tower:
    """sigmoid(z) = (1 + tanh(z / 2)) / 2: the k-th derivative is 2^-(k+1) times tanh's at b = 2 a - 1."""
    a = ops.sigmoid(z) if a is None else a
    if n == 0:
        return [a]
    rows = [tuple(c * 2.0 ** (1 - k) for c in _tanh_polynomial(k)) for k in range(1, n + 1)]
    return [a, *_times_polynomials(a * (1 - a), 2 * a - 1, rows)]


def _sine(shift: int) -> Callable[[Any, Array, int, Array | None], Tower]:
    def sine(ops: Any, z: Array, n: int, a: Any) -> Tower:
        if n == 0:
            return [(ops.sin(z), ops.cos(z))[shift] if a is None else a]
        s, c = ops.sin(z), ops.cos(z)
        return [(s, c)[k % 2] if k % 4 < 2 else -(s, c)[k % 2] for k in range(shift, n + 1 + shift)]

    return sine


def _exp(ops: Any, z: Array, n: int, a: Any) -> Tower:
    return [ops.exp(z) if a is None else a] * (n + 1)


def _silu(ops: Any, z: Array, n: int, a: Any) -> Tower:
    if n == 0:
        return [ops.silu(z) if a is None else a]
    s = _sigmoid(ops, z, n, None)
    return [z * s[0] if a is None else a, *(z * s[k] + _scaled(k, s[k - 1]) for k in range(1, n + 1))]


def _softplus(ops: Any, z: Array, n: int, a: Any) -> Tower:
    return [ops.softplus(z) if a is None else a, *(_sigmoid(ops, z, n - 1, None) if n else ())]


def _gelu(ops: Any, z: Array, n: int, a: Any) -> Tower:
    """z Phi(z): the k-th derivative is z Phi^(k) + k Phi^(k-1), for k > 1 a polynomial times the density."""
    if n == 0:
        return [ops.gelu(z) if a is None else a]
    cumulative = 0.5 * ops.erf(z * math.sqrt(0.5)) + 0.5
    density = ops.exp(-0.5 * (z * z)) * (1 / math.sqrt(2 * math.pi))
    rows = [_plus(_shifted(_hermite(1, k - 1)), _hermite(1, k - 2), k) for k in range(2, n + 1)]
    first = cumulative + z * density
    return [z * cumulative if a is None else a, first, *_times_polynomials(density, z, rows)]


def _erf(ops: Any, z: Array, n: int, a: Any) -> Tower:
    a = ops.erf(z) if a is None else a
    if n == 0:
        return [a]
    density = ops.exp(-(z * z)) * (2 / math.sqrt(math.pi))
    return [a, *_times_polynomials(density, z, [_hermite(2, k - 1) for k in range(1, n + 1)])]


def _log(ops: Any, z: Array, n: int, a: Any) -> Tower:
    a = ops.log(z) if a is None else a
    return [a, *_reciprocal(ops, z, n - 1, None)] if n else [a]


def _sqrt(ops: Any, z: Array, n: int, a: Any) -> Tower:
    a = ops.sqrt(z) if a is None else a
    out: Tower = [a]
    if n:
        out.append(0.5 / a)
        over = 1 / (a * a) if n > 1 else None
        for k in range(1, n):
            out.append((0.5 - k) * out[-1] * over)
    return out


def _reciprocal(ops: Any, z: Array, n: int, a: Any) -> Tower:
    out: Tower = [1 / z if a is None else a]
    for k in range(1, n + 1):
        out.append(_scaled(-k, out[-1] * out[0]))
    return out


def _relu(ops: Any, z: Any, n: int, a: Any) -> Tower:
    a = ops.relu(z) if a is None else a
    return [a, ops.astype(a > 0, a), *[None] * (n - 1)][: n + 1]


def _abs(ops: Any, z: Array, n: int, a: Any) -> Tower:
    sign = ops.astype(z > 0, z) - ops.astype(z < 0, z)
    return [ops.abs(z) if a is None else a, sign, *[None] * (n - 1)][: n + 1]


_KINKED = frozenset({"relu", "abs"})
_FROM_VALUE = frozenset({"tanh", "sigmoid", "exp", "sqrt", "reciprocal", "relu"})
_TOWERS: dict[str, Callable[[Any, Any, int, Any], Tower]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "sin": _sine(0),
    "cos": _sine(1),
    "exp": _exp,
    "silu": _silu,
    "softplus": _softplus,
    "gelu": _gelu,
    "erf": _erf,
    "log": _log,
    "sqrt": _sqrt,
    "reciprocal": _reciprocal,
    "relu": _relu,
    "abs": _abs,
}
FUNCTIONS = tuple(name for name in _TOWERS if name != "reciprocal")
"""The functions of `ops` that `tower` knows (`reciprocal` is no function of `ops`: arrays have `1 / z`)."""


@cache
def _tanh_polynomial(k: int) -> Polynomial:
    """q with tanh^(k) = (1 - a²) q(a), k >= 1: q_1 = 1, q_(k+1) = (1 - a²) q_k' - 2 a q_k."""
    if k == 1:
        return (1.0,)
    q = _tanh_polynomial(k - 1)
    slope = _slope(q)
    return _plus(_plus(slope, _shifted(_shifted(slope)), -1), _shifted(q), -2)


@cache
def _hermite(rate: int, k: int) -> Polynomial:
    """p with (d/dz)^k exp(-rate z²/2) = p(z) exp(-rate z²/2): p_0 = 1, p_(k+1) = p_k' - rate z p_k."""
    if k == 0:
        return (1.0,)
    p = _hermite(rate, k - 1)
    return _plus(_slope(p), _shifted(p), -rate)


def _slope(p: Polynomial) -> Polynomial:
    return tuple(k * c for k, c in enumerate(p))[1:]


def _shifted(p: Polynomial) -> Polynomial:
    return (0.0, *p)


def _plus(p: Polynomial, q: Polynomial, factor: float) -> Polynomial:
    """p + factor q, without vanishing coefficients at the end."""
    out = [a + factor * b for a, b in itertools.zip_longest(p, q, fillvalue=0.0)]
    while len(out) > 1 and out[-1] == 0:
        out.pop()
    return tuple(out)


def _times_polynomials(front: Array, x: Array, rows: list[Polynomial]) -> list[Array]:
    """front * p(x) for polynomials p that are even or odd: Horner in x², shared by all."""
    square = x * x if any(len(p) > 2 for p in rows) else None
    out = []
    for p in rows:
        odd = 0 if p[0] else 1
        *rest, value = p[odd::2]
        for c in reversed(rest):
            value = _scaled(value, square) + c
        out.append(_scaled(_scaled(value, x) if odd else value, front))
    return out


def _scaled(factor: Any, x: Array) -> Array:
    """factor * x, without the multiplication by the number 1."""
    return x if isinstance(factor, int | float) and factor == 1 else factor * x
