"""Meshes of files as geometries: parts, points inside and on the boundary, and what bounds no region."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

meshio = pytest.importorskip("meshio", reason="needs meshio (pip install 'orchestrator[mesh]')")

from backends.errors import UserError  # noqa: E402
from backends.geometry.files import GeometryFile  # noqa: E402
from backends.geometry.mesh import Outline, Surface, read_shape  # noqa: E402
from backends.geometry.sampling import inside, on_boundary, parts, volume  # noqa: E402
from backends.networks import MLP  # noqa: E402
from backends.pde.domain_picture import picture  # noqa: E402
from backends.pde.problem import Problem, hard, residual  # noqa: E402
from backends.task import Context, Parts  # noqa: E402

OPS: Any = __import__("backends.ops", fromlist=["NumpyOps"]).NumpyOps()


def ring(path: Path, count: int = 60) -> Path:
    """An annulus 0.5 < r < 1 of triangles, its rims called inner and outer, in gmsh's format."""
    angles = 2 * math.pi * np.arange(count) / count
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    points = np.concatenate([0.5 * circle, circle])
    i = np.arange(count)
    j = (i + 1) % count
    triangles = np.concatenate([np.stack([i, i + count, j], 1), np.stack([j, i + count, j + count], 1)])
    triangles[::3] = triangles[::3, ::-1]  # files have cells of both senses
    lines = np.concatenate([np.stack([i, j], 1), np.stack([i + count, j + count], 1)])
    tags = [np.full(2 * count, 3), np.repeat([1, 2], count)]
    mesh = meshio.Mesh(
        points,
        [("triangle", triangles), ("line", lines)],
        cell_data={"gmsh:physical": tags, "gmsh:geometrical": tags},
        field_data={"inner": np.array([1, 1]), "outer": np.array([2, 1]), "body": np.array([3, 2])},
    )
    meshio.write(path, mesh, file_format="gmsh22", binary=False)
    return path


CORNERS = np.array([[x, y, z] for x in (0, 2) for y in (0, 1) for z in (0, 1)], float)
FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def brick(path: Path, skip: int = 0) -> Path:
    """A brick 2 x 1 x 1 as a surface of twelve triangles (or fewer), all turned inwards."""
    triangles = np.array([t for a, b, c, d in FACES for t in ((a, c, b), (a, d, c))])[skip:]
    meshio.write(path, meshio.Mesh(CORNERS, [("triangle", triangles[:, ::-1])]))
    return path


def tetrahedra(path: Path) -> Path:
    """The same brick as five tetrahedra."""
    cells = np.array([(0, 1, 2, 4), (3, 1, 2, 7), (5, 1, 4, 7), (6, 2, 4, 7), (1, 2, 4, 7)])
    meshio.write(path, meshio.Mesh(CORNERS, [("tetra", cells)]))
    return path


def test_a_mesh_of_triangles_in_the_plane_is_its_outline_with_named_parts(tmp_path: Path):
    shape = read_shape(ring(tmp_path / "ring.msh"))
    assert isinstance(shape, Outline)
    exact = 0.75 * 60 * math.sin(math.pi / 30) / 2  # of the polygons
    assert volume(shape) == pytest.approx(exact)
    assert set(parts(shape)) == {"inner", "outer"}
    found = inside(shape, ("x", "y"), 500, "sobol", np.random.default_rng(0))
    radius = np.hypot(found["x"], found["y"])
    assert radius.min() > 0.49 and radius.max() < 1
    rim = on_boundary(shape, "inner", ("x", "y"), 200, "uniform", np.random.default_rng(0))
    assert np.abs(np.hypot(rim["x"], rim["y"]) - 0.5).max() < 1e-3
    outward = rim["normal_x"] * rim["x"] + rim["normal_y"] * rim["y"]
    assert (outward < -0.49).all(), "out of the ring is towards its centre"
    points = np.stack([rim["x"], rim["y"]], 1)
    assert np.abs(shape.signed_distance(points)).max() < 1e-9


