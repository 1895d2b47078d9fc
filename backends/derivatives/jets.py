"""The derivative engine: a value with its derivative channels, which goes through networks as an array would.

    plan = Plan.closing([("x", "x"), ("t",)])
    ops = JetOps(ops, plan)
    at = seed(plan, ops, {"t": t, "x": x})                       # columns [n]
    u = network.apply(ops, params, ops.features([at["t"], at["x"]]))
    u_xx = u.at(("x", "x"))                                      # [1, n], or [1, 1] or None: see `channels`

Scaling needs no chain rule: `(at["x"] - middle) * factor` puts the factor into the seed channel, and every
channel is in the user's units from there on. One matrix product per layer serves all channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backends.derivatives.channels import Channel, Plan, backward, compose, forward, reached, scaled, total
from backends.derivatives.towers import FUNCTIONS, power, saves_value
from backends.errors import UserError

__all__ = ["FUNCTIONS", "Jet", "JetOps", "Plan", "backward", "forward", "reached", "saves_value", "seed"]

Array = Any


class Jet:
    """A value with its derivative channels, in the order of its plan. The value's channel is never None.

    Arithmetic with other Jets of the same plan, and with numbers and arrays, which count as constants.
    """

    __array_ufunc__ = None  # numpy must not take over `array * jet`
    __slots__ = ("channels", "plan")

    def __init__(self, plan: Plan, channels: Sequence[Channel]) -> None:
        self.plan, self.channels = plan, list(channels)

    @property
    def value(self) -> Array:
        """[unit, point]"""
        return self.channels[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Of the value."""
        return self.value.ndim

    @property
    def dtype(self) -> Any:
        """Of the value."""
        return self.value.dtype

    def at(self, index: Sequence[str]) -> Channel:
        """The channel of a derivative index (or "laplacian"): [unit, point], [unit, 1] or None for zero."""
        return self.channels[self.plan.position(index)]

    def map(self, linear: Callable[[Array], Array]) -> Jet:
        """The same linear function of every channel."""
        return Jet(self.plan, [None if x is None else linear(x) for x in self.channels])

    def constant(self, value: Array) -> Jet:
        """A Jet of the same plan whose derivatives vanish."""
        return Jet(self.plan, [value] + [None] * (self.plan.size - 1))

    def __getitem__(self, rows: slice) -> Jet:
        if not isinstance(rows, slice):
            raise UserError(
                f"features of a network's input are picked by a slice, not by [{rows!r}]: "
                f"write h[{rows!r} : {rows!r} + 1] for one of them"
            )
        units = self.shape[0]
        # A channel of one unit beside a value of several stands for all of them.
        return self.map(lambda x: x if x.shape[0] == 1 != units else x[rows])

    def __neg__(self) -> Jet:
        return self.map(lambda x: -x)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.plan, [self.value + _plain(other), *self.channels[1:]])
        return Jet(self.plan, [total(pair) for pair in zip(self.channels, other.channels, strict=True)])

    __radd__ = __add__

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            factor = _plain(other)
            return self.map(lambda x: x * factor)
        u, v = self.channels, other.channels
        rows = self.plan.square if self is other else self.plan.product
        parts = ((scaled(n, u[i] * v[j]) for n, i, j in r if u[i] is not None and v[j] is not None) for r in rows)
        return Jet(self.plan, [total(terms) for terms in parts])

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return self * other.reciprocal()
        divisor = _plain(other)
        return self.map(lambda x: x / divisor)

    def __rtruediv__(self, other: Any) -> Jet:
        return self.reciprocal() * other

    def reciprocal(self) -> Jet:
        """1 / self."""
        return Jet(self.plan, forward("reciprocal", self.plan, None, self.channels))

    def __pow__(self, exponent: Any) -> Jet:
        """Integers by repeated products (right at zero and for negative values), others by powers of the value.

        The exponent may be an array that does not depend on the coordinates (an unknown constant).
        """
        exponent = _plain(exponent)
        if isinstance(exponent, float) and exponent.is_integer():
            exponent = int(exponent)
        if not isinstance(exponent, int):
            return Jet(self.plan, compose(self.plan, self.channels, lambda n: power(self.value, exponent, n)))
        if exponent < 0:
            return (self**-exponent).reciprocal()
        if exponent < 2:
            return self if exponent else self.constant(self.value**0)
        half = self ** (exponent // 2)
        return half * half * self if exponent % 2 else half * half

    def __lt__(self, other: Any) -> Array:
        return self.value < _value(other)

    def __gt__(self, other: Any) -> Array:
        return self.value > _value(other)

    def __le__(self, other: Any) -> Array:
        return self.value <= _value(other)

    def __ge__(self, other: Any) -> Array:
        return self.value >= _value(other)


class JetOps:
    """The functions of `ops` for Jets: a network's text runs unchanged on values (ops) or on channels (JetOps).

    What is not a Jet goes to `ops` as it is. Functions without a rule for Jets refuse them with a UserError.
    """

    def __init__(self, ops: Any, plan: Plan) -> None:
        self.ops, self.plan = ops, plan

    def __getattr__(self, name: str) -> Any:
        fn = getattr(self.ops, name)
        if name in FUNCTIONS:
            return lambda h: self._elementwise(name, h) if isinstance(h, Jet) else fn(h)
        return self._refusing(name, fn) if callable(fn) else fn

    def linear(self, h: Any, w: Array, b: Array | None = None) -> Any:
        """w.T @ h (+ b): the bias is a constant."""
        if not isinstance(h, Jet):
            return self.ops.linear(h, w, b)
        z = self.matmul(w.T, h)
        return z if b is None else z + b[:, None]

    def matmul(self, w: Array, h: Any) -> Any:
        """w @ h: ONE product for all dense channels, one for those that are constant over the points."""
        if not isinstance(h, Jet):
            return self.ops.matmul(w, h)
        groups: list[tuple[int, list[int]]] = []  # no dict: a symbolic number of points (torch.export) has no hash
        for i, x in enumerate(h.channels):
            if x is not None:
                known = next((group for points, group in groups if points == x.shape[1]), None)
                if known is None:
                    groups.append((x.shape[1], [i]))
                else:
                    known.append(i)
        out: list[Channel] = [None] * self.plan.size
        for points, group in groups:
            for i, x in zip(group, self._products(w, [self._full(h, i, points) for i in group]), strict=True):
                out[i] = x
        return Jet(self.plan, out)

    def features(self, parts: Sequence[Any]) -> Any:
        """Jets [features, points] (and arrays, which count as constants) joined along the feature axis."""
        first = next((p for p in parts if isinstance(p, Jet)), None)
        if first is None:
            return self.ops.features(parts)
        jets = [p if isinstance(p, Jet) else first.constant(p) for p in parts]
        return Jet(self.plan, [self._joined(jets, i) for i in range(self.plan.size)])

    def sum(self, x: Any, axis: int | None = None) -> Any:
        """Of a Jet: over its features, [features, points] -> [1, points]; over points nothing may be summed."""
        if not isinstance(x, Jet):
            return self.ops.sum(x, axis)
        if axis != 0:
            raise UserError("ops.sum of coordinates or fields in a network or an ansatz sums features: ops.sum(x, 0)")
        units = x.shape[0]
        return x.map(lambda c: c * units if c.shape[0] == 1 != units else self.ops.sum(c, 0)[None])

    def where(self, condition: Array, x: Any, y: Any) -> Any:
        """Channel by channel: what happens on the edge itself is left out."""
        first = next((p for p in (x, y) if isinstance(p, Jet)), None)
        if first is None:
            return self.ops.where(condition, x, y)
        zero = self.ops.zeros((1, 1), like=first.value)
        pairs = zip(*(p.channels if isinstance(p, Jet) else first.constant(p).channels for p in (x, y)), strict=True)
        picked = [
            None if u is None and v is None else self.ops.where(condition, *(zero if c is None else c for c in (u, v)))
            for u, v in pairs
        ]
        return Jet(self.plan, picked)

    def _elementwise(self, name: str, h: Jet) -> Jet:
        if all(x is None for x in h.channels[1:]):
            return h.constant(getattr(self.ops, name)(h.value))
        return Jet(self.plan, self.ops.activation(name, self.plan, h.channels))

    def _products(self, w: Array, channels: list[Array]) -> list[Array]:
        if len(channels) == 1:
            return [self.ops.matmul(w, channels[0])]
        units, points = channels[0].shape
        wide = self.ops.reshape(self.ops.stack(channels, 1), (units, len(channels) * points))
        z = self.ops.reshape(self.ops.matmul(w, wide), (w.shape[0], len(channels), points))
        return self.ops.unstack(z, 1)  # one operation: slices cost 1.3 to 1.7 times as much in JAX (padded adds)

    def _joined(self, jets: Sequence[Jet], i: int) -> Channel:
        """Channel i of Jets below each other; neighbours without it become one block of zeros."""
        points = max((p.channels[i].shape[1] for p in jets if p.channels[i] is not None), default=0)
        if not points:
            return None
        blocks: list[Array] = []
        missing = 0
        for p in jets:
            if p.channels[i] is None:
                missing += p.shape[0]
                continue
            if missing:
                blocks.append(self.ops.zeros((missing, points), like=p.value))
                missing = 0
            blocks.append(self._full(p, i, points))
        if missing:
            blocks.append(self.ops.zeros((missing, points), like=jets[0].value))
        return self.ops.concat(blocks, 0)

    def _full(self, h: Jet, i: int, points: int) -> Array:
        """Channel i as [all units of the value, points]; zeros for None."""
        x, shape = h.channels[i], (h.shape[0], points)
        if x is None:
            return self.ops.zeros(shape, like=h.value)
        return x if tuple(x.shape) == shape else self.ops.broadcast_to(x, shape)

    @staticmethod
    def _refusing(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name in _READS_TYPE:
                args, kwargs = tuple(map(_value, args)), {k: _value(v) for k, v in kwargs.items()}
            if any(isinstance(a, Jet) for group in (args, kwargs.values()) for a in group):
                raise UserError(
                    f"ops.{name} has no derivatives with respect to the coordinates, so it can't stand in a network or "
                    f"an ansatz; what can: + - * / **, slices, linear, features, where, {', '.join(FUNCTIONS)}; "
                    "sum over axis 0"
                )
            return fn(*args, **kwargs)

        return call


_READS_TYPE = frozenset({"zeros", "ones", "eye"})
"""Functions that take nothing from a Jet but the type of its numbers (`like`)."""


def seed(plan: Plan, ops: Any, columns: Mapping[str, Array]) -> dict[str, Jet]:
    """Columns [n] as Jets [1, n]: the derivative of a coordinate with respect to itself is 1, all others vanish."""
    jets = {}
    for name, column in columns.items():
        channels: list[Channel] = [column[None]] + [None] * (plan.size - 1)
        if (name,) in plan.indices:
            channels[plan.position((name,))] = ops.ones((1, 1), like=column)
        jets[name] = Jet(plan, channels)
    return jets


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Jet) else x


def _plain(x: Any) -> Any:
    """A numpy scalar as a Python number: as float64 it would lift float32 arrays in JAX."""
    return x.item() if isinstance(x, np.generic) else x
