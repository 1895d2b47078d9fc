"""The geometry that an experiment file names: `geometry: {path: wing.msh}`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat

from backends.geometry.shape import Shape
from backends.spec import Leaf

MeshPath = Annotated[str, Field(pattern=r"(?i)\.(msh|vtu|vtk|stl|ply|obj|off|xdmf|inp|mesh|bdf|su2)$")]
"""A mesh in any of meshio's formats, relative to the experiment file."""


class GeometryFile(Leaf):
    """The domain as a mesh: triangles of the plane, tetrahedra, or a closed surface of triangles in space."""

    path: MeshPath
    """The file (needs meshio: `pip install orchestrator[mesh]`)."""
    scale: PositiveFloat = 1.0
    """What its coordinates are multiplied by: 0.001 for millimetres in a problem in metres."""

    def load(self, folder: Path) -> Shape:
        """The shape. Raises UserError where the mesh can't be read or bounds no region."""
        from backends.geometry.mesh import read_shape

        return read_shape(folder / self.path, self.scale)