@pytest.mark.parametrize(
    "made", [lambda f: brick(f / "b.stl"), lambda f: brick(f / "b.ply"), lambda f: tetrahedra(f / "b.vtu")]
)
def test_surfaces_and_tetrahedra_bound_a_region_whatever_their_sense(tmp_path: Path, made):
    shape = read_shape(made(tmp_path))
    assert isinstance(shape, Surface)
    assert volume(shape) == pytest.approx(2.0) and shape.bounds() == ((0, 0, 0), (2, 1, 1))
    names = ("x", "y", "z")
    found = inside(shape, names, 200, "uniform", np.random.default_rng(0))
    points = np.stack([found[c] for c in names], 1)
    assert (points > 0).all() and (points < [2, 1, 1]).all()
    exact = -np.minimum(points, [2, 1, 1] - points).min(axis=1)
    np.testing.assert_allclose(shape.signed_distance(points), exact, atol=1e-6)
    far = np.array([[3.0, 0.5, 0.5], [3, 2, 1], [-1, -1, -1]])
    np.testing.assert_allclose(shape.signed_distance(far), [1, math.sqrt(2), math.sqrt(3)], atol=1e-6)
    wall = on_boundary(shape, "boundary", names, 2000, "uniform", np.random.default_rng(1))
    at, out = (np.stack([wall[prefix + c] for c in names], 1) for prefix in ("", "normal_"))
    assert np.abs(shape.signed_distance(at)).max() < 1e-9
    assert (shape.signed_distance(at + 1e-4 * out) > 0).all()
    share = (np.abs(out[:, 0]) > 0.9).mean()
    assert share == pytest.approx(2 / 10, abs=0.03), "by area: two ends of 1 among 10"


class Ring(Problem):
    length: float = 1.0
    coords = {"x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)
    geometry = "file"

    @residual
    def pde(self, f):
        return f.laplacian("u")

    @residual(on="outer")
    def rim(self, f):
        return f.normal("u") - 1.0

    @residual(on="inner")
    def hole(self, f):
        return f("u")

    @hard("hole")
    def ansatz(self, f):
        return {"u": f.distance("inner") * f("u")}


def test_an_experiment_names_its_mesh_and_terms_stand_on_its_parts(tmp_path: Path):
    ring(tmp_path / "ring.msh")
    given = {"geometry": GeometryFile(path="ring.msh"), "folder": tmp_path, "constraints": "hard"}
    task: Any = Ring().build(Parts(MLP(width=6, depth=2), **given))
    assert set(task.feed(0).take(0, 1).fixed()) == {"interior", "outer"}
    params = task.init(np.random.default_rng(0))
    rim = task.held_out(50)["inner"]
    values = task.per_sample(OPS, params, "inner", rim, Context({}))
    assert np.abs(values["hole"]).max() < 1e-12
    at = task.held_out(50)["interior"]
    found = task.predict(OPS, params, ["u_xx", "u_yy", "residual/pde"], at, Context({}))
    np.testing.assert_allclose(found["residual/pde"], found["u_xx"] + found["u_yy"], rtol=1e-9)
    shown = picture(task, task.feed(0).take(0, 1).fixed())
    assert shown is not None and {"interior", "outer", "inner"} <= set(shown.panels)
    other: Any = Ring().build(
        Parts(
            MLP(width=6, depth=2),
            geometry=GeometryFile(path="ring.msh", scale=0.9),
            folder=tmp_path,
            constraints="hard",
        )
    )
    assert other.signature != task.signature


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda f: f / "missing.msh", "there is no file"),
        (lambda f: _text(f / "a.msh", "hello"), "can't be read as a mesh"),
        (lambda f: _text(f / "a.vtu", "<xml"), "can't be read as a mesh"),
        (lambda f: _text(f / "a.stl", "solid"), "a.stl holds no points"),
        (lambda f: brick(f / "open.stl", skip=1), r"the surface is not closed \(3 edges belong to one triangle\)"),
        (lambda f: _lines(f / "lines.vtu"), "holds line, and neither triangles nor tetrahedra"),
        (lambda f: _flat(f / "flat.vtu"), "triangle 1 has no extent"),
        (lambda f: _nan(f / "nan.vtu"), "points that are not finite"),
    ],
)
def test_meshes_that_bound_nothing_are_refused(tmp_path: Path, made, expected: str):
    with pytest.raises(UserError, match=expected):
        read_shape(made(tmp_path))


def test_a_mesh_outside_the_coordinates_is_refused_with_the_field_to_blame(tmp_path: Path):
    ring(tmp_path / "ring.msh")
    with pytest.raises(UserError, match="reaches from x = -2 to 2, beyond the coordinate's bounds") as caught:
        Ring().build(Parts(MLP(width=6, depth=2), geometry=GeometryFile(path="ring.msh", scale=2.0), folder=tmp_path))
    assert caught.value.path == "geometry.path"


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _lines(path: Path) -> Path:
    meshio.write(path, meshio.Mesh(CORNERS, [("line", np.array([[0, 1]]))]))
    return path


def _flat(path: Path) -> Path:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    meshio.write(path, meshio.Mesh(points, [("triangle", np.array([[0, 1, 2], [0, 1, 3]]))]))
    return path


def _nan(path: Path) -> Path:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [np.nan, 1, 0]])
    meshio.write(path, meshio.Mesh(points, [("triangle", np.array([[0, 1, 2]]))]))
    return path
