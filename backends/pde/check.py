"""What can be wrong with a problem's class: found when it is defined, before any number is computed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backends.errors import nearest
from backends.pde.domain import spatial
from backends.pde.marks import FULFILS, marked
from backends.pde.parameters import bounds, is_parameter, parameters
from backends.pde.regions import PLACES, Region

if TYPE_CHECKING:
    from backends.pde.problem import Problem

RESERVED = ("at", "on", "scale", "ops", "interior", "boundary")
"""Names with a meaning of their own in decorators and regions."""
SCALES = (None, "linear", "log")


def mistakes(cls: type[Problem], own_names: frozenset[str]) -> Iterator[str]:
    """One sentence per mistake. `own_names`: attributes of Problem that are not meant to be overridden."""
    if not cls.coords or not cls.fields or not cls.declared():
        missing = "coords" if not cls.coords else "fields" if not cls.fields else ""
        yield f"{missing} is missing" if missing else "no method is marked @residual or @loss"
        return
    if isinstance(cls.fields, str):
        yield f'fields must be a tuple: write ("{cls.fields}",)'
        return
    for c, entry in cls.coords.items():
        if is_parameter(entry) and (
            not {"range"} <= set(entry) <= {"range", "scale"} or entry.get("scale") not in SCALES
        ):
            yield f'coords: {c!r} needs {{"range": (low, high), "scale": "log" or "linear"}}, not {entry!r}'
            return
        given = entry["range"] if is_parameter(entry) else entry
        if not isinstance(given, tuple | list) or len(given) != 2:
            yield f"coords: {c!r} needs (low, high), not {given!r}"
            return
    yield from cls.vocabulary().mistakes()
    yield from (f"{c!r} can't be the name of a coordinate" for c in cls.coords if c in RESERVED)
    for name in [*vars(cls), *cls.model_fields]:
        if name in own_names:
            yield f"{name!r} is a name that every Problem has already; rename yours"
    yield from _numbers(cls)
    yield from _words(cls)
    for name, mark in cls.declared().items():
        yield from (f"{name}: {m}" for m in _region(cls, mark.region))
    ansatz = marked(cls, FULFILS)
    if len(ansatz) > 1:
        yield f"only one method may be marked @hard, not {' and '.join(ansatz)}"
    for term in (t for terms in ansatz.values() for t in terms):
        if term not in cls.declared():
            yield f"@hard: {term!r} is no term{nearest(term, cls.declared())}"


def _numbers(cls: type[Problem]) -> Iterator[str]:
    """Numbers may be names of float fields."""
    floats = cls.float_fields()
    # A property would hide which fields a bound depends on, and those must not change during a run.
    structure = [(f"coords: {c}", b) for c, entry in cls.coords.items() for b in bounds(entry)]
    sizes = [(f"{w}: {name}", v) for w in ("unknowns", "scales") for name, v in getattr(cls, w).items()]
    for name, mark in cls.declared().items():
        structure += [(f"{name}: {c}", v) for c, v in mark.region.where if v not in PLACES]
        sizes.append((f"{name}: scale", mark.scale))
    properties = [n for n in dir(cls) if isinstance(inspect.getattr_static(cls, n), property)]
    for numbers, known in ((structure, floats), (sizes, (*floats, *properties))):
        for where, value in numbers:
            if isinstance(value, str) and value not in known:
                yield f"{where}: {value!r} is no float field of the class{nearest(value, [*known, *PLACES])}"
            elif not isinstance(value, str | int | float) or isinstance(value, bool):
                yield f"{where}: {value!r} is neither a number nor the name of a float field"


def _words(cls: type[Problem]) -> Iterator[str]:
    if cls.time and (cls.time not in cls.coords or cls.time in parameters(cls)):
        yield f"time: {cls.time!r} is no coordinate{nearest(cls.time, cls.coords)}"
    if all(is_parameter(entry) for entry in cls.coords.values()):
        yield "coords: all of them are parameters, and nothing is left to derive by"
    known = {
        "scales": cls.fields,
        "reference_grid": cls.coords,
        "periodic": [c for c in cls.coords if c not in parameters(cls)],
    }
    for name, coords in cls.depends.items():
        if name not in cls.fields:
            yield f"depends: {name!r} is no field{nearest(name, cls.fields)}"
        if isinstance(coords, str) or not coords:
            yield f'depends: {name!r} needs a tuple of coordinates: write ("{coords or next(iter(cls.coords))}",)'
        for c in coords if not isinstance(coords, str) else ():
            if c not in cls.coords:
                yield f"depends: {name!r}: {c!r} is no coordinate{nearest(c, cls.coords)}"
    for c, kinds in cls.symmetry.items():
        if c not in spatial(cls) or c in cls.periodic:
            yield f"symmetry: {c!r} is no coordinate in space that could be mirrored{nearest(c, spatial(cls))}"
        for name, kind in kinds.items() if isinstance(kinds, Mapping) else [(cls.fields[0], kinds)]:
            if name not in cls.fields or kind not in ("even", "odd"):
                yield f"symmetry: {c!r}: {name!r}: {kind!r} must be even or odd, of a field"
    if isinstance(cls.truth, Mapping):
        known["truth"] = cls.unknowns
    for word, names in known.items():
        for name in getattr(cls, word):
            if name not in names:
                yield f"{word}: {name!r} is not known{nearest(name, names)}"


def _region(cls: type[Problem], region: Region) -> Iterator[str]:
    if sum(map(bool, (region.where, region.on, region.at))) > 1:
        yield "say where by coordinates, or by on=, or by at=, not by two of them"
    for c, v in region.where:
        if c not in cls.coords:
            yield f"{c!r} is no coordinate{nearest(c, cls.coords)}"
        elif v in PLACES and c in parameters(cls):
            yield f"{c!r} is a parameter and has no boundary"
    if sum(v == "periodic" for _, v in region.where) > 1:
        yield "only one coordinate of a term can be periodic; write a term for each"
    if region.on not in ("", "boundary") and cls.geometry is None:
        yield (
            f"on={region.on!r} is not known; allowed here: boundary (parts of a boundary are those of a `geometry`; "
            'write geometry = "file" where the experiment file brings it)'
        )
    if region.on in RESERVED and region.on != "boundary":
        yield f"on={region.on!r} can't be the name of a part"
    if region.on and not spatial(cls):
        yield "on='boundary' needs a coordinate besides time; mark it with the time's value"
    if region.at and (not callable(getattr(cls, region.at, None)) or region.at in RESERVED):
        yield f"at={region.at!r}: there is no method {region.at}(self, rng) that returns columns"
