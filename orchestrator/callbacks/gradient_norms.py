"""How long the gradient is, layer by layer: where training stands still, and where it is about to explode."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod, sqrt
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from backends.periods import Period
from backends.spec import Leaf
from orchestrator.hooks import Ask, Moment, Surroundings

_WEIGHT = re.compile(r"(?:weight|bias|kernel|scale|w|b)_?")


class GradientNorms(Leaf):
    """Record the 2-norm of the weighted loss's gradient: `gradient` over all parameters, `gradient/<layer>` by part."""

    kind: Literal["gradient_norms"] = "gradient_norms"
    every: Period = 100
    """Optimizer steps (or `1 epoch`) between measurements; each costs about as much as a step."""
    by: Literal["layer", "group", "parameter"] = "layer"
    """The parts: layers (`w0` and `b0` together), the file's `groups` (the others are `rest`), or single arrays."""

    def make(self, folder: Path) -> MeasuresGradients:
        """The callback itself."""
        return MeasuresGradients(self)


class MeasuresGradients:
    """The behaviour of `gradient_norms`."""

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __init__(self, spec: GradientNorms) -> None:
        self.spec, self.every = spec, spec.every
        self.parts: list[tuple[str, int]] = []
        """Part and length of each array of the flat gradient, in order."""

    def attach(self, around: Surroundings) -> None:
        """Learn how the flat gradient is laid out."""
        part = {"layer": layer_of, "group": lambda name: around.groups.get(name, "rest"), "parameter": str}[
            self.spec.by
        ]
        self.parts = [(part(name), prod(shape)) for name, shape in around.layout]

    def start(self, moment: Moment) -> Ask | None:
        """The gradient at step 0."""
        return self.step(moment)

    def step(self, moment: Moment) -> Ask | None:
        """Measure, where a gradient was probed."""
        if "gradient" not in moment.probe:
            return None
        return Ask(metrics=norms(moment.probe["gradient"], self.parts))


def norms(gradient: np.ndarray, parts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """2-norms of a flat gradient [parameters]: `gradient` of all of it, `gradient/<part>` of each part."""
    squares: dict[str, float] = {}
    at = 0
    for part, size in parts:
        piece = gradient[at : at + size]
        squares[part] = squares.get(part, 0.0) + float(piece @ piece)
        at += size
    return {"gradient": sqrt(sum(squares.values())), **{f"gradient/{part}": sqrt(s) for part, s in squares.items()}}


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: `encoder/w0` -> `encoder/0`, `b_u` -> `u`, `net.2.weight` -> `net.2`."""
    parent, slash, last = name.rpartition("/")
    inner, dot, leaf = last.rpartition(".")
    if dot:
        return f"{parent}{slash}{inner}" if _WEIGHT.fullmatch(leaf) else name
    found = _WEIGHT.match(last)
    rest = last[found.end() :] if found else last
    if found and not rest:
        return parent or last
    return f"{parent}{slash}{rest}"
