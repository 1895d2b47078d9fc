"""The user's files: points to train at, measured values as a term, the solution to be measured by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_backend import NumpyBackend, use

from backends.data import Observations, Solution
from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, residual
from backends.spec import Points
from backends.task import Context, Parts
from backends.tasks import Advection, Burgers, Heat, InverseHeat, Kovasznay
from backends.testing.setup import oracle
from orchestrator.resuming import prepare_resume
from orchestrator.runs import run

NET = MLP(width=4, depth=1)


class Own(Problem):
    """A user's equation without a solution."""

    coords = {"t": (0, 1), "x": (0, 2)}
    fields = ("u", "v")
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        return f("u_t") - f("v_xx"), f("v_t") + f("u_xx")

    @residual(x="ends")
    def bc(self, f: Any) -> Any:
        return f("u")


def csv(path: Path, **columns: Any) -> Path:
    """A table with these columns."""
    names = list(columns)
    rows = np.broadcast_arrays(*(np.asarray(columns[n], float) for n in names))
    np.savetxt(path, np.stack(rows, 1), delimiter=",", header=",".join(names), comments="")
    return path


savez: Any = np.savez  # whose stubs take ** for allow_pickle


def task(problem: Problem, folder: Path, **parts: Any) -> Any:
    return problem.build(Parts(NET, folder=folder, **parts))


# --- points ---


