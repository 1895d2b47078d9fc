"""Laws that a solution obeys by itself, as marked methods of a problem: conserved integrals and symmetries.

    @conserved                                   # the integral over space stays what it is at the start
    def mass(self, f):
        return f("u")

    @conserved(flux="outflow", by="shift")       # it changes by what flows out through the walls
    def heat(self, f):
        return f("u")

    def outflow(self, f):                        # per area, along the outward normal
        return -self.diffusivity * f.normal("u")

    @conserved(equals=1.0, by="scale")           # it has this value (here without a time, too)
    def probability(self, f):
        return f("psi") ** 2

    @symmetric(x="odd")                          # about the middle of x
    def mirror(self, f):
        return f("u")

A law is declared by the class and chosen by the file (`conserve: [mass]`): a law that nobody asks for costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, overload

from pydantic import BeforeValidator, NonNegativeFloat, model_validator

from backends.errors import UserError, nearest
from backends.pde.marks import TERM, marked
from backends.spec import Leaf

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Method = TypeVar("Method", bound=Callable[..., Any])
LAW = "__law__"
PARITIES = ("odd", "even")
TOLERANCE, EQUALS = "tolerance/", "equals/"
"""Prefixes of the constants that a law's numbers are: they change without a new compilation."""


@dataclass(frozen=True)
class Law:
    """What a decorator, and then the file, says of a method that returns a density, or a quantity with a parity."""

    kind: Literal["conserved", "symmetric"]
    tolerance: float | str = 0.0
    """Deviations up to this, in the units of the quantity, give neither loss nor gradient; what is beyond them counts.
    A number, or the name of a float field or property."""
    scale: float | str | None = None
    """What the term is divided by in `validation/total`; None: it is no part of it, since the equation implies it."""
    equals: float | str | None = None
    """The value of the integral; None: the one at the start."""
    flux: str = ""
    """The method that returns what leaves the domain per time and area."""
    nodes: int | None = None
    """Quadrature nodes per coordinate of space; None: 64, 16 or 8 in one, two or three dimensions."""
    by: Literal["shift", "scale"] = "shift"
    """What a projection does to the fields to fulfil it."""
    fields: tuple[str, ...] = ()
    """The fields that it does that to; empty: all."""
    mirror: tuple[str, str] = ("", "")
    """(coordinate, "odd" or "even")"""


class Conserve(Leaf):
    """One law of the problem, as the file asks for it. `mass: projection` is short for `{how: projection}`."""

    how: Literal["term", "projection", "both"] = "term"
    """term: a loss term with a weight. projection: predictions are corrected so that it holds to rounding, training
    is what it was. both."""
    tolerance: NonNegativeFloat | None = None
    """Deviations up to this count as none; default: what the problem declares, else 0."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"how": data} if isinstance(data, str) else {} if data is None else data


def _listed(data: Any) -> Any:
    if isinstance(data, list | tuple) and all(isinstance(name, str) for name in data):
        return {name: {} for name in data}
    return data


Conserved = Annotated[dict[str, Conserve], BeforeValidator(_listed)]
"""Law -> how it is upheld; a list of names is short for terms with the problem's own tolerances."""


@overload
def conserved(method: Method) -> Method: ...
@overload
def conserved(
    *,
    equals: float | str | None = None,
    flux: str = "",
    tolerance: float | str = 0.0,
    nodes: int | None = None,
    by: Literal["shift", "scale"] = "shift",
    fields: tuple[str, ...] = (),
    scale: float | str | None = None,
) -> Callable[[Method], Method]: ...
def conserved(method: Any = None, **said: Any) -> Any:
    """Marks a method that returns a density: its integral over all coordinates but time is conserved.

    The residual is I(t) - I(start), I(t) - equals, or with `flux` I(t) - I(start) + what has left by then, at each of
    the times of the set (`points: {mass: 32}`), in the units of the integral. A problem without a time needs `equals`;
    without a coordinate of space the density itself is conserved (the energy of an oscillator). The method may return
    several densities as a dict (`momentum/x`) or as a tuple (one vector law).
    """

    def mark(fn: Method) -> Method:
        fn.__dict__[LAW] = Law("conserved", **said)
        return fn

    return mark(method) if method is not None else mark


