"""The derivative engine: a value with its derivative channels, which goes through networks as an array would.

    plan = Plan.closing([("x", "x"), ("t",)])
    at = seed(plan, ops, {"t": t, "x": x})                       # columns [n]
    u = network.apply(JetOps(ops, plan), params, JetOps(ops, plan).features([at["t"], at["x"]]))
    u_xx = u.at(("x", "x"))                                      # [1, n], or [1, 1] or None: see `backends.channels`

Scaling needs no chain rule: `(at["x"] - middle) * factor` puts the factor into the seed channel, and every
channel is in the user's units from there on. One matrix product per layer serves all channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.channels import Channel, Plan, backward, forward, scaled, total
from backends.derivatives import ACTIVATIONS, saves_value
from backends.errors import UserError

__all__ = ["ACTIVATIONS", "Jet", "JetOps", "Plan", "backward", "forward", "saves_value", "seed"]

Array = Any


class Jet:
    """A value with its derivative channels, in the order of its plan. The value's channel is never None."""

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
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def at(self, index: Sequence[str]) -> Channel:
        """The channel of a derivative index (or "laplacian"): [unit, point], [unit, 1] or None for zero."""
        return self.channels[self.plan.position(index)]

    def map(self, fn: Callable[[Array], Array]) -> Jet:
        """The same linear function of every channel."""
        return Jet(self.plan, [None if x is None else fn(x) for x in self.channels])

    def _lift(self, other: Any) -> Jet:
        return other if isinstance(other, Jet) else Jet(self.plan, [other] + [None] * (self.plan.size - 1))

    def __getitem__(self, rows: slice) -> Jet:
        if not isinstance(rows, slice):
            raise UserError(
                f"a Jet's features are picked by a slice, not by {rows!r}: write h[{rows!r}:{rows!r} + 1] for one of them"
            )
        units = self.shape[0]
        # A channel of one unit beside a value of several stands for all of them.
        return self.map(lambda x: x if x.shape[0] == 1 != units else x[rows])

    def __neg__(self) -> Jet:
        return self.map(lambda x: -x)

    def __add__(self, other: Any) -> Jet:
        return Jet(self.plan, [total(pair) for pair in zip(self.channels, self._lift(other).channels, strict=True)])

    __radd__ = __add__

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return self.map(lambda x: x * other)
        u, v = self.channels, other.channels
        return Jet(
            self.plan,
            [
                total(scaled(n, u[i] * v[j]) for n, i, j in row if u[i] is not None and v[j] is not None)
                for row in self.plan.product
            ],
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * other.apply("reciprocal") if isinstance(other, Jet) else self.map(lambda x: x / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return self.apply("reciprocal") * other

    def apply(self, name: str) -> Jet:
        """f of this Jet for functions that need operators only: `reciprocal`, `power(p)`."""
        return Jet(self.plan, forward(name, self.plan, None, self.channels))

    def __pow__(self, exponent: float) -> Jet:
        """Integers by repeated products (right at zero and for negative values), other numbers by z^(p-k)."""
        if float(exponent) != int(exponent):
            return self.apply(f"power({float(exponent)!r})")
        count = int(exponent)
        if count < 0:
            return (self ** (-count)).apply("reciprocal")
        if count == 0:
            return self._lift(self.value**0)
        half = self ** (count // 2) if count > 1 else self
        return half if count == 1 else half * half * self if count % 2 else half * half


class JetOps:
    """The functions of `ops` for Jets: a network's text runs unchanged on values (ops) or on channels (JetOps)."""

    def __init__(self, ops: Any, plan: Plan) -> None:
        self.ops, self.plan = ops, plan

    def linear(self, h: Any, w: Array, b: Array | None = None) -> Any:
        """w.T @ h (+ b): ONE product for all dense channels, one for those that are constant over the points."""
        if not isinstance(h, Jet):
            return self.ops.linear(h, w, b)
        groups: dict[int, list[int]] = {}
        for i, x in enumerate(h.channels):
            if x is not None:
                groups.setdefault(x.shape[1], []).append(i)
        out: list[Channel] = [None] * self.plan.size
        for points, group in groups.items():
            for i, x in zip(group, self._products(w, [self._full(h, i) for i in group], points), strict=True):
                out[i] = x
        if b is not None:
            out[0] = out[0] + b[:, None]
        return Jet(self.plan, out)

    def _products(self, w: Array, channels: list[Array], points: int) -> list[Array]:
        if len(channels) == 1:
            return [self.ops.matmul(w.T, channels[0])]
        wide = self.ops.reshape(self.ops.stack(channels, 1), (w.shape[0], len(channels) * points))
        z = self.ops.reshape(self.ops.matmul(w.T, wide), (w.shape[1], len(channels), points))
        return self.ops.unstack(z, 1)  # one operation: slices cost 1.3 to 1.7 times as much in JAX (padded adds)

    def _full(self, h: Jet, i: int, points: int = 0) -> Array:
        """Channel i with all units of the value (and `points` points where given); zeros for None."""
        x = h.channels[i]
        if x is None:
            return self.ops.zeros((h.shape[0], points), like=h.value)
        shape = (h.shape[0], points or x.shape[1])
        return x if tuple(x.shape) == shape else self.ops.broadcast_to(x, shape)

    def features(self, parts: Sequence[Any]) -> Any:
        """Jets (or arrays: constants) [features, points] joined along the feature axis."""
        first = next((p for p in parts if isinstance(p, Jet)), None)
        if first is None:
            return self.ops.features(parts)
        jets = [first._lift(p) for p in parts]
        out: list[Channel] = []
        for i in range(self.plan.size):
            wide = max((p.channels[i].shape[1] for p in jets if p.channels[i] is not None), default=0)
            out.append(self.ops.concat([self._full(p, i, wide) for p in jets], 0) if wide else None)
        return Jet(self.plan, out)

    def _apply(self, name: str, h: Any) -> Any:
        if not isinstance(h, Jet):
            return getattr(self.ops, name)(h)
        if all(x is None for x in h.channels[1:]):
            return h._lift(getattr(self.ops, name)(h.value))
        return Jet(self.plan, self.ops.activation(name, self.plan, h.channels))

    def __getattr__(self, name: str) -> Any:
        if name in ACTIVATIONS:
            return lambda h: self._apply(name, h)
        return getattr(self.ops, name)


def seed(plan: Plan, ops: Any, columns: Mapping[str, Array]) -> dict[str, Jet]:
    """Columns [n] as Jets [1, n]: the derivative of a coordinate with respect to itself is 1, all others vanish."""
    jets = {}
    for name, column in columns.items():
        channels: list[Channel] = [column[None]] + [None] * (plan.size - 1)
        if (name,) in plan.indices:
            channels[plan.position((name,))] = ops.ones((1, 1), like=column)
        jets[name] = Jet(plan, channels)
    return jets
