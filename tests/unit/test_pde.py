"""A problem as a task: its points, its yardstick, what it predicts and draws, and what the file may not ask of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import PositiveFloat

from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, hard, loss, residual
from backends.pde.reference import reference
from backends.pde.task import PdeTask
from backends.spec import Points, Rad
from backends.task import Context, Parts, Term

OPS = NumpyOps()
NETWORK = MLP(width=6, depth=2)


class Decay(Problem):
    """u_t = nu u_xx from sin(pi x), with everything that a task can have."""

    nu: PositiveFloat = 0.1
    unread: float = 1.0
    coords = {"t": (0, 2), "x": (0, 1)}
    fields = ("u",)
    time = "t"
    unknowns = {"gain": 3.0}
    truth = {"gain": 2.0}
    reference_grid = {"t": 4, "x": 5}

    @residual(scale=10)
    def pde(self, f):
        return f("u_t") - self.nu * f("u_xx")

    @residual(t=0)
    def ic(self, f):
        return f("u") - f("exact_u")

    @residual(x="ends")
    def bc(self, f):
        return f("u")

    @residual(t=0)
    def slope(self, f):
        return f("u_x") - math.pi * f.ops.cos(math.pi * f("x"))

    @residual(at="sensors")
    def data(self, f):
        return f("gain") * f("u") - f("measured")

    @hard("ic", "bc")
    def ansatz(self, f):
        t, x, u = f("t", "x", "u")
        return {"u": f.ops.sin(math.pi * x) + t * x * (1 - x) * u}

    def sensors(self, rng):
        points = {"t": rng.uniform(0, 2, 5), "x": rng.uniform(0, 1, 5)}
        return {**points, "measured": 2 * self.solution(points)["u"]}

    def solution(self, points):
        return {"u": np.exp(-self.nu * math.pi**2 * points["t"]) * np.sin(math.pi * points["x"])}


def task_of(problem: Problem | None = None, **parts: Any) -> PdeTask:
    return (problem or Decay()).build(Parts(NETWORK, **parts))


def context(task: PdeTask, **constants: float) -> Context:
    return Context({name: np.array(value) for name, value in {**task.constants, **constants}.items()})


def predictor(task: PdeTask, params: dict) -> Any:
    return lambda names, columns: task.predict(OPS, params, names, columns, context(task))


def test_hard_constraints_take_terms_out_of_the_loss_and_leave_them_in_the_evaluation():
    soft, task = task_of(), task_of(constraints="hard")
    assert [t.name for t in task.terms] == [t.name for t in soft.terms] == ["pde", "ic", "bc", "slope", "data"]
    assert [t.name for t in task.terms if t.trained] == ["pde", "slope", "data"]
    assert task.terms[0] == Term("pde", "residual", "interior", 10.0)
    samples = task.feed(0).take(0, 1).fixed()
    assert set(samples) == {"interior", "t=0", "sensors"}, "no set without a trained term"
    held_out = task.held_out(100)
    assert set(held_out) == {"interior", "t=0", "x=ends", "sensors"}
    params = task.init(np.random.default_rng(0))
    for batch, term in (("t=0", "ic"), ("x=ends", "bc")):
        values = task.per_sample(OPS, params, batch, held_out[batch], context(task))
        assert np.abs(values[term]).max() < 1e-15


def test_only_constants_that_a_term_reads_are_live_and_they_act_without_a_new_task():
    task = task_of()
    assert task.constants == {"nu": 0.1}
    params = task.init(np.random.default_rng(0))
    columns = task.held_out(50)["interior"]
    f = task.predict(OPS, params, ["u_t", "u_xx"], columns, context(task))
    for nu in (0.1, 0.7):
        values = task.per_sample(OPS, params, "interior", columns, context(task, nu=nu))["pde"]
        np.testing.assert_allclose(values, f["u_t"] - nu * f["u_xx"], rtol=1e-12)


def test_held_out_points_do_not_depend_on_the_seed_and_are_not_the_training_points():
    task = task_of()
    again = task_of().held_out(400)
    held_out = task.held_out(400)
    for batch, columns in held_out.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, again[batch][name])
    assert len(held_out["interior"]["t"]) == 400
    assert len(held_out["x=ends"]["t"]) == 40, "regions keep their relative sizes"
    first, second = (task.feed(seed).take(0, 1).fixed() for seed in (0, 1))
    assert not np.intersect1d(first["interior"]["t"], second["interior"]["t"]).size
    assert not np.intersect1d(first["interior"]["t"], held_out["interior"]["t"]).size
    np.testing.assert_array_equal(first["sensors"]["measured"], second["sensors"]["measured"], "data are data")
    assert not np.intersect1d(first["sensors"]["t"], held_out["sensors"]["t"]).size


def test_exact_columns_appear_where_a_term_asks_for_them():
    task = task_of()
    columns = task.feed(0).take(0, 1).fixed()["t=0"]
    np.testing.assert_allclose(columns["exact_u"], np.sin(math.pi * columns["x"]), rtol=1e-14)
    assert "exact_u" not in task.held_out(10)["interior"]


def test_the_reference_is_the_solution_on_the_problems_grid():
    known = task_of().reference()
    assert known is not None
    assert (known.shape, known.axes) == ((4, 5), ("t", "x"))
    u = known.values["u"].reshape(4, 5)
    np.testing.assert_allclose(u[0], np.sin(math.pi * np.linspace(0, 1, 5)), atol=1e-15)
    assert known.points["t"].reshape(4, 5)[3, 0] == 2.0


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (lambda self, p: p["x"], "must return {field: array}, not ndarray"),
        (lambda self, p: {"v": p["x"]}, "returns no 'u'"),
        (lambda self, p: {"u": p["x"][:3]}, "one finite value per point"),
        (lambda self, p: {"u": p["x"] * np.nan}, "one finite value per point"),
    ],
)
def test_a_solution_that_is_none_is_refused(solution: Any, message: str):
    with pytest.raises(UserError, match=message):
        reference(type("Wrong", (Decay,), {"__module__": __name__, "solution": solution})())


def test_unknown_constants_are_parameters_and_read_off_with_their_error():
    task = task_of()
    params = task.init(np.random.default_rng(0))
    assert params["unknown/gain"].shape == ()
    assert task.unknowns == {"gain": 3.0}
    assert task.readings(params) == {"unknown/gain": 3.0, "error/gain": 0.5}


def test_predict_knows_fields_derivatives_terms_columns_and_unknowns():
    task = task_of()
    params = task.init(np.random.default_rng(0))
    columns = {"t": np.linspace(0, 2, 3), "x": np.linspace(0, 1, 3)}
    names = ["u", "u_x", "u_txx", "gain", "x", "residual/pde", "residual/bc"]
    found = predictor(task, params)(names, columns)
    assert list(found) == names
    assert all(v.shape == (3,) for v in found.values())
    np.testing.assert_allclose(found["residual/bc"], found["u"])
    np.testing.assert_array_equal(found["gain"], 3.0)
    with pytest.raises(UserError, match="the coordinate 'x' is missing; given: t"):
        predictor(task, params)(["u"], {"t": columns["t"]})
    with pytest.raises(UserError, match="'residual/pdf' is no term; did you mean 'pde'"):
        predictor(task, params)(["residual/pdf"], columns)
    with pytest.raises(UserError, match="'u_y' is not known"):
        predictor(task, params)(["u_y"], columns)


def test_pictures_show_solution_residual_and_points():
    task = task_of()
    params = task.init(np.random.default_rng(0))
    samples = task.feed(0).take(0, 1).fixed()
    solution, size, points = task.pictures(predictor(task, params), samples)
    assert (solution.name, solution.kind, list(solution.panels)) == (
        "solution",
        "field",
        ["prediction", "reference", "error"],
    )
    assert [len(a) for a in solution.axes.values()] == [4, 5]
    np.testing.assert_allclose(
        solution.panels["error"], solution.panels["prediction"] - solution.panels["reference"], atol=1e-15
    )
    assert list(size.panels) == ["|pde|"]
    assert size.panels["|pde|"].shape == (4, 5)
    assert points.kind == "scatter"
    assert list(points.axes) == ["t", "x"]
    (values,) = points.panels.values()
    assert values.shape == (2000, 3)
    np.testing.assert_array_equal(values[:, 0], samples["interior"]["t"])
    assert len(task.pictures(predictor(task, params))) == 2, "without samples there are no points to draw"


def test_more_than_two_coordinates_are_shown_as_a_cut_at_the_end_of_time():
    class Space(Problem):
        coords = {"t": (0, 2), "x": (0, 1), "y": (0, 1), "z": (0, 4)}
        fields = ("u", "v")
        time = "t"

        @residual
        def pde(self, f):
            return {"heat": f("u_t") - f.laplacian("u"), "wave": (f("v_t"), f("v_x"))}

        def solution(self, points):
            return {"u": points["t"] + points["z"], "v": points["x"]}

    task = task_of(Space())
    params = task.init(np.random.default_rng(0))
    pictures = task.pictures(predictor(task, params))
    assert [p.name for p in pictures] == ["solution_u", "solution_v", "residual"]
    assert list(pictures[0].axes) == ["x", "y"]
    np.testing.assert_array_equal(pictures[0].panels["reference"], 2.0 + 2.0, "t = 2, z = 2")
    assert pictures[0].title == "u at t = 2, z = 2"
    assert list(pictures[2].panels) == ["|pde/heat|", "|pde/wave|"]
    known = task.reference()
    assert known is not None
    assert known.shape == (), "four coordinates: scattered points, no grid"


def test_an_equation_without_reference_still_has_pictures_and_a_yardstick():
    class Ode(Problem):
        coords = {"t": (0, 1)}
        fields = ("u",)
        time = "t"

        @residual
        def ode(self, f):
            return f("u_t") + f("u")

        @residual(t=0)
        def start(self, f):
            return f("u") - 1.0

    task = task_of(Ode(), workers=2)
    params = task.init(np.random.default_rng(0))
    assert task.reference() is None
    assert list(task.pictures(predictor(task, params))[0].panels) == ["prediction"]
    start = task.feed(0).take(0, 1).fixed()["t=0"]
    assert start["t"].tolist() == [0.0, 0.0], "a region of one point has one sample per worker"
    assert task.held_out(100)["t=0"]["t"].tolist() == [0.0]


def test_both_ends_of_a_line_are_held_out_however_few_points_are_asked_for():
    class Line(Problem):
        coords = {"x": (0, 1)}
        fields = ("u",)

        @residual
        def pde(self, f):
            return f("u_xx")

        @residual(x="ends")
        def bc(self, f):
            return f("u")

    assert sorted(task_of(Line()).held_out(3)["x=ends"]["x"]) == [0.0, 1.0]


def test_data_that_do_not_divide_are_repeated_for_the_workers_which_changes_no_mean():
    one, two = (task_of(workers=n).feed(0).take(0, 1).fixed()["sensors"] for n in (1, 2))
    assert (len(one["t"]), len(two["t"])) == (5, 10)
    for name in one:
        np.testing.assert_array_equal(two[name][:5], one[name])
        assert two[name].mean() == pytest.approx(one[name].mean())


def test_points_of_a_region_may_be_said_by_any_of_its_terms():
    task = task_of(points={"pde": Points(count=300, chunk=50), "slope": Points(count=40, sampler="sobol")})
    counts = {batch: len(next(iter(c.values()))) for batch, c in task.feed(0).take(0, 1).fixed().items()}
    assert counts == {"interior": 300, "t=0": 40, "x=ends": 200, "sensors": 5}
    assert (task.chunk("interior"), task.chunk("x=ends")) == (50, "auto")
    assert task.width("interior") == 4 * 6
    assert task.width("x=ends") == 6


def test_adaptive_points_go_to_every_interior_set_that_does_not_say_its_own():
    asked = task_of(adapt=Rad(every=7)).feed(0)
    assert asked.due(7) == ["interior"]
    own = task_of(adapt=Rad(every=7), points={"pde": Points(count=100, adapt=Rad(every=3))}).feed(0)
    assert (own.due(3), own.due(7)) == (["interior"], [])
    boundary = task_of(points={"bc": Points(count=100, adapt=Rad(every=3))}).feed(0)
    assert boundary.due(3) == ["x=ends"]
    candidates = boundary.propose("x=ends", 3)
    assert set(candidates["x"]) == {0.0, 1.0}, "candidates lie in the region"


@pytest.mark.parametrize(
    ("parts", "path", "message"),
    [
        ({"points": {"pdf": Points(count=10)}}, "points.pdf", "there is no term 'pdf'; did you mean 'pde'"),
        (
            {"points": {"ic": Points(count=10), "slope": Points(count=20)}},
            "points.slope",
            r"the terms 'ic' and 'slope' share one set of points \(t=0\)",
        ),
        (
            {"points": {"bc": Points(count=10)}, "constraints": "hard"},
            "points.bc",
            "the term 'bc' is fulfilled by `constraints: hard`",
        ),
        (
            {"points": {"pde": Points(count=101)}, "workers": 2},
            "points.pde.count",
            "101 points can't be dealt evenly to 2 workers; take 100 or 102",
        ),
        ({"points": {"pde": Points(count=100, chunk=33)}}, "points.pde.chunk", "33 does not divide the 100 points"),
        ({"points": {"data": Points(count=6)}}, "points.data.count", "sensors returns 5 samples"),
        ({"points": {"data": Points(count=5, adapt=Rad())}}, "points.data.adapt", "are given and can't be adapted"),
        ({"scale_fields": {"v": 1.0}}, "scaling.fields", "'v' is no field"),
    ],
)
def test_what_the_file_may_not_ask_of_a_problem_is_named_by_its_path(parts: dict, path: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        task_of(**parts)
    assert caught.value.path == path


def test_two_terms_of_a_region_may_say_the_same():
    task_of(points={"ic": Points(count=20), "slope": Points(count=20)})


def test_hard_constraints_need_an_ansatz_that_fulfils_what_it_names():
    class Bare(Problem):
        coords = {"t": (0, 1), "x": (0, 1)}
        fields = ("u",)

        @residual(x="low")
        def wall(self, f):
            return f("u")

    with pytest.raises(UserError, match="no method marked @hard and no periodic coordinate") as caught:
        task_of(Bare(), constraints="hard")
    assert caught.value.path == "constraints"

    class AllDone(Bare):
        @hard("wall")
        def ansatz(self, f):
            return {"u": f("x") * f("u")}

    with pytest.raises(UserError, match="nothing is left to train"):
        task_of(AllDone(), constraints="hard")

    class Slipped(Decay):
        @hard("ic", "bc")
        def ansatz(self, f):
            t, x, u = f("t", "x", "u")
            return {"u": f.ops.sin(math.pi * x) + t * x * (2 - x) * u}

    with pytest.raises(UserError, match="do not fulfil the term 'bc', whose residual reaches"):
        task_of(Slipped(), constraints="hard")
    task_of(Slipped(), constraints="soft")


def test_periodic_terms_are_fulfilled_by_the_features_of_a_periodic_coordinate():
    class Ring(Problem):
        coords = {"t": (0, 1), "x": (0, 1)}
        fields = ("u",)
        time = "t"
        periodic = ("x",)

        @residual
        def pde(self, f):
            return f("u_t") + f("u_x")

        @residual(x="periodic")
        def same(self, f):
            (low, high), (low_x, high_x) = f.ends("u", "u_x")
            return low - high, low_x - high_x

    soft, task = task_of(Ring()), task_of(Ring(), constraints="hard")
    assert [t.trained for t in soft.terms] == [True, True]
    assert [t.trained for t in task.terms] == [True, False]
    assert soft.width("x=periodic") == 2 * 2 * 6, "two channels at two ends"
    params = task.init(np.random.default_rng(0))
    assert params["w0"].shape == (3, 6)
    columns = task.held_out(100)["x=periodic"]
    jumps = task.per_sample(OPS, params, "x=periodic", columns, context(task))["same"]
    assert isinstance(jumps, tuple)
    assert max(np.abs(j).max() for j in jumps) < 1e-13
    params = soft.init(np.random.default_rng(0))
    jumps = soft.per_sample(OPS, params, "x=periodic", columns, context(soft))["same"]
    assert jumps[0].shape == columns["t"].shape
    assert np.abs(jumps[0]).max() > 1e-3


def test_a_term_that_reduces_itself_keeps_its_batch_whole():
    class Mass(Problem):
        coords = {"x": (0, 1)}
        fields = ("u",)

        @residual
        def pde(self, f):
            return f("u_xx")

        @loss(x="ends")
        def energy(self, f):
            return f.ops.mean(f("u")) ** 2

    task = task_of(Mass())
    assert (task.reduced("x=ends"), task.chunk("x=ends")) == (True, None)
    assert (task.reduced("interior"), task.chunk("interior")) == (False, "auto")
    params = task.init(np.random.default_rng(0))
    assert np.shape(task.per_sample(OPS, params, "x=ends", task.held_out(9)["x=ends"], context(task))["energy"]) == ()


def test_a_term_that_fails_on_a_backend_is_told_with_file_and_line():
    class Fragile(Decay):
        @residual
        def pde(self, f):
            return f("u").at_home if type(f).__name__ == "NetworkField" else f("u")

    line = Fragile.pde.__code__.co_firstlineno + 2
    task = task_of(Fragile())
    with pytest.raises(UserError, match=f"test_pde.py:{line}: Fragile.pde: raised AttributeError"):
        task.per_sample(
            OPS, task.init(np.random.default_rng(0)), "interior", task.held_out(3)["interior"], context(task)
        )
