"""Predictions for ParaView, read back: grids as cells, times as files, geometries cut out; points outside are told."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_backend import use

meshio = pytest.importorskip("meshio", reason="needs meshio (pip install 'orchestrator[mesh]')")

from orchestrator import cli, predict, run  # noqa: E402
from orchestrator.vtk_written import VtkOut  # noqa: E402

OWN = """
from orchestrator import Problem, residual
from orchestrator.geometry import Disk, Rectangle

class Plate(Problem):
    coords = {"t": (0, 1), "x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)
    time = "t"
    geometry = Rectangle((-1, -1), (1, 1)) - Disk((0, 0), 0.5, name="hole")

    @residual
    def pde(self, f):
        return f("u_t") - f.laplacian("u")

    @residual(on="hole")
    def hole(self, f):
        return f("u") - f("x")
"""
TREE: dict[str, Any] = {
    "name": "plate",
    "task": {"kind": "custom", "target": "own.py:Plate"},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {"pde": 16, "hole": 8},
    "stages": [{"kind": "adam", "steps": 2, "lr": 0.1}],
    "evaluate": {"every": 2, "points": 20},
    "resources": {"workers": 0},
    "tracking": {"enabled": False},
}


@pytest.fixture
def trained(here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    use(monkeypatch)
    monkeypatch.setattr("orchestrator.figures.draw_all", lambda *args: [])
    (here / "own.py").write_text(OWN)
    return run(TREE)


def call(capsys: Any, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", "plate", *arguments])
    return int(left.value.code or 0), capsys.readouterr().err


def test_a_run_in_a_geometry_draws_it_before_training(trained: Any):
    figure = Path(trained.folder.path) / "figures" / "geometry-000000000.png"
    assert figure.is_file() and figure.stat().st_size > 5000
    data = np.load(figure.with_suffix(".npz"))
    assert data["interior"].shape == (16, 2) and data["hole"].shape == (8, 4)


def test_every_time_is_a_file_and_cells_in_the_hole_are_left_out(trained: Any, here: Path, capsys: Any):
    code, said = call(capsys, "--grid", "t=0:1:3,x=-1:1:21,y=-1:1:11", "--outputs", "u,u_x", "--out", "field.vtu")
    assert code == 0
    assert "wrote field.pvd (693 points" in said
    assert "points lie outside the geometry, where the network was never trained" in said
    listed = ET.parse(here / "field.pvd").getroot().findall(".//DataSet")
    assert [(d.get("timestep"), d.get("file")) for d in listed] == [
        (str(t), f"field-{i:04d}.vtu") for i, t in enumerate((0.0, 0.5, 1.0))
    ]
    mesh = meshio.read(here / "field-0001.vtu")
    assert mesh.points.shape == (231, 3) and np.unique(mesh.points[:, 2]).tolist() == [0]
    cells = mesh.cells_dict["quad"]
    assert 100 < len(cells) < 200
    corners = mesh.points[cells]
    assert np.hypot(corners[..., 0], corners[..., 1]).min() > 0.5 - 1e-6
    edges = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
    np.testing.assert_allclose(edges, np.tile([0.1, 0.2, 0.1, 0.2], (len(cells), 1)), atol=1e-6)
    exact = predict("plate", {"t": np.full(231, 0.5), "x": mesh.points[:, 0], "y": mesh.points[:, 1]}, ["u", "u_x"])
    for name, values in exact.items():
        np.testing.assert_allclose(mesh.point_data[name], values, rtol=1e-12)
    assert (mesh.point_data["t"] == 0.5).all()


def test_points_of_a_file_are_vertices(trained: Any, here: Path, capsys: Any):
    (here / "p.csv").write_text("t,x,y\n0,0.7,0.7\n0,0.1,0\n")
    code, said = call(capsys, "--points", "p.csv", "--out", "p.vtk")
    assert code == 0 and "1 of 2 points lie outside the geometry" in said
    mesh = meshio.read(here / "p.vtk")
    assert len(mesh.cells_dict["vertex"]) == 2
    np.testing.assert_allclose(mesh.points, [[0.7, 0.7, 0], [0.1, 0, 0]])


@pytest.mark.parametrize(
    ("axes", "kind", "count"),
    [
        ({"x": 4}, "line", 3),
        ({"y": 3, "x": 4}, "quad", 6),
        ({"x": 4, "y": 3, "z": 2}, "hexahedron", 6),
        ({"x": 4, "y": 1, "z": 2}, "quad", 3),
        ({"x": 4, "k": 2}, "vertex", 8),
    ],
)
def test_grids_are_cells_of_positive_size_in_any_order_of_axes(tmp_path: Path, axes: dict, kind: str, count: int):
    values = {c: np.linspace(0, n - 1.0, n) for c, n in axes.items()}
    space = tuple(c for c in ("x", "y", "z") if c in axes)
    meshed = {c: m.ravel() for c, m in zip(values, np.meshgrid(*values.values(), indexing="ij"), strict=True)}
    path = tmp_path / "g.vtu"
    with VtkOut(path, space, axes=values) as out:
        out.add(meshed, {"u": sum(meshed.values())})
    mesh = meshio.read(path)
    cells = mesh.cells_dict[kind]
    assert len(cells) == count
    np.testing.assert_allclose(mesh.point_data["u"], mesh.points.sum(1) + meshed.get("k", 0.0))
    corners = mesh.points[cells]
    if kind == "quad":
        steps = np.roll(corners, -1, axis=1) - corners
        np.testing.assert_allclose(np.linalg.norm(steps, axis=2), 1.0)
        np.testing.assert_allclose(steps.sum(1), 0.0, atol=1e-12)
    if kind == "hexahedron":
        e = corners[:, [1, 3, 4]] - corners[:, :1]
        np.testing.assert_allclose(np.linalg.det(e), 1.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("--grid", "t=0,x=0,y=0", "--out", "o.vti"), "must end in .csv or .npz, or .vtu or .vtk for ParaView")],
)
def test_other_files_are_refused(trained: Any, capsys: Any, arguments: tuple, expected: str):
    code, said = call(capsys, *arguments)
    assert code == 2 and expected in said


def test_check_draws_the_domain_and_says_what_it_is(here: Path, capsys: Any):
    (here / "own.py").write_text(OWN)
    (here / "plate.yaml").write_text(
        "name: plate\ntask: {kind: custom, target: 'own.py:Plate'}\nstages: [{kind: adam, steps: 1}]\n"
    )
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "plate.yaml", "--figure", "domain.png"])
    said = capsys.readouterr().err
    assert not left.value.code, said
    assert "geometry: area 3.21" in said and "parts left, right, bottom, top, hole" in said
    assert (here / "domain.png").is_file()
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "plate.yaml", "--figure", "domain.txt"])
    assert left.value.code == 2 and "must end in .png, .pdf, .svg" in capsys.readouterr().err
