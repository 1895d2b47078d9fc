"""What a name in a residual means: `u`, `u_xx`, `x`, `kappa`, `measured`.

A derivative is a field, an underscore and coordinates: `u_xx` = ∂²u/∂x², `u_tx` = `u_t_x` = ∂²u/∂t∂x.
The longest field is tried first, and a set of coordinates that allows two readings of one name
(`x` and `xx`) is refused when the problem is defined, so a name never means two things.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from backends.errors import UserError, nearest

Index = tuple[str, ...]
"""The coordinates of a derivative, sorted; () is the value."""

EXACT = "exact_"
"""`exact_u`: a column with the reference solution's `u`, made by itself where a term asks for it."""
NORMAL = "normal_"
"""`normal_x`: a column with a component of the outward normal, on the boundary."""
SHARE = "points/share"
"""A column by which each sample's part in the means of its terms is multiplied (its own mean is 1)."""
WEIGHT = "points/weight"
"""A column with the weight of each sample, for figures (`backends.pointwise`)."""
PLACE = "points/place"
"""A column with the place of each sample's weight in the state of `backends.pointwise`."""


@dataclass(frozen=True)
class Name:
    """One name, understood."""

    kind: Literal["field", "coordinate", "unknown", "column"]
    base: str
    """The field, coordinate, unknown or column."""
    index: Index = ()
    """The derivative, for a field."""


@dataclass(frozen=True)
class Vocabulary:
    """The names that a problem gives meaning to: coordinates, fields and unknown constants, in order."""

    coords: tuple[str, ...]
    fields: tuple[str, ...]
    unknowns: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    """Coordinates that nothing is derived by."""

    def mistakes(self) -> Iterator[str]:
        """What is wrong with the names themselves, one sentence each."""
        everything = [*self.coords, *self.fields, *self.unknowns, *self.parameters]
        for name in everything:
            if not re.fullmatch(r"[A-Za-z]\w*", name):
                yield f"{name!r} is not a name: letters, digits and underscores, a letter first"
        for name in self.coords:
            if "_" in name:
                yield f"the coordinate {name!r} has an underscore, which separates a field from its derivatives"
        for name in sorted({n for n in everything if everything.count(n) > 1}):
            yield f"{name!r} is used twice among coords, fields and unknowns"
        twice = two_readings(self.coords)
        if twice:
            left, right = (" then ".join(w) for w in twice)
            yield f"the coordinates are ambiguous: 'u_{''.join(twice[0])}' may mean {left}, or {right}; rename one"
        for name in everything:
            others = Vocabulary(self.coords, tuple(f for f in self.fields if f != name))
            other = others.field_or_derivative(name)
            if other:
                yield f"{name!r} also reads as a derivative of {other.base!r}; rename one"

    def parse(self, name: str, columns: Collection[str] = ()) -> Name:
        """The meaning of a name where `columns` are at hand. Raises UserError with the nearest name."""
        if name in self.coords or name in self.parameters:
            return Name("coordinate", name)
        if name in self.unknowns:
            return Name("unknown", name)
        derivative = self.field_or_derivative(name)
        if derivative:
            return derivative
        if name in columns:
            return Name("column", name)
        self._refuse_parameters(name)
        simple = [f"{f}_{c * k}" for f in self.fields for c in self.coords for k in (1, 2)]
        known = [*self.coords, *self.fields, *self.unknowns, *self.parameters, *columns, *simple]
        raise UserError(f"{name!r} is not known here{nearest(name, known)}")

    def derivative(self, field: str, coords: Sequence[str]) -> Name:
        """The meaning of `f.d(field, *coords)`."""
        if field not in self.fields:
            raise UserError(f"{field!r} is no field{nearest(field, self.fields)}")
        for c in coords:
            if c in self.parameters:
                raise UserError(f"{c!r} is a parameter: nothing is derived by it")
            if c not in self.coords:
                raise UserError(f"{c!r} is no coordinate{nearest(c, self.coords)}")
        return Name("field", field, tuple(sorted(coords)))

    def _refuse_parameters(self, name: str) -> None:
        read = Vocabulary((*self.coords, *self.parameters), self.fields).field_or_derivative(name)
        for c in read.index if read else ():
            if c in self.parameters:
                raise UserError(f"{name!r}: {c!r} is a parameter: nothing is derived by it")

    def field_or_derivative(self, name: str) -> Name | None:
        """The meaning of `u`, `u_x`, …; None where the name is neither a field nor a derivative of one."""
        for field in sorted(self.fields, key=len, reverse=True):
            if name == field:
                return Name("field", field)
            if name.startswith(field + "_"):
                for word in _readings(name[len(field) + 1 :], self.coords):
                    return Name("field", field, tuple(sorted(word)))
        return None


def _readings(text: str, coords: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every way to read `text` as coordinates, with or without underscores between them."""
    for c in coords:
        if text == c:
            yield (c,)
        elif text.startswith(c):
            for rest in _readings(text[len(c) :].removeprefix("_"), coords):
                yield (c, *rest)


@lru_cache(maxsize=256)
def two_readings(coords: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Two different sequences of coordinates that are spelled alike, the shortest such pair; else None.

    Sardinas and Patterson (1953): follow what dangles where one sequence is a prefix of the other.
    """
    words = tuple(dict.fromkeys(coords))
    waiting: list[tuple[Index, Index, str]] = [
        ((a,), (b,), b[len(a) :]) for a in words for b in words if a != b and b.startswith(a)
    ]
    seen: set[str] = set()
    while waiting:
        short, long, dangling = waiting.pop(0)
        if dangling in seen:
            continue
        seen.add(dangling)
        for w in words:
            if w == dangling:
                return (*short, w), long
            if dangling.startswith(w):
                waiting.append(((*short, w), long, dangling[len(w) :]))
            elif w.startswith(dangling):
                waiting.append((long, (*short, w), w[len(dangling) :]))
    return None
