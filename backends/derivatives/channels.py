"""Which derivative channels travel through a network, and how functions and products act on them.

A `Plan` lists the channels: one per derivative index (a sorted tuple of coordinate names, `()` is the value) and,
where asked for, one for a whole Laplacian. A channel is an array [unit, point], [unit, 1] where it does not
depend on the point, or None where it is zero. `forward` and `backward` are the rule of an elementwise function
(Faà di Bruno) and its transpose, written against `ops`, so that each backend needs only to register them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backends.derivatives.towers import smooth, tower
from backends.errors import UserError

Array = Any
Channel = Any
"""An array, or None for zero."""
Index = tuple[str, ...]
LAPLACIAN = "laplacian"
_Composed = tuple[int, int, tuple[int, ...]]
"""(coefficient, k of f^(k), positions of the factors)"""


@dataclass(frozen=True)
class Plan:
    """The channels that travel; `indices[0]` is the value, a Laplacian over `laplacian` comes last."""

    indices: tuple[Index, ...] = ((),)
    laplacian: Index = ()

    @classmethod
    def closing(cls, wanted: Iterable[Sequence[str]], laplacian: Sequence[str] = ()) -> Plan:
        """The smallest plan that yields `wanted`: with an index, all indices that it contains.

        `closing([("x", "x", "t")])` carries the value, t, x, tx, xx and txx.
        """
        need = {_index(w) for w in wanted} | {(c,) for c in laplacian} | {()}
        closed = {part for index in need for r in range(len(index) + 1) for part in itertools.combinations(index, r)}
        return cls(tuple(sorted(closed, key=lambda i: (len(i), i))), tuple(sorted(set(laplacian))))

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.indices) + bool(self.laplacian)

    @cached_property
    def order(self) -> int:
        """Highest derivative of an elementwise function that `forward` may need."""
        return max(max(map(len, self.indices)), 2 if self.laplacian else 0)

    @cached_property
    def _positions(self) -> dict[Index, int]:
        return {index: k for k, index in enumerate(self.indices)}

    def position(self, index: Sequence[str]) -> int:
        """Where the channel of `index` (or of "laplacian") stands. Raises KeyError where it does not travel."""
        if index == LAPLACIAN and self.laplacian:
            return len(self.indices)
        if isinstance(index, str) or _index(index) not in self._positions:
            raise KeyError(f"the derivative {index!r} does not travel in {self}")
        return self._positions[_index(index)]

    @cached_property
    def composition(self) -> tuple[tuple[_Composed, ...], ...]:
        """Faà di Bruno: per output channel of f(z), its terms."""
        rows = [
            tuple((n, k, tuple(sorted(map(self.position, blocks)))) for (k, blocks), n in _chain(index).items())
            for index in self.indices
        ]
        if self.laplacian:
            first = [self.position((c,)) for c in self.laplacian]
            rows.append(((1, 1, (self.size - 1,)), *((1, 2, (i, i)) for i in first)))
        return tuple(rows)

    @cached_property
    def adjoint(self) -> tuple[tuple[tuple[int, int, int, tuple[int, ...]], ...], ...]:
        """The transpose: per input channel its terms (coefficient, k of f^(k), output channel, other factors)."""
        rows: list[list[tuple[int, int, int, tuple[int, ...]]]] = [[] for _ in range(self.size)]
        for out, row in enumerate(self.composition):
            for n, k, factors in row:
                rows[0].append((n, k + 1, out, factors))
                for i, times in Counter(factors).items():
                    at = factors.index(i)
                    rows[i].append((n * times, k, out, factors[:at] + factors[at + 1 :]))
        return tuple(map(tuple, rows))

    @cached_property
    def square(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Leibniz for u u: both orders of two factors in one term."""
        rows = []
        for row in self.product:
            merged: Counter[tuple[int, int]] = Counter()
            for n, i, j in row:
                merged[(min(i, j), max(i, j))] += n
            rows.append(tuple((n, i, j) for (i, j), n in merged.items()))
        return tuple(rows)

    @cached_property
    def product(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Leibniz: per output channel of u v, its terms (coefficient, position in u, position in v)."""
        rows = [
            tuple((n, self.position(u), self.position(v)) for (u, v), n in _leibniz(index).items())
            for index in self.indices
        ]
        if self.laplacian:
            first = [self.position((c,)) for c in self.laplacian]
            rows.append(((1, 0, self.size - 1), (1, self.size - 1, 0), *((2, i, i) for i in first)))
        return tuple(rows)


def forward(name: str, plan: Plan, ops: Any, channels: Sequence[Channel]) -> list[Channel]:
    """The channels of f(z) from those of z. Raises UserError where f has too few derivatives."""
    if plan.order > 1 and not smooth(name):
        raise UserError(
            f"activation {name!r}: this experiment needs derivatives up to order {plan.order}, and {name} has none "
            "beyond the first (its second derivative is zero, so the equation would lose its highest terms); "
            "use tanh, sin, gelu or silu"
        )
    return compose(plan, channels, lambda n: tower(name, ops, channels[0], n))


def compose(plan: Plan, channels: Sequence[Channel], derivatives: Callable[[int], Sequence[Channel]]) -> list[Channel]:
    """The channels of f(z) from those of z, where `derivatives(n)` gives f, f', …, f^(n) at z[0]."""
    rows = []
    for row in plan.composition[1:]:
        terms: dict[int, list[Array]] = {}
        for n, k, factors in row:
            if all(channels[i] is not None for i in factors):
                terms.setdefault(k, []).append(scaled(n, times(channels[i] for i in factors)))
        rows.append(terms)
    f = derivatives(_highest(rows))
    return [f[0], *_weighted(f, rows)]


def reached(plan: Plan, live: Iterable[int]) -> tuple[int, ...]:
    """Positions of the channels of f(z) that are not zero, from those of z (the value is always among both)."""
    here = {0, *live}
    return tuple(i for i, row in enumerate(plan.composition) if i == 0 or any(here.issuperset(f) for _, _, f in row))


def backward(
    name: str,
    plan: Plan,
    ops: Any,
    value: Array,
    channels: Sequence[Channel],
    cotangents: Sequence[Channel],
) -> list[Channel]:
    """Cotangents of the channels of z from those of f(z), each in the shape of its channel.

    `value` is f(z[0]); channels[0] may be anything where `saves_value(name)`. None comes back for a None channel.
    """
    rows = []
    for i, row in enumerate(plan.adjoint):
        terms: dict[int, list[Array]] = {}
        for n, k, out, factors in row if i == 0 or channels[i] is not None else ():
            if cotangents[out] is not None and all(channels[j] is not None for j in factors):
                term = times([cotangents[out], *(channels[j] for j in factors)])
                terms.setdefault(k, []).append(scaled(n, term))
        rows.append(terms)
    f = tower(name, ops, channels[0], _highest(rows), value)
    pairs = zip(_weighted(f, rows), [value, *channels[1:]], strict=True)
    return [None if x is None else _reduced(ops, x, channel.shape) for x, channel in pairs]


def _index(names: Sequence[str]) -> Index:
    if isinstance(names, str):
        raise TypeError(f"a derivative index is a tuple of coordinate names, not the text {names!r}")
    return tuple(sorted(names))


def _chain(index: Index) -> Counter[tuple[int, tuple[Index, ...]]]:
    """The derivative `index` of f(z): how often each f^(k) times derivatives of z occurs."""
    if not index:
        return Counter({(0, ()): 1})
    *rest, c = index
    out: Counter[tuple[int, tuple[Index, ...]]] = Counter()
    for (k, blocks), n in _chain(tuple(rest)).items():
        out[(k + 1, tuple(sorted((*blocks, (c,)))))] += n
        for j, block in enumerate(blocks):
            out[(k, tuple(sorted((*blocks[:j], tuple(sorted((*block, c))), *blocks[j + 1 :]))))] += n
    return out


def _leibniz(index: Index) -> Counter[tuple[Index, Index]]:
    out: Counter[tuple[Index, Index]] = Counter()
    for mask in itertools.product((True, False), repeat=len(index)):
        u = tuple(c for c, left in zip(index, mask, strict=True) if left)
        v = tuple(c for c, left in zip(index, mask, strict=True) if not left)
        out[(u, v)] += 1
    return out


def _highest(rows: Sequence[dict[int, list[Array]]]) -> int:
    return max((k for terms in rows for k in terms), default=0)


def _weighted(f: Sequence[Channel], rows: Sequence[dict[int, list[Array]]]) -> list[Channel]:
    """Per row the sum over k of f^(k) times its terms, each f^(k) factored out."""
    return [total(f[k] * total(parts) for k, parts in row.items() if f[k] is not None) for row in rows]


def _reduced(ops: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of broadcasting from `shape` [unit or 1, point or 1]."""
    if x.shape[1] != shape[1]:
        x = ops.sum(x, 1)[:, None]
    return ops.sum(x, 0)[None] if x.shape[0] != shape[0] else x


def total(xs: Iterable[Channel]) -> Channel:
    """The sum of what is not None; None where nothing is left."""
    out: Channel = None
    for x in xs:
        if x is not None:
            out = x if out is None else out + x
    return out


def times(xs: Iterable[Array]) -> Array:
    """The product of one or more arrays."""
    out: Array = None
    for x in xs:
        out = x if out is None else out * x
    return out


def scaled(factor: float, x: Array) -> Array:
    """factor * x, without the multiplication by 1."""
    return x if factor == 1 else factor * x
