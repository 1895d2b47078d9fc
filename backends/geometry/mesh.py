"""Meshes of files as shapes: the outline of triangles in the plane, a closed surface of triangles in space."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError, nearest
from backends.geometry import surface
from backends.geometry.polygon import Segments
from backends.geometry.segments import Ends
from backends.geometry.shape import Patch, Points, Primitive, Vector

Cells = NDArray[np.int64]
"""[cells, corners]: rows of points."""
FACES = {"triangle": ((0, 1), (1, 2), (2, 0)), "tetra": ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))}
"""The sides of a cell, seen from outside counter-clockwise."""


@dataclass(frozen=True)
class Outline(Segments):
    """What is within the boundary of a mesh of triangles in the plane; holes stay holes."""

    corners: tuple[tuple[Vector, Vector], ...]
    """Start and end of every segment, the inside to its left."""
    _: KW_ONLY
    tags: tuple[str, ...] = ()
    """The part that each segment belongs to, or empty."""
    name: str = ""

    @cached_property
    def ends(self) -> tuple[Ends, Ends]:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        both = np.array(self.corners)
        return both[:, 0], both[:, 1]

    def groups(self) -> dict[str, list[int]]:
        return _grouped(self.tags or ("",) * len(self.corners))


@dataclass(frozen=True)
class Surface(Primitive):
    """What is within a closed surface of triangles, whose corners run counter-clockwise seen from outside."""

    triangles: tuple[tuple[Vector, Vector, Vector], ...]
    _: KW_ONLY
    tags: tuple[str, ...] = ()
    name: str = ""

    @property
    def dimension(self) -> int:
        return 3

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """[triangles, 3, 3]"""
        return np.array(self.triangles)

    @property
    def volume(self) -> float:
        return surface.volume(self.corners)

    def bounds(self) -> tuple[Vector, Vector]:
        flat = self.corners.reshape(-1, 3)
        return tuple(flat.min(0).tolist()), tuple(flat.max(0).tolist())

    def signed_distance(self, points: Points) -> NDArray[np.float64]:
        return surface.signed_distance(np.asarray(points, np.float64), self.corners)

    def patches(self) -> tuple[Patch, ...]:
        groups = _grouped(self.tags or ("",) * len(self.triangles))
        return tuple(self._patch(name, self.corners[rows]) for name, rows in groups.items())

    def _patch(self, name: str, corners: NDArray[np.float64]) -> Patch:
        measure = float(surface.areas(corners).sum())
        return Patch(self._tags(name), measure, 3, lambda unit: surface.scattered(unit, corners), self)


def _grouped(tags: tuple[str, ...]) -> dict[str, list[int]]:
    return {name: [i for i, t in enumerate(tags) if t == name] for name in dict.fromkeys(tags)}


def read_shape(path: Path, scale: float = 1.0) -> Outline | Surface:
    """The region that a mesh bounds. Names of parts are the file's physical groups of lines or triangles (gmsh).

    Raises UserError where the file can't be read, holds no triangles or tetrahedra, or a surface that is not closed.
    """
    mesh = _read(path)
    points = np.asarray(mesh.points, np.float64) * scale
    if points.ndim != 2 or not len(points):
        raise UserError(f"{path} holds no points")
    if not np.isfinite(points).all():
        raise UserError(f"{path}: there are points that are not finite")
    cells: dict[str, Cells] = {kind: np.asarray(rows, np.int64) for kind, rows in mesh.cells_dict.items()}
    flat = points.shape[1] == 2 or float(np.ptp(points[:, 2])) <= 1e-9 * float(np.ptp(points[:, :2], axis=0).max())
    if "tetra" in cells:
        sides = _outward(points, _sides("tetra", _used(path, points, cells["tetra"], "tetra")))
        return _surface(path, points, sides, _parts(mesh, "triangle"))
    if "triangle" not in cells:
        told = ", ".join(cells) or "nothing"
        raise UserError(f"{path} holds {told}, and neither triangles nor tetrahedra: it bounds no region")
    if not flat:
        return _surface(path, points, cells["triangle"], _parts(mesh, "triangle"))
    plane = points[:, :2]
    sides = _sides("triangle", _used(path, plane, cells["triangle"], "triangle"))
    tags = _tagged(sides, _parts(mesh, "line"))
    return Outline(tuple(map(_vectors, plane[sides])), tags=tags)


def _read(path: Path) -> Any:
    try:
        import meshio
    except ImportError:
        raise UserError(f"{path.name}: meshes are read by meshio: pip install 'orchestrator[mesh]'") from None
    if not path.is_file():
        beside = [p.name for p in path.absolute().parent.glob(f"*{path.suffix}")][:20]
        raise UserError(f"there is no file {path}{nearest(path.name, beside)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return meshio.read(path)
    except (Exception, SystemExit) as error:  # its readers raise whatever they stumble over, and some of them exit
        found = said.getvalue() if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path} can't be read as a mesh: {' '.join(found.split())[:300]}") from error


def _used(path: Path, points: Points, cells: Cells, kind: str) -> Cells:
    """The cells, turned so that their measure is positive. Raises UserError where one has none."""
    edges = points[cells[:, 1:]] - points[cells[:, :1]]
    measure = np.linalg.det(edges)
    longest = np.abs(edges).max()
    flat = np.abs(measure) <= 1e-14 * longest ** points.shape[1]
    if flat.any():
        raise UserError(f"{path}: {kind} {int(np.argmax(flat)) + 1} has no extent ({int(flat.sum())} such cells)")
    turned = cells.copy()
    turned[measure < 0, -2:] = cells[measure < 0][:, :-3:-1]
    return turned


def _sides(kind: str, cells: Cells) -> Cells:
    """The sides of cells that belong to one cell only: the boundary."""
    sides = np.concatenate([cells[:, list(face)] for face in FACES[kind]])
    _, first, count = np.unique(np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True)
    return sides[np.sort(first[count == 1])]


def _outward(points: Points, sides: Cells) -> Cells:
    """`_used` gives all cells one sense, so that their sides have one, too; here it is made the outward one."""
    return sides if surface.volume(points[sides]) > 0 else sides[:, ::-1]


def _surface(path: Path, points: Points, sides: Cells, parts: Mapping[frozenset[int], str]) -> Surface:
    # Files such as stl repeat the corners of every triangle.
    extent = float(np.ptp(points, axis=0).max())
    _, same = np.unique(np.round(points / (1e-9 * extent)), axis=0, return_inverse=True)
    merged = same.ravel()[sides]
    edges = np.sort(np.concatenate([merged[:, [0, 1]], merged[:, [1, 2]], merged[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    if (count % 2).any():
        raise UserError(
            f"{path}: the surface is not closed ({int((count % 2).sum())} edges belong to one triangle): it bounds no "
            "region. Close it, or list points with normals (`points: {<term>: {path: wall.csv}}`)"
        )
    corners = points[sides]
    keep = surface.areas(corners) > 0
    corners, sides = corners[keep], sides[keep]
    if surface.volume(corners) < 0:
        corners = corners[:, ::-1]
    return Surface(tuple(map(_vectors, corners)), tags=_tagged(sides, parts))


def _parts(mesh: Any, kind: str) -> dict[frozenset[int], str]:
    """The corners of a side -> the name of its physical group, where the file has some."""
    names = {(int(tag), int(dim)): name for name, (tag, dim) in getattr(mesh, "field_data", {}).items()}
    dimension = {"line": 1, "triangle": 2}[kind]
    rows = mesh.cells_dict.get(kind, np.empty((0, 2)))
    tags = mesh.cell_data_dict.get("gmsh:physical", {}).get(kind, [])
    named = ((row, names.get((int(tag), dimension), "")) for row, tag in zip(rows, tags, strict=False))
    return {frozenset(map(int, row)): name for row, name in named if name}


def _tagged(sides: Cells, parts: Mapping[frozenset[int], str]) -> tuple[str, ...]:
    return tuple(parts.get(frozenset(map(int, side)), "") for side in sides) if parts else ()


def _vectors(rows: NDArray[np.float64]) -> Any:
    return tuple(tuple(map(float, row)) for row in rows)
