"""Problems in geometries: points, normals, hard constraints by distances, reference, pictures, files of points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.data import Observations, Solution
from backends.derivatives.jets import JetOps, Plan, seed
from backends.errors import UserError
from backends.geometry import Disk, Ellipse, Interval, Polygon, Rectangle, Shape, Triangle
from backends.geometry.sampling import inside, on_boundary, parts
from backends.geometry.smooth import distance
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.own.code import load
from backends.pde.domain import shape_of
from backends.pde.domain_picture import picture
from backends.pde.finite_difference import residuals
from backends.pde.problem import Problem, hard, residual
from backends.pde.task import PdeTask
from backends.spec import Fresh, Points, Rad, Rard
from backends.task import Context, Parts, Picture

OPS = NumpyOps()
NETWORK = MLP(width=6, depth=2)


class Plate(Problem):
    """A plate with a hole, heated inside: -Δu = 4, u = -r² on all edges but the left one, where the flux is given."""

    radius: float = 0.3
    load: float = 4.0
    coords = {"x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)
    reference_grid = {"x": 21, "y": 21}

    def geometry(self):
        return Rectangle((-1, -1), (1, 1)) - Disk((0, 0), self.radius, name="hole")

    @residual
    def pde(self, f):
        return f.laplacian("u") + self.load

    @residual(on="hole")
    def hole(self, f):
        return f("u") + f("x") ** 2 + f("y") ** 2

    @residual(on="boundary")
    def flux(self, f):
        x, y = f("x", "y")
        return f.normal("u") + 2 * x * f("normal_x") + 2 * y * f("normal_y")

    @hard("hole")
    def ansatz(self, f):
        x, y, u = f("x", "y", "u")
        return {"u": -x * x - y * y + f.distance("hole") * u}

    def solution(self, points):
        return {"u": -(points["x"] ** 2) - points["y"] ** 2}


class Heated(Plate):
    """The same plate in time."""

    coords = {"t": (0, 2), "x": (-1, 1), "y": (-1, 1)}
    time = "t"

    @residual
    def pde(self, f):
        return f("u_t") - f.laplacian("u") - self.load

    @residual(t=0)
    def ic(self, f):
        return f("u") - f("exact_u")

    @residual(x="low")
    def wall(self, f):
        return f.normal("u") - 2.0


def task_of(problem: Problem, **given: Any) -> PdeTask:
    return problem.build(Parts(NETWORK, **given))


def context(task: PdeTask) -> Context:
    return Context({name: np.array(value) for name, value in task.constants.items()})


def params_of(task: PdeTask) -> dict[str, np.ndarray]:
    return task.init(np.random.default_rng(1))


# --- points ---


@pytest.mark.parametrize("sampler", ["uniform", "sobol", "latin_hypercube"])
def test_every_set_lies_in_the_geometry_and_on_its_part(sampler):
    task = task_of(Heated(), points={n: Points(count=64, sampler=sampler) for n in ("pde", "hole", "flux", "wall")})
    shape = shape_of(task.problem)
    assert shape is not None
    sets = task.feed(3).take(0, 1).fixed()
    assert set(sets) == {"interior", "hole", "boundary", "t=0", "x=low"}
    for batch, columns in sets.items():
        distances = shape.signed_distance(np.stack([columns["x"], columns["y"]], 1))
        assert (np.abs(distances).max() < 1e-9) if batch in ("hole", "boundary", "x=low") else (distances < 0).all()
        assert (columns["t"] == 0).all() if batch == "t=0" else np.ptp(columns["t"]) > 1.5
    assert np.allclose(np.hypot(sets["hole"]["x"], sets["hole"]["y"]), 0.3)
    assert np.allclose(sets["hole"]["normal_x"], -sets["hole"]["x"] / 0.3)
    assert (sets["x=low"]["x"] == -1).all()
    assert set(sets["boundary"]) == {"t", "x", "y", "normal_x", "normal_y"}
    held_out = task.held_out(100)
    assert len(held_out["interior"]["x"]) == 32, "as many as the file says against the largest set"
    assert np.hypot(held_out["interior"]["x"], held_out["interior"]["y"]).min() > 0.3


@pytest.mark.parametrize("rule", [Rad(every=1), Rard(every=1, add=10, spread=0.2), Fresh(every=1)])
@pytest.mark.parametrize("term", ["pde", "flux"])
def test_adapted_points_stay_in_the_geometry(rule, term: str):
    task = task_of(Heated(), points={term: Points(count=40, adapt=rule)})
    shape, feed = shape_of(task.problem), task.feed(0)
    assert shape is not None
    (batch,) = feed.adaptive()
    for step in (1, 2, 3):
        candidates = feed.propose(batch, step)
        feed.adopt(batch, step, candidates, {term: np.abs(candidates["x"])})
        columns = feed.take(step, 1).fixed()[batch]
        distances = shape.signed_distance(np.stack([columns["x"], columns["y"]], 1))
        assert (distances <= 1e-9).all()
        assert term == "pde" or np.abs(distances).max() < 1e-9


def test_what_the_geometry_reads_is_no_live_constant_and_shapes_the_program():
    task = task_of(Plate())
    assert task.constants == {"load": 4.0}
    assert task.signature != task_of(Plate(radius=0.4)).signature
    assert task.signature == task_of(Plate()).signature


def test_the_reference_is_taken_inside_alone_and_pictures_are_masked():
    task = task_of(Plate())
    known = task.reference()
    assert known is not None and known.shape == ()
    assert np.hypot(known.points["x"], known.points["y"]).min() >= 0.3 - 1e-8
    assert len(known.points["x"]) == 21 * 21 - sum(
        math.hypot(x, y) < 0.3 - 1e-8 for x in np.linspace(-1, 1, 21) for y in np.linspace(-1, 1, 21)
    )
    params = params_of(task)
    shown = task.pictures(lambda names, at: task.predict(OPS, params, names, at, context(task)), None)
    solution = next(p for p in shown if p.name == "solution").panels
    assert solution["prediction"].shape == (21, 21)
    for panel in ("prediction", "reference", "error"):
        assert np.isnan(solution[panel][10, 10]) and np.isfinite(solution[panel][0, 0])


def test_the_domain_has_a_picture_of_points_parts_and_normals():
    task = task_of(Plate(), constraints="hard")
    found = picture(task, task.feed(0).take(0, 1).fixed())
    assert found is not None and tuple(found.axes) == ("x", "y")
    assert found.panels["interior"].shape == (2000, 2)
    assert found.panels["boundary"].shape == (200, 4)
    assert "area 3.71" in found.title and "hole" in found.title
    from orchestrator import plots

    assert len(plots.draw(found).axes) == 1


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_domains_of_every_dimension_can_be_drawn(tmp_path: Path, dimension: int):
    from orchestrator import plots

    rng = np.random.default_rng(0)
    inner, edge = rng.uniform(size=(20, dimension)), rng.uniform(size=(9, 2 * dimension))
    names = dict.fromkeys("xyz"[:dimension], np.empty(0))
    figure = plots.draw(Picture("geometry", "geometry", {"interior": inner, "wall": edge}, names))
    assert plots.save(figure, tmp_path / "geometry").stat().st_size > 5000


# --- hard constraints ---


def cases() -> dict[str, Shape]:
    polygon = [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)]
    ell = Polygon(polygon, edges=("in", "", "", "", "out", ""), name="ell")
    return {
        "interval": Interval(-1, 2),
        "disk": Disk((0.2, 0.1), 0.7),
        "ellipse": Ellipse((0, 0), (2, 0.5)).rotated(0.3),
        "triangle": Triangle([(0, 0), (1, 0), (0, 1)]),
        "plate": Rectangle((-1, -1), (1, 1)) - Disk((0, 0), 0.3, name="hole"),
        "ell": ell,
        "around the ell": Rectangle((-1, -1), (2, 2), name="frame") - ell,
        "union": Rectangle((0, 0), (1, 1), name="a") | Disk((1, 0.5), 0.4, name="b"),
        "corner cut out": Rectangle((0, 0), (2, 1), name="o") - Rectangle((0.5, 0.5), (3, 3), name="c"),
        "lens": Disk((0, 0), 1) & Disk((1, 0), 1),
        "turned": ell.rotated(0.5).scaled(2.0).shifted(1.0, 1.0),
    }


PAIRS = [(name, part) for name, shape in cases().items() for part in ("boundary", *parts(shape))]


def jet(shape: Shape, part: str, points: np.ndarray, normalised: bool, wanted: Any, ops: Any = OPS) -> Any:
    plan, names = Plan.closing(wanted), "xyz"[: shape.dimension]
    at = seed(plan, ops, {c: points[:, i] for i, c in enumerate(names)})
    return distance(shape, part, JetOps(ops, plan), [at[c] for c in names], normalised)


def dense(channel: Any, like: np.ndarray) -> np.ndarray:
    return np.zeros(len(like)) if channel is None else np.broadcast_to(np.asarray(channel), (1, len(like)))[0]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("name", "part"), PAIRS)
def test_a_distance_vanishes_on_its_part_alone_and_its_channels_are_its_derivatives(name, part, normalised):
    shape = cases()[name]
    names = "xy"[: shape.dimension]
    rng = np.random.default_rng(0)
    columns = inside(shape, names, 200, "uniform", rng)
    points = np.stack([columns[c] for c in names], 1)
    found = jet(shape, part, points, normalised, [("x", "x")])
    assert (found.value > 0).all()
    if not normalised:
        assert 0.3 < found.value.max() < 1.2
    step = 1e-5
    aside = np.array([step, 0.0][: shape.dimension])
    ahead, behind = (jet(shape, part, p, normalised, [("x",)]) for p in (points + aside, points - aside))
    first = (ahead.value - behind.value)[0] / (2 * step)
    second = (dense(ahead.at(("x",)), points) - dense(behind.at(("x",)), points)) / (2 * step)
    np.testing.assert_allclose(dense(found.at(("x",)), points), first, atol=1e-4, rtol=1e-5)
    close = np.isclose(dense(found.at(("x", "x")), points), second, atol=1e-4, rtol=1e-4)
    assert close.mean() > 0.97, "but next to corners, where differences fail"
    drawn = on_boundary(shape, part, names, 100, "uniform", rng)
    on = np.stack([drawn[c] for c in names], 1)
    edge = jet(shape, part, on, normalised, [(c,) for c in names])
    assert np.abs(edge.value).max() < 1e-12
    slope = -sum(dense(edge.at((c,)), on) * drawn[f"normal_{c}"] for c in names)
    assert (slope > 0).all()
    if normalised:
        np.testing.assert_allclose(slope, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["plate", "ell", "around the ell", "union", "ellipse"])
def test_a_distance_is_the_same_on_both_backends(name: str):
    import torch

    from backends.jax.ops import JaxOps
    from backends.torch.ops import TorchOps

    shape, rng = cases()[name], np.random.default_rng(0)
    points = np.stack(list(inside(shape, "xy", 50, "uniform", rng).values()), 1)
    for part in ("boundary", *parts(shape)):
        ours = jet(shape, part, points, False, [("x", "x"), ("y",)])
        for ops, array in ((TorchOps(), torch.from_numpy), (JaxOps(), lambda v: v)):
            theirs = jet(shape, part, array(points), False, [("x", "x"), ("y",)], ops)
            for mine, other in zip(ours.channels, theirs.channels, strict=True):
                np.testing.assert_allclose(dense(other, points), dense(mine, points), rtol=1e-10, atol=1e-10)


def test_an_ansatz_by_distances_is_checked_and_fulfils_its_terms():
    task = task_of(Plate(), constraints="hard")
    values = task.per_sample(OPS, params_of(task), "hole", task.held_out(100)["hole"], context(task))
    assert np.abs(values["hole"]).max() < 1e-15

    class Wrong(Plate):
        @hard("flux")
        def ansatz(self, f):
            return {"u": f.distance() * f("u")}

    with pytest.raises(UserError, match="do not fulfil the term 'flux'"):
        task_of(Wrong(), constraints="hard")


def test_the_box_has_a_distance_too_and_parts_that_are_not_there_are_refused():
    class Bar(Problem):
        coords = {"t": (0, 1), "x": (0, 2)}
        fields = ("u",)
        time = "t"
        part: str = "boundary"

        @residual
        def pde(self, f):
            return f("u_t") - f("u_xx") * f.distance()

        @residual(x="ends")
        def bc(self, f):
            return f("u")

        @hard("bc")
        def ansatz(self, f):
            return {"u": f.distance(self.part) * f("u")}

    task_of(Bar(), constraints="hard")
    with pytest.raises(UserError, match=r"the geometry has no part 'lef'; did you mean 'left'\?"):
        task_of(Bar(part="lef"), constraints="hard")
    with pytest.raises(UserError, match="do not fulfil the term 'bc'"):
        task_of(Bar(part="left"), constraints="hard")


class Mirrored(Problem):
    coords = {"x": (-1, 3), "y": (0, 1)}
    fields = ("u", "v")
    symmetry = {"x": {"u": "odd"}}

    @residual
    def pde(self, f):
        return f.laplacian("u") + f.laplacian("v")

    @residual(y="low")
    def bc(self, f):
        return f("u") + f("v")


def test_mirror_symmetry_is_exact_in_values_and_derivatives():
    task = task_of(Mirrored(), constraints="hard")
    params = params_of(task)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 3, 20), rng.uniform(0, 1, 20)
    names = ["u", "v", "u_x", "v_x", "u_xx", "v_y"]
    here, there = (task.predict(OPS, params, names, {"x": at, "y": y}, context(task)) for at in (x, 2.0 - x))
    for name, sign in zip(names, (-1, 1, 1, -1, -1, 1), strict=True):
        np.testing.assert_allclose(there[name], sign * here[name], atol=1e-14)
    middle = task.predict(OPS, params, ["u", "v_x"], {"x": np.ones(3), "y": np.arange(3) / 2}, context(task))
    assert np.abs(middle["u"]).max() == 0 and np.abs(middle["v_x"]).max() < 1e-15


@given(st.floats(-0.9, 2.9), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_derivatives_of_mirrored_inputs_are_those_of_differences(x: float, y: float):
    task = task_of(Mirrored(), constraints="hard")
    params = params_of(task)

    def value(at: float) -> float:
        return float(task.predict(OPS, params, ["u"], {"x": np.array([at]), "y": np.array([y])}, context(task))["u"][0])

    exact = task.predict(OPS, params, ["u_x", "u_xx"], {"x": np.array([x]), "y": np.array([y])}, context(task))
    h = 1e-4
    assert exact["u_x"][0] == pytest.approx((value(x + h) - value(x - h)) / (2 * h), abs=1e-6)
    assert exact["u_xx"][0] == pytest.approx((value(x + h) - 2 * value(x) + value(x - h)) / h**2, abs=1e-5)


# --- the experiments that ship ---


@pytest.mark.parametrize(
    ("name", "terms"),
    [("insulated_hole:InsulatedHole", ("pde", "insulated", "given")), ("l_shape:LShape", ("pde", "bc"))],
)
def test_the_references_of_the_experiments_solve_their_equations(name: str, terms: tuple[str, ...]):
    file, _, cls = name.partition(":")
    folder = Path(__file__).parents[2] / "experiments" / file
    problem = load(f"{file}.py:{cls}", folder)()
    assert isinstance(problem, Problem)
    for term in terms:
        found = residuals(problem, term, count=200, margin=0.03)[term]
        assert len(found) > 100
        assert np.abs(found).max() < 1e-4, term


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"geometry": Disk((0, 0), 2)}, "reaches from x = -2 to 2, beyond the coordinate's bounds"),
        ({"geometry": Interval(0, 1)}, "the geometry has 1 axes, and there are 2 coordinates in space: x, y"),
        ({"geometry": 3}, "geometry must be a shape"),
        ({"geometry": lambda self: Disk((0, 0), 1) - Disk((0, 0), 2)}, "the geometry is empty"),
        ({"geometry": lambda self: Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])}, "crosses itself: edge 1"),
        ({"geometry": lambda self: Disk((0, 0), self.rad)}, "raised AttributeError"),
        (
            {"geometry": Disk((0, 0), 1, name="rim")},
            "the term hole: the geometry has no part 'hole'; allowed here: bou",
        ),
    ],
)
def test_geometries_that_do_not_fit_are_refused(body: dict, expected: str):
    made = type("Bad", (Plate,), {**body, "__module__": __name__})
    with pytest.raises(ValidationError) as caught:
        made()
    assert expected in str(caught.value)


def test_a_region_without_points_and_points_outside_are_refused():
    class Cut(Plate):
        @residual(x=0.0, y=0.0)
        def centre(self, f):
            return f("u")

    with pytest.raises(UserError, match="x=0,y=0 does not meet the geometry"):
        task_of(Cut())

    class Own(Plate):
        @residual(at="sensors")
        def data(self, f):
            return f("u")

        def sensors(self, rng):
            return {"x": np.array([0.5, 0.1]), "y": np.array([0.5, 0.0])}

    with pytest.raises(UserError, match=r"x = 0.1, y = 0 lies outside the geometry \(1 of 2 samples\)"):
        task_of(Own())
    with pytest.raises(UserError, match="not filled by a grid; take sobol"):
        task_of(Plate(), points={"pde": Points(count=64, sampler="grid")})


# --- files of points ---


def write(folder: Path, name: str, text: str) -> Points:
    (folder / name).write_text(text)
    return Points(path=name)


def test_points_of_a_file_get_the_geometrys_normals_or_bring_their_own(tmp_path: Path):
    plain = write(tmp_path, "hole.csv", "x,y\n0.3,0\n0,-0.3\n")
    own = write(tmp_path, "edge.csv", "x,y,normal_x,normal_y\n1,0.5,2,0\n-1,0,0,-3\n")
    task = task_of(Plate(), points={"hole": plain, "flux": own}, folder=tmp_path)
    sets = task.feed(0).take(0, 1).fixed()
    np.testing.assert_allclose(sets["hole"]["normal_x"], [-1, 0], atol=1e-9)
    np.testing.assert_allclose(sets["hole"]["normal_y"], [0, 1], atol=1e-9)
    assert sets["boundary"]["normal_x"].tolist() == [1, 0] and sets["boundary"]["normal_y"].tolist() == [0, -1]


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("pde", "x,y\n0.5,0.5\n0,0.1\n", r"row 2 \(x = 0, y = 0.1\) lies outside the geometry \(1 of 2 rows do\)"),
        ("pde", "x,y\n0.5,nan\n", "column 'y' is nan in row 1"),
        ("pde", "x,z\n0.5,0\n", "there is no column 'y'"),
        ("hole", "x,y\n0.5,0.5\n", r"row 1 \(x = 0.5, y = 0.5\) is not on hole"),
        ("hole", "x,y,normal_x,normal_y\n0.3,0,0,0\n", "the normal in row 1 has no direction"),
        ("hole", "x,y\n", "there are no rows"),
    ],
)
def test_files_of_points_that_do_not_fit_are_refused(tmp_path: Path, term: str, text: str, expected: str):
    with pytest.raises(UserError, match=expected) as caught:
        task_of(Plate(), points={term: write(tmp_path, "p.csv", text)}, folder=tmp_path)
    assert caught.value.path == f"points.{term}.path"


def test_measurements_and_references_are_those_of_the_geometry(tmp_path: Path):
    (tmp_path / "seen.csv").write_text("x,y,u\n0.5,0.5,1\n0.1,0.1,2\n")
    with pytest.raises(UserError, match=r"row 2 \(x = 0.1, y = 0.1, u = 2\) lies outside the geometry") as caught:
        task_of(Plate(), data=Observations(kind="observations", path="seen.csv"), folder=tmp_path)
    assert caught.value.path == "data.path"
    (tmp_path / "seen.csv").write_text("x,y,u\n0.5,0.5,1\n")
    task = task_of(Plate(), data=Observations(kind="observations", path="seen.csv"), folder=tmp_path)
    assert shape_of(task.problem) == shape_of(Plate()) and "data" in [t.name for t in task.terms]
    axis = np.linspace(-1, 1, 11)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    np.savez(tmp_path / "known.npz", x=axis, y=axis, u=-x * x - y * y)
    known = task_of(Plate(), reference=Solution(path="known.npz"), folder=tmp_path).reference()
    assert known is not None and known.shape == ()
    assert np.hypot(known.points["x"], known.points["y"]).min() > 0.3
    np.testing.assert_allclose(known.values["u"], -(known.points["x"] ** 2) - known.points["y"] ** 2)


class Wing(Problem):
    """A domain of which only files know the walls."""

    coords = {"x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)
    geometry = "file"

    @residual
    def pde(self, f):
        return f.laplacian("u")

    @residual(on="wing")
    def wall(self, f):
        return f.normal("u") + f("x")


def test_a_part_may_be_nothing_but_a_file_of_points_with_normals(tmp_path: Path):
    wall = write(tmp_path, "wing.csv", "x,y,normal_x,normal_y\n0.5,0,1,0\n0,0.5,0,1\n")
    task = task_of(Wing(), points={"wall": wall}, folder=tmp_path)
    columns = task.feed(0).take(0, 1).fixed()["wing"]
    params = params_of(task)
    found = task.predict(OPS, params, ["u_x", "u_y", "residual/wall"], columns, context(task))
    np.testing.assert_allclose(found["residual/wall"], [found["u_x"][0] + 0.5, found["u_y"][1]])
    shown = picture(task, {"wing": columns})
    assert shown is not None and shown.panels["wing"].shape == (2, 4)
    with pytest.raises(UserError, match="stands on 'wing', of which nothing is known; list its points") as caught:
        task_of(Wing())
    assert caught.value.path == "points.wall"
