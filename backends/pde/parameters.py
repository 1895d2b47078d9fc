"""Parametric problems: coefficients that the network reads like coordinates, and that nothing is derived by.

    coords = {"t": (0, 1), "x": (-1, 1), "nu": {"range": (0.001, 0.1), "scale": "log"}}

or, in an experiment file, for a float field of any problem, `coords: {nu: {range: [0.001, 0.1], scale: log}}`: one
network then stands for the whole family, `self.nu` is one value per sample, and a prediction takes a value of nu.
Parameters are no part of boundaries, normals and Laplacians.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError, nearest
from backends.spec import Leaf

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Scale = Literal["linear", "log"]
GRID = 5
"""Values of a parameter in a reference grid that says nothing about it."""


class Range(Leaf):
    """A coefficient of the equation as an input of the network."""

    range: tuple[float, float]
    """The least and the largest value."""
    scale: Scale = "linear"
    """log: values are drawn, and seen by the network, by their logarithm."""

    @model_validator(mode="after")
    def _rises(self) -> Range:
        low, high = self.range
        if not low < high:
            raise PydanticCustomError("range", "must rise: [{low}, {high}]", {"low": low, "high": high})
        if self.scale == "log" and low <= 0:
            raise PydanticCustomError("range", "must lie above 0 for `scale: log`, not begin at {low}", {"low": low})
        return self


def is_parameter(entry: Any) -> bool:
    """Whether an entry of `coords` describes a parameter."""
    return isinstance(entry, Mapping)


def bounds(entry: Any) -> tuple[Any, Any]:
    """(low, high) of an entry of `coords`: numbers, or names of float fields."""
    low, high = entry["range"] if is_parameter(entry) else entry
    return low, high


def parameters(problem: Problem | type[Problem]) -> dict[str, Scale]:
    """The parameters among the coordinates, with their scales."""
    return {c: entry.get("scale", "linear") for c, entry in problem.coords.items() if is_parameter(entry)}


def swept(problem: Problem | type[Problem]) -> tuple[str, ...]:
    """The parameters that are float fields as well: `self.nu` is then one value per sample."""
    cls = problem if isinstance(problem, type) else type(problem)
    return tuple(p for p in parameters(cls) if p in cls.model_fields)


def at(problem: Problem, values: Mapping[str, Any]) -> Problem:
    """The problem with the values of its swept fields."""
    names = swept(problem)
    return problem.model_copy(update={n: values[n] for n in names}) if names else problem


def spread(problem: Problem, name: str, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers in [0, 1] as values of a coordinate, even on its scale."""
    low, high = problem.box()[name]
    if parameters(problem).get(name) != "log":
        return low + (high - low) * unit
    return np.clip(np.exp(math.log(low) + (math.log(high) - math.log(low)) * unit), low, high)


def unit(problem: Problem, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The opposite of `spread`."""
    low, high = problem.box()[name]
    if parameters(problem).get(name) != "log":
        return (values - low) / (high - low)
    return np.log(values / low) / math.log(high / low)


def middle(problem: Problem, name: str) -> float:
    """The middle of a coordinate's range, on its scale."""
    return float(spread(problem, name, np.array([0.5]))[0])


def family(problem: Problem, given: Mapping[str, Range]) -> Problem:
    """The problem with some of its float fields as inputs of the network.

    Raises UserError where a name is no float field, decides the domain, or can't take the range's values.
    """
    if not given:
        return problem
    cls = type(problem)
    free = problem.floats()
    for name, wanted in given.items():
        if name in cls.coords:
            raise UserError(f"{name!r} is a coordinate of {cls.__name__} already", path=f"coords.{name}")
        if name in cls.float_fields() and name not in free:
            raise UserError(
                f"{name!r} shapes the domain, so it can't be an input of the network", path=f"coords.{name}"
            )
        if name not in free:
            raise UserError(
                f"{name!r} is no float setting of {cls.__name__}{nearest(name, free)}", path=f"coords.{name}"
            )
        for value in wanted.range:
            try:
                cls.model_validate({**problem.model_dump(), name: value})
            except ValidationError as error:
                raise UserError(
                    f"{name} = {value:g}: {error.errors()[0]['msg']}", path=f"coords.{name}.range"
                ) from None
    made = _with_parameters(cls, tuple((n, *r.range, r.scale) for n, r in given.items()))
    return made.model_validate(problem.model_dump())


@lru_cache(maxsize=32)
def _with_parameters(cls: type[Problem], given: tuple[tuple[str, float, float, Scale], ...]) -> type[Problem]:
    """A class with more coordinates; the same for the same ranges, so that programs are shared."""
    coords = {**cls.coords, **{n: {"range": (low, high), "scale": scale} for n, low, high, scale in given}}
    body = {"coords": coords, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    metaclass: Any = type(cls)
    return metaclass(cls.__name__, (cls,), body)
