"""PDE problems, written once for every backend: coordinates, fields, and terms as marked methods.

    class Fisher(Problem):
        rate: PositiveFloat = 1.0
        length: PositiveFloat = 10.0
        coords = {"t": (0, 1), "x": (0, "length")}      # a bound may be the name of a float field
        fields = ("u",)
        time = "t"

        @residual
        def pde(self, f):
            u, u_t, u_xx = f("u", "u_t", "u_xx")
            return u_t - u_xx - self.rate * u * (1 - u)

A problem is a pydantic model, so configuration and mathematics are one thing. Residuals read a Field
(`backends.pde.field`); functions come from `f.ops` (`f.ops.sin`). Float fields that a term reads (`self.rate`) are
live values: they can change during a run without a new compilation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError
from backends.geometry.sampling import remains_of
from backends.geometry.shape import Shape
from backends.laws.marks import conserved, symmetric
from backends.laws.marks import mistakes as mistakes_in_laws
from backends.names import Vocabulary
from backends.pde.check import mistakes
from backends.pde.domain import declared, read_by
from backends.pde.marks import FULFILS, TERM, Mark, hard, loss, marked, residual
from backends.pde.parameters import bounds, parameters
from backends.pde.regions import PLACES, Box, Region
from backends.pde.task import PdeTask, build
from backends.task import Columns, Parts, TaskSpec

__all__ = ["Problem", "conserved", "hard", "loss", "residual", "symmetric"]


class Problem(TaskSpec):
    """Root of all PDE problems: what a user's class says about itself, and the defaults."""

    coords: ClassVar[Mapping[str, Any]] = {}
    """Name -> (low, high), in the order of the network's inputs; a bound is a number or the name of a float field. A
    parameter, which nothing is derived by, is {"range": (low, high), "scale": "log"} (or "linear")."""
    fields: ClassVar[tuple[str, ...]] = ()
    """What the network's outputs are called."""
    time: ClassVar[str] = ""
    """The coordinate that is time: no part of boundaries and Laplacians."""
    geometry: ClassVar[Any] = None
    """The domain in space where it is not the whole box: a shape (`Rectangle(…) - Disk(…)`), a method that returns one,
    or "file" where the experiment names it."""
    depends: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Field -> the only coordinates that it depends on: a network of its own. An unknown coefficient k(x) of a problem
    in time is a field with {"k": ("x",)}."""
    unknowns: ClassVar[Mapping[str, float | str]] = {}
    """Constants that are trained, with their first guess (a number or the name of a float field)."""
    scales: ClassVar[Mapping[str, float | str]] = {}
    """Typical size of each field, which the network's output is multiplied by (or the name of a field or property that
    holds it); default 1."""
    periodic: ClassVar[tuple[str, ...]] = ()
    """Coordinates that enter the network as cos and sin of their period under `constraints: hard`."""
    symmetry: ClassVar[Mapping[str, Any]] = {}
    """Coordinates in whose middle all fields are mirrored under `constraints: hard`: {"x": "even"} or "odd", or
    {"x": {"u": "odd", "v": "even"}}."""
    reference_grid: ClassVar[Mapping[str, int]] = {}
    """Points along each coordinate of the grid on which `error/l2` is taken; default 100 (30 in three coordinates)."""
    truth: ClassVar[Any] = {}
    """True values of unknowns where they are known, for `error/<name>`: a dict, or a method that returns one."""

    def solution(self, points: Columns) -> Mapping[str, np.ndarray] | None:
        """The reference solution {field: [n]} at points {coordinate: [n]}, in numpy; None where none is known."""
        return None

    def build(self, parts: Parts) -> PdeTask:
        return build(self, parts)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not (cls.coords or cls.fields or cls.declared()):
            return  # a common root of the user's own problems
        found = list(mistakes(cls, _OWN_NAMES)) or list(mistakes_in_laws(cls))
        if found:
            raise UserError(f"{cls.__name__}: {'; '.join(found)}")

    @model_validator(mode="after")
    def _inside_the_domain(self) -> Problem:
        for c, (low, high) in self.box().items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise _mistake(f"the domain of {c} is empty: {low:g} … {high:g}")
        for c, scale in parameters(self).items():
            if scale == "log" and self.box()[c][0] <= 0:
                raise _mistake(
                    f"the parameter {c} begins at {self.box()[c][0]:g}; a scale of logarithms needs more than 0"
                )
        try:
            found = self._shape
        except UserError as error:
            raise _mistake(str(error)) from None
        if found is not None:
            for name, mark in self.declared().items():
                _exists(found, name, mark.region.on)
        for name, mark in self.declared().items():
            for c, value in self.region(name).where:
                low, high = self.box()[c]
                if not isinstance(value, str) and not low <= value <= high:
                    raise _mistake(f"the term {name} stands at {c} = {value:g}, outside the domain {low:g} … {high:g}")
            if self.number(mark.scale) <= 0:
                raise _mistake(f"the scale of the term {name} must be above 0")
        return self

    @classmethod
    def declared(cls) -> Mapping[str, Mark]:
        """The methods that are marked as terms, in the order of their definition."""
        return marked(cls, TERM)

    @classmethod
    def ansatz_name(cls) -> str:
        """The method marked @hard, or empty."""
        return next(iter(marked(cls, FULFILS)), "")

    def number(self, value: float | str) -> float:
        """A number, or the value of the float field (for scales and guesses also: the property) of that name."""
        return float(getattr(self, value) if isinstance(value, str) else value)

    def box(self) -> Box:
        """{coordinate: (low, high)}"""
        found = {c: bounds(entry) for c, entry in self.coords.items()}
        return {c: (self.number(low), self.number(high)) for c, (low, high) in found.items()}

    @cached_property
    def _shape(self) -> Shape | None:
        return declared(self)

    @cached_property
    def _clouds(self) -> dict[str, Columns]:
        return {}

    def region(self, term: str) -> Region:
        """The region of a marked method, names of fields replaced by their values."""
        region = self.declared()[term].region
        where = tuple((c, v if v in PLACES else self.number(v)) for c, v in region.where)
        return Region(where, region.on, region.at)

    def regions(self) -> dict[str, tuple[Region, tuple[str, ...]]]:
        """Batch name -> the region and the marked methods that share it, in order of definition."""
        out: dict[str, tuple[Region, tuple[str, ...]]] = {}
        for term in self.declared():
            region = self.region(term)
            out[region.name] = (region, (*out.get(region.name, (region, ()))[1], term))
        return out

    def fulfilled(self) -> frozenset[str]:
        """The marked methods that `constraints: hard` fulfils by construction."""
        by_ansatz = marked(type(self), FULFILS).get(self.ansatz_name(), ())
        return frozenset(by_ansatz) | {n for n, m in self.declared().items() if m.region.periodic in self.periodic}

    @classmethod
    def has_solution(cls) -> bool:
        """Whether the class brings a reference solution."""
        return cls.solution is not Problem.solution

    @classmethod
    def vocabulary(cls) -> Vocabulary:
        """What names in a residual may mean."""
        aside = tuple(parameters(cls))
        coords = tuple(c for c in cls.coords if c not in aside)
        return Vocabulary(coords, tuple(cls.fields), tuple(cls.unknowns), aside)

    @classmethod
    def float_fields(cls) -> tuple[str, ...]:
        """Fields that hold a float; all others (int, bool, str, …) are structure."""
        return tuple(name for name, field in cls.model_fields.items() if field.annotation is float)

    def floats(self) -> dict[str, float]:
        """Float fields that may change during a run: those that decide no bound, no place of a term and no geometry,
        and are no input of the network."""
        named = {bound for entry in self.coords.values() for bound in bounds(entry)}
        named |= {value for mark in self.declared().values() for _, value in mark.region.where}
        named |= {*read_by(self), *parameters(self)}
        return {name: float(getattr(self, name)) for name in self.float_fields() if name not in named}

    def true_values(self) -> dict[str, float]:
        """Unknown -> its true value, where it is known."""
        truth: Any = self.truth
        known: Any = truth() if callable(truth) else truth
        return {name: self.number(value) for name, value in known.items()}


def _exists(shape: Shape, term: str, part: str) -> None:
    if part:
        try:
            remains_of(shape, part)
        except UserError as error:
            raise _mistake(f"the term {term}: {error}") from None


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("own_problem", "{said}", {"said": message})


_DESCRIBED = {
    "depends",
    "coords",
    "fields",
    "time",
    "unknowns",
    "scales",
    "periodic",
    "reference_grid",
    "truth",
    "solution",
    "geometry",
    "symmetry",
}
_OWN_NAMES = frozenset(n for n in dir(Problem) if not n.startswith("_")) - _DESCRIBED - {"build", "model_config"}