def test_points_of_a_file_are_trained_at_in_their_order(tmp_path: Path):
    csv(tmp_path / "inside.csv", note=7, x=[0.1, 0.2, 0.3], t=[0.9, 0.5, 0.1])
    savez(tmp_path / "ends.npz", t=[0.0, 0.5, 1.0], x=[0.0, 1.0, 0.0])
    made = task(Heat(), tmp_path, points={"pde": Points(path="inside.csv"), "bc": Points(path="ends.npz")})
    points = made.feed(3).take(0, 1).fixed()
    np.testing.assert_array_equal(points["interior"]["x"], [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(points["interior"]["t"], [0.9, 0.5, 0.1])
    np.testing.assert_array_equal(points["x=ends"]["x"], [0.0, 1.0, 0.0])
    assert len(points["t=0"]["x"]) == 200, "other sets are drawn as before"
    assert set(points["interior"]) == {"t", "x"}


def test_points_on_the_boundary_get_normals_and_exact_values(tmp_path: Path):
    csv(tmp_path / "wall.csv", x=[-0.5, 1.0, 0.0, 0.3], y=[0.0, 1.0, -0.5, 1.5])
    made = task(Kovasznay(), tmp_path, points={"bc": Points(path="wall.csv")}, workers=3)
    wall = made.feed(0).take(0, 1).fixed()["boundary"]
    assert len(wall["x"]) == 12, "repeated until three workers can share them"
    np.testing.assert_array_equal(wall["normal_x"][:4], [-1, 1, 0, 0])
    np.testing.assert_array_equal(wall["normal_y"][:4], [0, 0, -1, 1])
    exact = Kovasznay().solution({"x": wall["x"], "y": wall["y"]})
    np.testing.assert_allclose(wall["exact_u"], exact["u"])


def test_points_of_a_periodic_term_lie_anywhere_along_it(tmp_path: Path):
    csv(tmp_path / "times.csv", t=[0.2, 0.4], x=[0.0, 1.0])
    made = task(Advection(), tmp_path, points={"bc": Points(path="times.csv")})
    assert made.sets.counts["x=periodic"] == 2


@pytest.mark.parametrize(
    ("columns", "term", "said"),
    [
        ({"t": [0.1, 0.2], "x": [0.5, 1.5]}, "pde", r"x = 1.5 in row 2 lies outside the domain, 0 … 1 \(1 of 2"),
        ({"t": [0.1, 0.2], "x": [0.0, 0.5]}, "bc", r"row 2 \(t = 0.2, x = 0.5\) is not on x=ends"),
        ({"t": [0.0, 0.2], "x": [0.0, 0.5]}, "ic", r"row 2 \(t = 0.2, x = 0.5\) is not on t=0"),
        ({"t": [0.0, np.nan], "x": [0.0, 0.5]}, "pde", "column 't' is nan in row 2 of 2"),
        ({"t": [0.0], "X": [0.0]}, "pde", "there is no column 'x'"),
    ],
)  # fmt: skip
def test_points_that_can_not_be_used_are_refused_with_their_row(tmp_path: Path, columns: Any, term: str, said: str):
    csv(tmp_path / "p.csv", **columns)
    with pytest.raises(UserError, match=said) as caught:
        task(Heat(), tmp_path, points={term: Points(path="p.csv")})
    assert caught.value.path == f"points.{term}.path"


def test_a_set_of_points_is_counted_or_listed():
    mistakes: tuple[Any, ...] = (
        {},
        {"count": 3, "path": "a.csv"},
        {"path": "a.csv", "sampler": "sobol"},
        {"path": "a.txt"},
    )
    for mistake in mistakes:
        with pytest.raises(ValueError, match=r"count: 1000|stay as they are|pattern"):
            Points(**mistake)


# --- observations ---


def test_observations_become_a_term_that_compares_fields_with_what_was_measured(tmp_path: Path):
    csv(tmp_path / "m.csv", t=[0.1, 0.2, 0.9], x=[0.5, 1.5, 2.0], u=[1.0, 2.0, 3.0], v=[0.0, 0.0, 1.0])
    made = task(Own(), tmp_path, data=Observations(path="m.csv"))
    assert [(t.name, t.batch, t.trained) for t in made.terms][-1] == ("data", "observations", True)
    params = made.init(np.random.default_rng(0))
    points = made.feed(0).take(0, 1).fixed()["observations"]
    found = oracle(made, params, {"observations": points})["data"]
    values = made.predict(NumpyOps(), params, ["u", "v"], {c: points[c] for c in "tx"}, Context({}))
    misfits = (values["u"] - [1, 2, 3]) ** 2 + (values["v"] - [0, 0, 1]) ** 2
    assert found == pytest.approx(np.mean(misfits), rel=1e-12)
    only_u = task(Own(), tmp_path, data=Observations(path="m.csv", fields=("u",)))
    assert set(only_u.feed(0).take(0, 1).fixed()["observations"]) == {"t", "x", "observed_u"}


def test_the_same_numbers_share_programs_and_others_do_not_meet(tmp_path: Path):
    for name, shift in (("a.csv", 0.0), ("b.csv", 0.0), ("c.csv", 1.0)):
        csv(tmp_path / name, t=[0.1, 0.2], x=[0.5, 0.6], u=[1.0, shift])
    a, b, c = (task(Heat(), tmp_path, data=Observations(path=f"{n}.csv")) for n in "abc")
    assert a.signature == b.signature is not None
    assert c.feed(0).take(0, 1).fixed()["observations"]["observed_u"][1] == 1.0
    assert a.feed(0).take(0, 1).fixed()["observations"]["observed_u"][1] == 0.0
    assert a.problem.model_dump() == Heat().model_dump()


@pytest.mark.parametrize(
    ("problem", "data", "path", "said"),
    [
        (InverseHeat(), {"path": "m.csv"}, "data.kind", "InverseHeat has 'data' already"),
        (Heat(), {"path": "m.csv", "fields": ("w",)}, "data.fields", "'w' is no field; allowed here: u"),
        (Heat(), {"path": "far.csv"}, "data.path", "x = 3 in row 1 lies outside the domain"),
        (Kovasznay(), {"path": "m.csv"}, "data.path", "there is no column 'y'"),
        (Heat(), {"path": "n.csv"}, "data.path", "there is no file .*did you mean 'm.csv'?"),
    ],
    ids=["name taken", "no such field", "outside", "no column", "no file"],
)
def test_observations_that_can_not_be_used_are_refused(tmp_path: Path, problem: Any, data: Any, path: str, said: str):
    csv(tmp_path / "m.csv", t=[0.1, 0.2], x=[0.5, 0.6], u=[1.0, 2.0])
    csv(tmp_path / "far.csv", t=[0.1], x=[3.0], u=[1.0])
    with pytest.raises(UserError, match=said) as caught:
        task(problem, tmp_path, data=Observations(**data))
    assert caught.value.path == path


def test_the_points_of_observations_are_those_of_their_file(tmp_path: Path):
    csv(tmp_path / "m.csv", t=[0.1, 0.2], x=[0.5, 0.6], u=[1.0, 2.0])
    data = Observations(path="m.csv")
    with pytest.raises(UserError, match="the file of observations has 2 samples; remove this"):
        task(Heat(), tmp_path, data=data, points={"data": Points(count=3)})
    with pytest.raises(UserError, match="has the points of this term"):
        task(Heat(), tmp_path, data=data, points={"data": Points(path="m.csv")})


# --- the solution ---

AXES = {"t": np.linspace(0, 1, 5), "x": np.linspace(0, 2, 4)}
T, X = np.meshgrid(*AXES.values(), indexing="ij")
FIELDS = {"u": np.sin(T) + X, "v": T * X}


@pytest.mark.parametrize("form", ["axes", "falling axis", "meshgrid", "columns", "mixed columns"])
def test_a_solution_on_a_grid_is_recognised_in_every_form(tmp_path: Path, form: str):
    path, flat = tmp_path / "s.npz", {k: a.ravel() for k, a in {"t": T, "x": X, **FIELDS}.items()}
    if form == "axes":
        savez(path, **AXES, **FIELDS)
    elif form == "falling axis":
        savez(path, t=AXES["t"][::-1], x=AXES["x"], **{k: v[::-1] for k, v in FIELDS.items()})
    elif form == "meshgrid":
        savez(path, t=T, x=X, **FIELDS)
    else:
        order = np.random.default_rng(0).permutation(T.size) if form == "mixed columns" else np.arange(T.size)
        csv(tmp_path / "s.csv", **{k: v[order] for k, v in flat.items()})
        path = tmp_path / "s.csv"
    known = task(Own(), tmp_path, reference=Solution(path=path.name)).reference()
    assert known.axes == ("t", "x") and known.shape == (5, 4)
    for name, values in {**{c: flat[c] for c in AXES}, **{k: flat[k] for k in FIELDS}}.items():
        np.testing.assert_allclose({**known.points, **known.values}[name], values, atol=1e-12)


def test_figures_compare_with_the_solution_of_the_file(tmp_path: Path):
    savez(tmp_path / "s.npz", **AXES, u=FIELDS["u"])
    made = task(Own(), tmp_path, reference=Solution(path="s.npz", fields=("u",)))

    def predict(names: Any, points: Any) -> Any:
        return {n: points["x"] if n == "u" else 0.0 * points["x"] for n in names}

    pictures = {p.name: p for p in made.pictures(predict)}
    np.testing.assert_allclose(pictures["solution_u"].panels["error"], -np.sin(T), atol=1e-15)
    assert set(pictures["solution_v"].panels) == {"prediction"}
    rng = np.random.default_rng(0)
    t, x = rng.uniform(0, 1, 30), rng.uniform(0, 2, 30)
    savez(tmp_path / "scattered.npz", t=t, x=x, u=x + 1, v=t)
    scattered = task(Own(), tmp_path, reference=Solution(path="scattered.npz"))
    assert scattered.reference().shape == ()
    pictures = {p.name: p for p in scattered.pictures(predict)}
    assert set(pictures["solution_u"].panels) == {"prediction"}
    np.testing.assert_allclose(pictures["error"].panels["error of u"][:, 2], -1.0)


def test_a_cut_through_three_coordinates_lies_on_the_grid_of_the_file(tmp_path: Path):
    class Plate(Own):
        coords = {"t": (0, 1), "x": (0, 2), "y": (0, 1)}
        fields = ("u",)

        @residual
        def pde(self, f: Any) -> Any:
            return f("u_t") - f.laplacian("u")

    axes = {"t": np.linspace(0, 0.9, 4), "x": np.linspace(0, 2, 5), "y": np.linspace(0, 1, 3)}
    t, x, y = np.meshgrid(*axes.values(), indexing="ij")
    savez(tmp_path / "s.npz", **axes, u=t + 10 * x + 100 * y)
    made = task(Plate(), tmp_path, reference=Solution(path="s.npz"))
    (picture, *_) = made.pictures(lambda names, points: dict.fromkeys(names, 0.0 * points["x"]))
    np.testing.assert_allclose(picture.panels["reference"], (t + 10 * x + 100 * y)[-1])
    assert picture.title == "u at t = 0.9"


def test_the_file_goes_before_the_problems_own_solution(tmp_path: Path):
    savez(tmp_path / "s.npz", t=[0.0, 1.0], x=[-1.0, 0.0, 1.0], u=np.full((2, 3), 7.0))
    known = task(Burgers(), tmp_path, reference=Solution(path="s.npz")).reference()
    np.testing.assert_array_equal(known.values["u"], np.full(6, 7.0))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({**AXES, "u": FIELDS["u"].T, "v": FIELDS["v"]}, r"has shape \(4, 5\) \(transposed\?\); .* must be \(5, 4\)"),
        ({**AXES, "u": FIELDS["u"]}, "there is no array 'v'"),
        ({**AXES, "u": np.full((5, 4), np.inf), "v": FIELDS["v"]}, r"'u' is not finite at \[0, 0\]"),
        ({**AXES, "x": np.linspace(0, 3, 4), **FIELDS}, r"x = 3 in row 4 lies outside the domain"),
        ({"t": [0.0, 0.0], "x": AXES["x"], "u": np.ones((2, 4)), "v": np.ones((2, 4))}, "no axis of a grid"),
        ({"t": [], "x": [], "u": [], "v": []}, "'t' is empty"),
        ({"t": ["a"], "x": [0.0], "u": [0.0], "v": [0.0]}, "not real numbers"),
    ],
    ids=["transposed", "missing", "not finite", "outside", "twice", "empty", "text"],
)  # fmt: skip
def test_a_solution_that_can_not_be_used_is_refused(tmp_path: Path, arrays: Any, said: str):
    savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=said) as caught:
        task(Own(), tmp_path, reference=Solution(path="s.npz"))
    assert caught.value.path == "reference.path"