def symmetric(
    *, tolerance: float | str = 0.0, scale: float | str | None = None, **parity: str
) -> Callable[[Method], Method]:
    """Marks a method that returns a quantity with a parity about the middle of a coordinate: `@symmetric(x="odd")`.

    The residual is the part of the quantity that has the other parity: half the sum (or difference) of its values at
    a point and at its mirror image.
    """
    if len(parity) != 1 or next(iter(parity.values())) not in PARITIES:
        raise UserError('@symmetric needs one coordinate with a parity: write @symmetric(x="odd") or (x="even")')

    def mark(method: Method) -> Method:
        method.__dict__[LAW] = Law("symmetric", tolerance, scale, mirror=next(iter(parity.items())))
        return method

    return mark


def declared(cls: type) -> Mapping[str, Law]:
    """The laws of a problem's class, in the order of their definition."""
    return marked(cls, LAW)


def chosen(problem: Problem, asked: Mapping[str, Conserve]) -> tuple[dict[str, Law], dict[str, Law]]:
    """(the laws that are terms, those that predictions are projected on) as the file asks for them, with their numbers
    in place. Raises UserError."""
    known = declared(type(problem))
    terms, projected = {}, {}
    for name, conserve in asked.items():
        path = f"conserve.{name}"
        if name not in known:
            told = f"; it declares {', '.join(known)}" if known else " (methods marked @conserved or @symmetric)"
            raise UserError(f"{type(problem).__name__} declares no law {name!r}{nearest(name, known)}{told}", path=path)
        law = known[name]
        if law.kind == "symmetric" and conserve.how != "term":
            raise UserError(
                "a symmetry is a term only; predictions are symmetric by an ansatz (`constraints: hard`)",
                path=f"{path}.how",
            )
        tolerance = law.tolerance if conserve.tolerance is None else conserve.tolerance
        number = problem.number
        equals = None if law.equals is None else number(law.equals)
        law = replace(law, tolerance=number(tolerance), equals=equals)
        terms |= {name: law} if conserve.how != "projection" else {}
        projected |= {name: law} if conserve.how != "term" else {}
    return terms, projected


def numbers(laws: Mapping[str, Law]) -> dict[str, float]:
    """The constants `tolerance/<law>` and `equals/<law>` of the terms."""
    out = {TOLERANCE + name: float(law.tolerance) for name, law in laws.items()}
    return out | {EQUALS + name: float(law.equals) for name, law in laws.items() if law.equals is not None}


def mistakes(cls: type[Problem]) -> Iterator[str]:
    """What is wrong with the laws of a class, one sentence each."""
    sizes = (*cls.float_fields(), *(n for n in dir(cls) if isinstance(getattr(cls, n, None), property)))
    for name, law in declared(cls).items():
        if name in marked(cls, TERM):
            yield f"{name}: is marked both as a term and as a law; split it into two methods"
        for what in ("tolerance", "equals", "scale"):
            value = getattr(law, what)
            if isinstance(value, str) and value not in sizes:
                yield f"{name}: {what}={value!r} is no float field or property of the class{nearest(value, sizes)}"
            elif isinstance(value, bool) or not isinstance(value, str | int | float | None):
                yield f"{name}: {what}={value!r} is neither a number nor the name of a float field"
        yield from (f"{name}: {m}" for m in (_of_symmetry if law.kind == "symmetric" else _of_integral)(cls, law))


def _of_symmetry(cls: type[Problem], law: Law) -> Iterator[str]:
    c, _ = law.mirror
    if c not in cls.coords:
        yield f"{c!r} is no coordinate{nearest(c, cls.coords)}"
    if c == cls.time:
        yield f"{c!r} is the time, which has no mirror"


def _of_integral(cls: type[Problem], law: Law) -> Iterator[str]:
    if law.by not in ("shift", "scale"):
        yield f"by={law.by!r} is not known; allowed here: shift, scale"
    if law.nodes is not None and (isinstance(law.nodes, bool) or not isinstance(law.nodes, int) or law.nodes < 1):
        yield f"nodes={law.nodes!r} must be a whole number above 0"
    for field in law.fields:
        if field not in cls.fields:
            yield f"fields: {field!r} is no field{nearest(field, cls.fields)}"
    if not cls.time and law.equals is None:
        yield "nothing is conserved without a time; give the value of the integral, equals=…"
    if law.flux:
        if law.equals is not None:
            yield "what flows out changes the integral, which therefore has no value of its own; remove equals or flux"
        if not callable(getattr(cls, law.flux, None)):
            yield f"flux={law.flux!r}: there is no method {law.flux}(self, f) that returns what flows out"
        if not cls.time or set(cls.coords) == {cls.time}:
            yield "a flux needs a time and a coordinate of space"
