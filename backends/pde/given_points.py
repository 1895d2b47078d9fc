"""Points, parts of a boundary and geometries that the user's files bring, checked against the problem's domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blaming
from backends.errors import UserError
from backends.geometry.sampling import BOUNDARY, parts
from backends.names import NORMAL
from backends.pde.domain import SLACK, beyond, positions, put, shape_of, spatial
from backends.pde.parameters import family
from backends.pde.regions import ROUNDED, Box, Face, Region, faces
from backends.spec import Points
from backends.tables import names_in, read_table
from backends.task import Columns, Parts

if TYPE_CHECKING:
    from backends.pde.problem import Problem


def domain_of(problem: Problem, given: Parts) -> Problem:
    """The problem in the domain that the experiment file describes: its parameters, mesh, and points of parts."""
    problem = family(problem, given.coords)
    if given.geometry is not None:
        with blaming("geometry.path"):
            problem = put(problem, given.geometry.load(given.folder), {})
    return put(problem, None, clouds_in(problem, given.points, given.folder))


def points_in(path: Path, problem: Problem, region: Region) -> Columns:
    """The coordinates of a file, all of them in the region; on the boundary with columns `normal_<coordinate>`.

    Normals are the file's own where it has such columns. Raises UserError where the file is unusable, or with the first
    row that lies elsewhere.
    """
    box = problem.box()
    columns: dict[str, NDArray[Any]] = dict(read_table(path, list(box)))
    inside_of(path, columns, problem)
    if region.interior:
        return columns
    if region.on and (normals := _normals(path, spatial(problem))):
        columns |= normals
    if shape_of(problem) is not None or region.on not in ("", BOUNDARY):
        return _on_shape(path, columns, problem, region)
    pieces = faces(problem, region)
    found = np.full(len(columns[next(iter(box))]), -1)
    for i in reversed(range(len(pieces))):
        found[_on(pieces[i], columns, box, region.periodic)] = i
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise UserError(f"{path}: row {row + 1} ({_point(columns, row)}) is not on {region.name}")
    for c in (c for c in pieces[0].normal if NORMAL + c not in columns):
        columns[NORMAL + c] = np.array([p.normal[c] for p in pieces])[found]
    return columns


def _on(piece: Face, columns: Columns, box: Box, periodic: str) -> NDArray[np.bool_]:
    on = np.ones(len(next(iter(columns.values()))), bool)
    for c, value in piece.fixed.items():
        if c != periodic:  # its two ends are put there anyway
            on &= np.abs(columns[c] - value) <= 1e-9 * (box[c][1] - box[c][0])
    return on


def clouds_in(problem: Problem, points: Mapping[str, Points], folder: Path) -> dict[str, Columns]:
    """Part of the boundary -> the points that a file lists for its term, where no geometry has that part."""
    shape, found = shape_of(problem), {}
    for term in problem.declared():
        part = problem.region(term).on
        if part and part != BOUNDARY and (shape is None or part not in parts(shape)):
            given = points.get(term)
            if given is None or given.path is None:
                known = f": the geometry has {', '.join(parts(shape))}" if shape else ""
                raise UserError(
                    f"the term {term!r} stands on {part!r}, of which nothing is known{known}; list its points, "
                    f"`points: {{{term}: {{path: {part}.csv}}}}`, or give `geometry: {{path: …}}` a mesh that has it",
                    path=f"points.{term}",
                )
            with blaming(f"points.{term}.path"):
                found[part] = points_in(folder / given.path, problem, problem.region(term))
    return found


def _normals(path: Path, space: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The columns `normal_<coordinate>` of a file, at unit length; empty where it has none."""
    names = [NORMAL + c for c in space]
    if not set(names) <= set(names_in(path)):
        return {}
    found = np.stack([read_table(path, names)[n] for n in names], 1)
    length = np.linalg.norm(found, axis=1)
    if (length == 0).any():
        raise UserError(f"{path}: the normal in row {int(np.argmin(length)) + 1} has no direction")
    return {n: found[:, i] / length for i, n in enumerate(names)}


def _on_shape(path: Path, columns: dict[str, NDArray[Any]], problem: Problem, region: Region) -> Columns:
    """Points on a part of the geometry's boundary, or on a part that the file alone knows."""
    shape, space = shape_of(problem), spatial(problem)
    if shape is None:
        return columns
    at = positions(problem, columns)
    far = np.abs(shape.signed_distance(at)) > ROUNDED * shape.size
    if region.on and far.any():
        row = int(np.argmax(far))
        raise UserError(f"{path}: row {row + 1} ({_point(columns, row)}) is not on {region.name}")
    if region.on and NORMAL + space[0] not in columns:
        columns |= {NORMAL + c: v for c, v in zip(space, shape.normals(at).T, strict=True)}
    for c, value in region.where:
        off = np.abs(columns[c] - value) > SLACK * np.ptp(problem.box()[c]) if isinstance(value, float) else None
        if off is not None and off.any():
            row = int(np.argmax(off))
            raise UserError(f"{path}: row {row + 1} ({_point(columns, row)}) is not on {region.name}")
    return columns


def inside_of(path: Path, columns: Columns, problem: Problem) -> None:
    """Raises UserError with the first row that lies outside the domain."""
    inside_box(path, columns, problem.box())
    outside = beyond(problem, columns, ROUNDED)
    if outside.any():
        row = int(np.argmax(outside))
        raise UserError(
            f"{path}: row {row + 1} ({_point(columns, row)}) lies outside the geometry ({int(outside.sum())} of "
            f"{len(outside)} rows do)"
        )


def inside_box(path: Path, columns: Columns, box: Box) -> None:
    """Raises UserError with the first row that lies outside the coordinates' bounds."""
    for c, (low, high) in box.items():
        slack = 1e-9 * (high - low)
        outside = (columns[c] < low - slack) | (columns[c] > high + slack)
        if outside.any():
            row = int(np.argmax(outside))
            raise UserError(
                f"{path}: {c} = {columns[c][row]:g} in row {row + 1} lies outside the domain, {low:g} … {high:g}"
                f" ({int(outside.sum())} of {len(outside)} rows do)"
            )


def _point(columns: Columns, row: int) -> str:
    return ", ".join(f"{c} = {v[row]:g}" for c, v in columns.items())