# --- in a run ---


def test_files_travel_with_the_run_and_a_changed_copy_is_noticed(here: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[NumpyBackend] = []
    use(monkeypatch, made)
    (here / "files").mkdir()
    rng = np.random.default_rng(0)
    t, x = rng.uniform(0, 1, (2, 12))
    csv(here / "files" / "inside.csv", t=t, x=x)
    csv(here / "files" / "measured.csv", t=t, x=x, u=Heat().solution({"t": t, "x": x})["u"])
    savez(here / "files" / "solution.npz", t=t, x=x, **Heat().solution({"t": t, "x": x}))
    (here / "files" / "heat.yaml").write_text("""
name: heat
task: {kind: heat}
network: {kind: mlp, width: 4, depth: 1}
points: {pde: {path: inside.csv}, bc: 8, ic: 8}
data: {kind: observations, path: measured.csv}
reference: {path: solution.npz}
weights: {kind: fixed, values: {data: 5}}
stages: [{kind: adam, steps: 4}]
resources: {workers: 0}
tracking: {enabled: false}
""")
    result = run(here / "files" / "heat.yaml")
    assert {"loss/data", "validation/data", "error/l2"} <= set(result.metrics)
    kept = result.folder.path
    assert sorted(p.name for p in (kept / "code").iterdir()) == ["inside.csv", "measured.csv", "solution.npz"]
    for name in ("inside.csv", "measured.csv", "solution.npz"):
        (here / "files" / name).unlink()
    assert prepare_resume(str(kept), more=4, execute=False).experiment.total_steps == 8
    measured = kept / "code" / "measured.csv"
    measured.write_text(measured.read_text().replace("t,x,u", "t,x,u\n0.5,0.5,0.1"))
    with pytest.raises(UserError, match=r"code/measured.csv: sha256"):
        prepare_resume(str(kept), more=8, execute=False)
