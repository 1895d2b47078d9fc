"""Parametric problems: coefficients as inputs of the network, drawn and seen on their scale, never derived by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveFloat, ValidationError

from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde import parameters
from backends.pde.finite_difference import residuals
from backends.pde.parameters import Range, family, spread, unit
from backends.pde.problem import Problem, hard, residual
from backends.pde.task import PdeTask
from backends.spec import Points
from backends.task import Context, Parts
from backends.tasks.burgers import Burgers
from backends.tasks.poisson import Poisson

OPS = NumpyOps()
NETWORK = MLP(width=6, depth=2)


class Cooling(Problem):
    """u_t = a u_xx + b, decaying from a sine; `a` and `b` may be swept, `top` is a bound."""

    a: PositiveFloat = 0.1
    b: float = 0.0
    top: float = 1.0
    coords = {"t": (0, 1), "x": (0, "top")}
    fields = ("u",)
    time = "t"
    reference_grid = {"t": 4, "x": 5}

    @residual
    def pde(self, f):
        return f("u_t") - self.a * f.laplacian("u") - self.b

    @residual(t=0)
    def ic(self, f):
        return f("u") - f("exact_u")

    @residual(x="periodic")
    def bc(self, f):
        low, high = f.ends("u")
        return self.a * (low - high)

    @hard("ic")
    def ansatz(self, f):
        t, x, u = f("t", "x", "u")
        return {"u": f.ops.sin(math.pi * x) + t * self.a * u}

    def solution(self, points):
        decay = math.exp(-self.a)  # for numbers alone, as users write it
        return {"u": np.sin(math.pi * points["x"]) * decay ** (math.pi**2 * points["t"])}


LOG = {"a": Range(range=(0.01, 1.0), scale="log")}


def task_of(problem: Problem | None = None, coords: Any = LOG, **given: Any) -> PdeTask:
    return (problem or Cooling()).build(Parts(NETWORK, coords=coords, **given))


def context(task: PdeTask) -> Context:
    return Context({name: np.array(value) for name, value in task.constants.items()})


def test_a_swept_setting_is_a_coordinate_and_no_constant():
    task = task_of()
    assert tuple(task.problem.coords) == ("t", "x", "a")
    assert task.constants == {"b": 0.0}
    params = task.init(np.random.default_rng(0))
    assert task.representation.inputs(task.problem, tuple(task.problem.coords)) == 3
    columns = task.feed(0).take(0, 1).fixed()["interior"]
    assert set(columns) == {"t", "x", "a"}
    found = task.predict(OPS, params, ["u_t", "u_xx", "a"], columns, context(task))
    values = task.per_sample(OPS, params, "interior", columns, context(task))["pde"]
    np.testing.assert_allclose(values, found["u_t"] - columns["a"] * found["u_xx"], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found["a"], columns["a"])


@pytest.mark.parametrize("sampler", ["uniform", "sobol"])
@pytest.mark.parametrize("batch", ["interior", "t=0", "x=periodic"])
def test_values_are_even_on_their_scale_in_every_set(sampler, batch: str):
    terms = {"interior": "pde", "t=0": "ic", "x=periodic": "bc"}
    task = task_of(points={terms[batch]: Points(count=1024, sampler=sampler)})
    a = task.feed(0).take(0, 1).fixed()[batch]["a"]
    assert a.min() >= 0.01 and a.max() <= 1.0
    counts, _ = np.histogram(np.log10(a), bins=8, range=(-2, 0))
    assert ((counts - 128) ** 2 / 128).sum() < 18.5, "chi squared, 99 %"
    linear = task_of(coords={"a": Range(range=(0.01, 1.0))}, points={terms[batch]: Points(count=1024, sampler=sampler)})
    counts, _ = np.histogram(linear.feed(0).take(0, 1).fixed()[batch]["a"], bins=8, range=(0.01, 1.0))
    assert ((counts - 128) ** 2 / 128).sum() < 18.5


@given(st.floats(0, 1))
def test_a_value_is_found_again_from_its_place_on_the_scale(place: float):
    problem = family(Cooling(), LOG)
    value = spread(problem, "a", np.array([place]))
    assert 0.01 <= value[0] <= 1.0
    assert unit(problem, "a", value)[0] == pytest.approx(place, abs=1e-12)


def test_the_network_sees_the_logarithm_between_minus_one_and_one():
    task = task_of()
    seen: list[Any] = []

    class Looking:
        def __getattr__(self, name: str) -> Any:
            return getattr(task.representation.network, name)

        def apply(self, ops: Any, params: Any, h: Any) -> Any:
            seen.append(h.value)
            return task.representation.network.apply(ops, params, h)

    import dataclasses

    looking = dataclasses.replace(task.representation, network=Looking())  # pyright: ignore[reportArgumentType]
    columns = {"t": np.zeros(3), "x": np.zeros(3), "a": np.array([0.01, 0.1, 1.0])}
    from backends.derivatives.jets import Plan

    looking.fields(OPS, task.init(np.random.default_rng(0)), columns, Plan(), task.problem)
    np.testing.assert_allclose(seen[0][2], [-1, 0, 1], atol=1e-14)


def test_one_member_of_the_family_is_the_problem_with_that_setting():
    """Residual, ansatz and periodic term at a = 0.3 of the family are those of Cooling(a=0.3) with the same fields."""
    task, single = task_of(constraints="hard"), Cooling(a=0.3)
    params = task.init(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    points = {"t": rng.uniform(0, 1, 9), "x": rng.uniform(0, 1, 9), "a": np.full(9, 0.3)}
    names = ["u", "u_t", "u_xx", "residual/pde", "residual/bc"]
    found = task.predict(OPS, params, names, points, context(task))
    np.testing.assert_allclose(found["residual/pde"], found["u_t"] - 0.3 * found["u_xx"], rtol=1e-12, atol=1e-14)
    low, high = (
        task.predict(OPS, params, ["u"], {**points, "x": np.full(9, x)}, context(task))["u"] for x in (0.0, 1.0)
    )
    np.testing.assert_allclose(found["residual/bc"], 0.3 * (low - high), atol=1e-14)
    start = task.predict(OPS, params, ["u"], {**points, "t": np.zeros(9)}, context(task))["u"]
    np.testing.assert_allclose(start, np.sin(math.pi * points["x"]), atol=1e-15)
    assert single.a == 0.3


def test_the_reference_is_taken_over_the_whole_family():
    task = task_of()
    known = task.reference()
    assert known is not None and known.shape == (4, 5, parameters.GRID) and known.axes == ("t", "x", "a")
    np.testing.assert_allclose(np.unique(known.points["a"]), np.geomspace(0.01, 1, parameters.GRID))
    expected = np.sin(math.pi * known.points["x"]) * np.exp(-known.points["a"] * math.pi**2 * known.points["t"])
    np.testing.assert_allclose(known.values["u"], expected, rtol=1e-12, atol=1e-15)
    params = task.init(np.random.default_rng(0))
    shown = task.pictures(lambda names, at: task.predict(OPS, params, names, at, context(task)), None)
    panels = next(p for p in shown if p.name == "solution")
    assert panels.panels["reference"].shape == (4, 5) and panels.title == "u at a = 0.1"


def test_the_equation_holds_for_every_member():
    found = residuals(family(Burgers(), {"nu": Range(range=(0.05, 0.2), scale="log")}), "pde", count=20)
    assert np.abs(found["pde"]).max() < 1e-5


def test_both_backends_see_the_same_family():
    import torch

    from backends.jax.ops import JaxOps
    from backends.torch.ops import TorchOps

    task = task_of(constraints="hard")
    params = task.init(np.random.default_rng(0))
    columns = task.held_out(20)["interior"]
    ours = task.per_sample(OPS, params, "interior", columns, context(task))["pde"]
    tensors = {n: torch.from_numpy(np.asarray(v)) for n, v in params.items()}
    context_of = {"b": torch.tensor(0.0, dtype=torch.float64)}
    theirs = task.per_sample(
        TorchOps(), tensors, "interior", {n: torch.from_numpy(v) for n, v in columns.items()}, Context(context_of)
    )["pde"]
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-12)
    again = task.per_sample(JaxOps(), params, "interior", columns, context(task))["pde"]
    np.testing.assert_allclose(np.asarray(again), ours, rtol=1e-12)


class Declared(Problem):
    """A parameter of the class itself, in two dimensions."""

    coords = {"x": (0, 1), "y": (0, 1), "wind_speed": {"range": (1.0, 5.0), "scale": "log"}}
    fields = ("u",)

    @residual
    def pde(self, f):
        return f.laplacian("u") - f("wind_speed") * f("u_x")

    @residual(on="boundary")
    def bc(self, f):
        return f.normal("u")


def test_a_parameter_is_no_part_of_boundary_normal_and_laplacian():
    task = task_of(Declared(), coords={})
    boundary = task.feed(0).take(0, 1).fixed()["boundary"]
    assert set(boundary) == {"x", "y", "wind_speed", "normal_x", "normal_y"}
    assert np.ptp(boundary["wind_speed"]) > 3
    assert task.recordings["interior"].plan.laplacian == ("x", "y")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda f: f("u_wind_speed"), "'u_wind_speed': 'wind_speed' is a parameter: nothing is derived by it"),
        (lambda f: f.d("u", "wind_speed"), "'wind_speed' is a parameter: nothing is derived by it"),
        (lambda f: f("wind_sped"), "did you mean 'wind_speed'?"),
    ],
)
def test_nothing_is_derived_by_a_parameter(read, expected: str):
    made = type("Bad", (Declared,), {"pde": residual(lambda self, f: read(f)), "__module__": __name__})
    with pytest.raises(UserError) as caught:
        task_of(made(), coords={})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("coords", "expected", "path"),
    [
        ({"c": Range(range=(0, 1))}, "'c' is no float setting of Cooling", "coords.c"),
        ({"x": Range(range=(0, 1))}, "'x' is a coordinate of Cooling already", "coords.x"),
        ({"top": Range(range=(1, 2))}, "'top' shapes the domain", "coords.top"),
        ({"a": Range(range=(-1, 1))}, "a = -1: Input should be greater than 0", "coords.a.range"),
    ],
)
def test_what_can_not_be_swept_is_refused(coords: Any, expected: str, path: str):
    with pytest.raises(UserError) as caught:
        task_of(coords=coords)
    assert expected in str(caught.value) and caught.value.path == path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"range": (1.0, 0.1)}, "must rise"),
        ({"range": (0.0, 1.0), "scale": "log"}, "must lie above 0 for `scale: log`"),
        ({"range": (0.0, 1.0), "scale": "square"}, "Input should be 'linear' or 'log'"),
        ({"range": (0.0,)}, "Field required"),
    ],
)
def test_ranges_are_checked(given: Any, expected: str):
    with pytest.raises(ValidationError, match=expected):
        Range.model_validate(given)


@pytest.mark.parametrize(
    ("coords", "expected"),
    [
        ({"x": (0, 1), "k": {"rang": (1, 2)}}, "coords: 'k' needs"),
        ({"x": (0, 1), "k": {"range": (1, 2), "scale": "lg"}}, "coords: 'k' needs"),
        ({"x": (0, 1), "k": {"range": 3}}, "coords: 'k' needs (low, high), not 3"),
        ({"k": {"range": (1, 2)}}, "all of them are parameters"),
    ],
)
def test_classes_are_checked(coords: Any, expected: str):
    with pytest.raises(UserError) as caught:
        type("Bad", (Declared,), {"coords": coords, "__module__": __name__})
    assert expected in str(caught.value)


def test_an_integer_setting_can_not_be_swept():
    with pytest.raises(UserError, match="'k' is no float setting of Poisson"):
        task_of(Poisson(), coords={"k": Range(range=(1, 4))})


def test_points_of_a_file_have_a_column_of_the_parameter(tmp_path: Path):
    (tmp_path / "p.csv").write_text("t,x,a\n0.5,0.5,0.1\n")
    task = task_of(points={"pde": Points(path="p.csv")}, folder=tmp_path)
    assert task.feed(0).take(0, 1).fixed()["interior"]["a"].tolist() == [0.1]
    (tmp_path / "q.csv").write_text("t,x\n0.5,0.5\n")
    with pytest.raises(UserError, match="there is no column 'a'"):
        task_of(points={"pde": Points(path="q.csv")}, folder=tmp_path)
