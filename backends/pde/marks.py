"""The decorators that make methods of a problem into terms: @residual, @loss and @hard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import isfunction
from types import MappingProxyType
from typing import Any, Literal, TypeVar, overload

from backends.errors import UserError
from backends.pde.regions import Region

Method = TypeVar("Method", bound=Callable[..., Any])
TERM, FULFILS = "__term__", "__fulfils__"


@dataclass(frozen=True)
class Mark:
    """What a decorator says about a method."""

    kind: Literal["residual", "loss"]
    region: Region
    scale: float | str
    """What the term is divided by in `validation/total`: a number, or the name of a float field or property."""


@overload
def residual(method: Method) -> Method: ...
@overload
def residual(
    *, at: str = "", on: str = "", scale: float | str = 1.0, **where: float | str
) -> Callable[[Method], Method]: ...
def residual(method: Any = None, *, at: str = "", on: str = "", scale: float | str = 1.0, **where: float | str) -> Any:
    """Marks a method as a term that enters the loss by its mean square.

    `@residual`: inside the box. `@residual(t=0)`, `(x="low")`, `(x="high")`, `(x="ends")`: on that part of it, where
    a value may also be the name of a float field. `(x="periodic")`: both ends together (`f.ends`). `(on="boundary")`:
    the whole boundary in space, with columns `normal_x`, …; `(on="hole")`: that part of a geometry's boundary.
    `(at="sensors")`: at the columns that the method `sensors(self, rng)` returns. The method returns an array, a tuple
    of arrays (a vector residual: one term) or a dict of arrays (`pde/x`, `pde/mass`: a term each).
    """
    return _mark("residual", method, Region(tuple(where.items()), on, at), scale)


@overload
def loss(method: Method) -> Method: ...
@overload
def loss(
    *, at: str = "", on: str = "", scale: float | str = 1.0, **where: float | str
) -> Callable[[Method], Method]: ...
def loss(method: Any = None, *, at: str = "", on: str = "", scale: float | str = 1.0, **where: float | str) -> Any:
    """Marks a method as a term that enters the loss as its mean; where it is computed is said as for `residual`."""
    return _mark("loss", method, Region(tuple(where.items()), on, at), scale)


def hard(*terms: str) -> Callable[[Method], Method]:
    """Marks the ansatz of `constraints: hard`, and names the terms that it fulfils.

    The method gets coordinates, unknowns and the network's outputs by name and returns {field: what to use instead}.
    """
    if not terms or any(callable(t) for t in terms):
        raise UserError('@hard needs the names of the terms that the ansatz fulfils: write @hard("ic", "bc")')

    def mark(method: Method) -> Method:
        method.__dict__[FULFILS] = terms
        return method

    return mark


def _mark(kind: Literal["residual", "loss"], method: Any, region: Region, scale: float | str) -> Any:
    def mark(fn: Method) -> Method:
        fn.__dict__[TERM] = Mark(kind, region, scale)
        return fn  # the function itself: pydantic would take any other object in a class body for a field

    return mark(method) if method is not None else mark


@cache
def marked(cls: type, attribute: str) -> Mapping[str, Any]:
    """Name -> mark of the marked methods, bases first, in order of definition; an override keeps place and mark."""
    out: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isfunction(value) and attribute in vars(value):
                out[name] = vars(value)[attribute]
    return MappingProxyType(out)
