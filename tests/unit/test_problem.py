"""What a user writes as a problem, what is read out of it, and how its mistakes are answered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PositiveFloat, ValidationError

from backends.errors import UserError
from backends.names import Name, Vocabulary, two_readings
from backends.pde.build import recordings
from backends.pde.problem import Problem, hard, loss, residual
from backends.pde.regions import draw
from backends.randomness import generator


class Wave(Problem):
    """Everything at once: bounds by name, dict and tuple terms, own region, boundary, knobs and structure."""

    speed: PositiveFloat = 2.0
    unused: float = 7.0
    t_end: PositiveFloat = 3.0
    modes: int = 2
    coords = {"t": (0, "t_end"), "x": (-1, 1), "y": (0, 2)}
    fields = ("u", "u_hat")
    time = "t"
    unknowns = {"kappa": 1.5}

    @residual
    def pde(self, f):
        u_tt = f("u_tt")
        return {"wave": u_tt - self.speed**2 * f.laplacian("u"), "two": (f("u_hat_x") * self.modes, f("u_hat_t"))}

    @residual(t=0, scale=4)
    def ic(self, f):
        return f("u") - f("kappa")

    @residual(t="t_end")
    def end(self, f):
        return f("u")

    @residual(on="boundary")
    def flux(self, f):
        return f("u_x") * f("normal_x") + f("u_y") * f("normal_y")

    @loss(at="sensors")
    def data(self, f):
        return (f("u") - f("measured")) ** 2

    @residual(t=0)
    def speed0(self, f):
        return f("u_t")

    def sensors(self, rng):
        return {"t": rng.uniform(0, 1, 7), "x": rng.uniform(-1, 1, 7), "y": np.full(7, 0.5), "measured": np.ones(7)}


def class_of(body: dict, name: str = "Mine", base: type = Problem) -> type[Problem]:
    """A problem class made of a body without annotations."""
    return type(name, (base,), {"__module__": __name__, **body})


@residual
def first_derivative(self, f):
    return f("u_x")


PLAIN = {"coords": {"x": (0, 1)}, "fields": ("u",), "pde": first_derivative}


def test_terms_keep_the_order_of_their_definition_and_share_regions():
    problem = Wave()
    assert list(problem.declared()) == ["pde", "ic", "end", "flux", "data", "speed0"]
    regions = {name: methods for name, (_, methods) in problem.regions().items()}
    assert regions == {
        "interior": ("pde",),
        "t=0": ("ic", "speed0"),
        "t=3": ("end",),
        "boundary": ("flux",),
        "sensors": ("data",),
    }


def test_a_subclass_inherits_terms_and_an_override_keeps_its_place():
    class Slower(Wave):
        speed: PositiveFloat = 0.5

        @residual(t=0)
        def extra(self, f):
            return f("u")

        def ic(self, f):  # not marked again: the mark of the overridden method holds
            return f("u_hat")

    assert list(Slower.declared()) == ["pde", "ic", "end", "flux", "data", "speed0", "extra"]
    assert Slower.declared()["ic"] == Wave.declared()["ic"]


def test_one_dry_run_tells_terms_derivatives_and_live_constants():
    found = recordings(Wave())
    inside = found["interior"]
    assert inside.names == ("pde/wave", "pde/two")
    assert inside.plan.laplacian == ("x", "y")
    assert set(inside.plan.indices) == {(), ("t",), ("t", "t"), ("x",), ("y",)}
    assert inside.constants == {"speed"}, "neither the bound t_end, nor the int modes, nor a field that no term reads"
    assert found["t=3"].plan.size == 1, "values only: one channel"
    assert not inside.reduced


def test_a_bound_a_term_and_a_guess_may_name_a_float_field():
    problem = Wave(t_end=5.0)
    assert problem.box()["t"] == (0.0, 5.0)
    assert list(problem.regions()) == ["interior", "t=0", "t=5", "boundary", "sensors"]
    assert "t_end" not in problem.floats()


def test_terms_with_a_laplacian_in_one_coordinate_carry_the_second_derivative():
    class Line(Problem):
        coords = {"t": (0, 1), "x": (0, 1)}
        fields = ("u",)
        time = "t"

        @residual
        def pde(self, f):
            return f("u_t") - f.laplacian("u")

    plan = recordings(Line())["interior"].plan
    assert (plan.laplacian, set(plan.indices)) == ((), {(), ("t",), ("x",), ("x", "x")})


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("u", Name("field", "u")),
        ("u_hat", Name("field", "u_hat")),
        ("u_hat_xx", Name("field", "u_hat", ("x", "x"))),
        ("u_theta_theta", Name("field", "u", ("theta", "theta"))),
        ("u_thetax", Name("field", "u", ("theta", "x"))),
        ("u_xt", Name("field", "u", ("t", "x"))),
        ("u_t_x", Name("field", "u", ("t", "x"))),
        ("x", Name("coordinate", "x")),
        ("kappa", Name("unknown", "kappa")),
        ("measured", Name("column", "measured")),
    ],
)
def test_a_name_is_read_as_a_physicist_reads_it(name: str, meaning: Name):
    assert Vocabulary(("t", "x", "theta"), ("u", "u_hat"), ("kappa",)).parse(name, ["measured"]) == meaning


def test_an_unknown_name_is_answered_with_the_nearest():
    vocabulary = Vocabulary(("t", "x"), ("velocity",))
    with pytest.raises(UserError, match="'velocity_xy' is not known here; did you mean 'velocity_x"):
        vocabulary.parse("velocity_xy")
    with pytest.raises(UserError, match="'measurd'.*did you mean 'measured'"):
        vocabulary.parse("measurd", ["measured"])


def test_coordinates_that_allow_two_readings_are_found():
    assert two_readings(("x", "xx")) == (("x", "x"), ("xx",))
    assert two_readings(("t", "th", "ha", "a")) is not None
    assert two_readings(("t", "x", "theta")) is None


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4, unique=True), st.data())
def test_names_over_unambiguous_coordinates_have_one_meaning(coords: list[str], data: st.DataObject):
    word = data.draw(st.lists(st.sampled_from(coords), min_size=1, max_size=5))
    if two_readings(tuple(coords)) is None:
        found = Vocabulary(tuple(coords), ("u",)).parse("u_" + "".join(word))
        assert found == Name("field", "u", tuple(sorted(word)))


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4, unique=True))
def test_two_readings_are_told_apart_but_spelled_alike(coords: list[str]):
    pair = two_readings(tuple(coords))
    if pair is not None:
        assert pair[0] != pair[1]
        assert "".join(pair[0]) == "".join(pair[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": {}}, "coords is missing"),
        ({"fields": ()}, "fields is missing"),
        ({"fields": "u"}, r'fields must be a tuple: write \("u",\)'),
        ({"pde": lambda self, f: 0}, "no method is marked @residual or @loss"),
        ({"coords": {"x": 3}}, r"coords: 'x' needs \(low, high\), not 3"),
        ({"coords": {"x": (0, "lenght")}}, "coords: x: 'lenght' is no float field"),
        ({"coords": {"x": (0, True)}}, "coords: x: True is neither a number nor the name"),
        ({"coords": {"x": (0, 1), "xx": (0, 1)}}, "the coordinates are ambiguous: 'u_xx' may mean x then x, or xx"),
        ({"coords": {"x_1": (0, 1)}}, "the coordinate 'x_1' has an underscore"),
        ({"coords": {"at": (0, 1)}}, "'at' can't be the name of a coordinate"),
        ({"fields": ("u", "x")}, "'x' is used twice"),
        ({"fields": ("u", "u_x")}, "'u_x' also reads as a derivative of 'u'"),
        ({"fields": ("u", "2v")}, "'2v' is not a name"),
        ({"unknowns": {"u": 1.0}}, "'u' is used twice"),
        ({"time": "T"}, "time: 'T' is no coordinate"),
        ({"scales": {"v": 2.0}}, "scales: 'v' is not known"),
        ({"periodic": ("y",)}, "periodic: 'y' is not known"),
        ({"truth": {"kapa": 1.0}, "unknowns": {"kappa": 1.0}}, "truth: 'kapa' is not known; did you mean 'kappa'"),
        ({"pde": residual(y=0)(lambda self, f: 0)}, "pde: 'y' is no coordinate"),
        ({"pde": residual(x="middle")(lambda self, f: 0)}, "pde: x: 'middle' is no float field.*"),
        ({"pde": residual(on="top")(lambda self, f: 0)}, "on='top' is not known; allowed here: boundary"),
        ({"pde": residual(on="boundary")(lambda self, f: 0), "time": "x"}, "needs a coordinate besides time"),
        ({"pde": residual(at="sensors")(lambda self, f: 0)}, "there is no method sensors"),
        ({"pde": residual(at="sensors", x=0)(lambda self, f: 0)}, "not by two of them"),
        ({"box": lambda self: 3}, "'box' is a name that every Problem has already"),
        ({"a": hard("pdf")(lambda self, f: {})}, "@hard: 'pdf' is no term; did you mean 'pde'"),
        (
            {"a": hard("pde")(lambda self, f: {}), "b": hard("pde")(lambda self, f: {})},
            "only one method may be marked @hard, not a and b",
        ),
    ],
)
def test_a_mistake_in_the_class_is_named_when_it_is_defined(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        class_of({**PLAIN, **change})


def test_a_hard_mark_without_terms_is_refused():
    with pytest.raises(UserError, match="@hard needs the names of the terms"):
        hard(first_derivative)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"t_end": -1}, "greater than 0"),
        ({"speed": "2"}, "must be a number, not text"),
        ({"sped": 2}, "Extra inputs"),
        ({"speed": math.inf}, "finite"),
    ],
)
def test_the_fields_of_a_problem_are_checked_like_any_configuration(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        Wave(**settings)


def test_an_empty_domain_and_a_term_outside_it_are_refused():
    class Moved(Problem):
        low: float = 0.0
        start: float = 0.5
        coords = {"x": ("low", 1)}
        fields = ("u",)

        @residual(x="start")
        def ic(self, f):
            return f("u")

    Moved()
    with pytest.raises(ValidationError, match="the domain of x is empty: 2 … 1"):
        Moved(low=2.0)
    with pytest.raises(ValidationError, match="the term ic stands at x = 3, outside the domain 0 … 1"):
        Moved(start=3.0)


def test_problems_fit_into_other_models_as_fields():
    class Outer(BaseModel):
        task: Wave

    assert Outer.model_validate({"task": {"speed": 1}}).task == Wave(speed=1)


# --- regions -------------------------------------------------------------------------------------------------


def columns_of(problem: Problem, term: str, count: int = 240) -> dict:
    return dict(draw(problem, problem.region(term), (), count, "uniform", generator(0, "test")))


def test_the_boundary_is_sampled_by_area_with_outward_normals_and_without_time():
    columns = columns_of(Wave(), "flux")
    x, y, nx, ny = (columns[c] for c in ("x", "y", "normal_x", "normal_y"))
    assert set(columns) == {"t", "x", "y", "normal_x", "normal_y"}
    assert np.all(nx**2 + ny**2 == 1)
    np.testing.assert_array_equal(x[nx != 0], nx[nx != 0], "x = ±1 where the normal points along ±x")
    np.testing.assert_array_equal(y[ny != 0], 1 + ny[ny != 0])
    assert [int(np.sum(nx == s)) for s in (-1, 1)] == [60, 60], "all four sides have length 2"
    assert 0 < columns["t"].min() < columns["t"].max() < 3


def test_ends_are_sampled_evenly_also_by_a_sequence_whose_halves_alternate():
    problem = class_of(
        {**PLAIN, "coords": {"x": (0, 1), "y": (0, 1)}, "bc": residual(x="ends")(lambda self, f: f("u"))}
    )()
    columns = draw(problem, problem.region("bc"), (), 64, "sobol", generator(0, "test"))
    for end in (0.0, 1.0):
        y = columns["y"][columns["x"] == end]
        assert len(y) == 32
        assert np.histogram(y, 8, (0, 1))[0].tolist() == [4] * 8


def test_a_corner_of_two_conditions_is_one_face():
    problem = class_of(
        {**PLAIN, "coords": {"t": (0, 1), "x": (0, 1)}, "c": residual(t=0, x="high")(lambda self, f: f("u"))}
    )()
    columns = columns_of(problem, "c", 4)
    assert problem.region("c").name == "t=0,x=high"
    assert columns["t"].tolist() == [0.0] * 4
    assert columns["x"].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3, "must return columns"),
        ({"t": np.zeros(3), "x": np.zeros(3)}, "returns no column 'y'"),
        ({"t": np.zeros(3), "x": np.zeros(2), "y": np.ones(3)}, "one row per sample"),
        ({"t": np.zeros(0), "x": np.zeros(0), "y": np.zeros(0)}, "at least one"),
        ({"t": np.zeros(3), "x": np.zeros(3), "y": np.array([1, 2, np.nan])}, "'y' must hold finite numbers"),
        ({"t": np.zeros(3), "x": np.zeros(3), "y": np.array(["a"] * 3)}, "'y' must hold finite numbers"),
        (
            {"t": np.zeros(3), "x": np.array([0, 2, 0]), "y": np.ones(3)},
            r"x = 2 lies outside the domain, -1 … 1 \(1 of 3",
        ),
    ],
)
def test_columns_of_the_users_own_region_are_checked(returned, message: str):
    class Own(Wave):
        def sensors(self, rng):
            return returned

    with pytest.raises(UserError, match=message):
        draw(Own(), Own().region("data"), (), 1, "uniform", generator(0, "test"))


def test_a_column_that_hides_a_derivative_is_refused():
    class Hiding(Wave):
        def sensors(self, rng):
            return {**super().sensors(rng), "u_x": np.zeros(7)}

    with pytest.raises(UserError, match="the column 'u_x' hides what 'u_x' means"):
        recordings(Hiding())


# --- mistakes inside a term ------------------------------------------------------------------------------------


def record_of(term) -> None:
    recordings(class_of({**PLAIN, "nu": 0.0, "__annotations__": {"nu": "float"}, "pde": residual(term)})())


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda self, f: f("v"), "'v' is not known here"),
        (lambda self, f: f(), "at least one name"),
        (lambda self, f: f.d("u", "y"), "'y' is no coordinate"),
        (lambda self, f: f.d("w", "x"), "'w' is no field"),
        (lambda self, f: f.ends("u"), 'mark it @residual\\(x="periodic"\\)'),
        (lambda self, f: np.sin(f("u")), "use f.ops.sin: numpy.sin works on no backend but numpy"),
        (lambda self, f: np.where(f("u") > 0, 1, 0), "use f.ops.where"),
        (lambda self, f: math.sin(f("x")), "use f.ops, not the module math|raised TypeError"),
        (lambda self, f: f("u") * math.sqrt(self.nu), "use f.ops, not the module math"),
        (lambda self, f: f("u") if self.nu > 0 else f("x"), "can't decide a Python branch; use f.ops.where"),
        (lambda self, f: None, "returns NoneType; return an array"),
        (lambda self, f: {}, "returns an empty dict"),
        (lambda self, f: {"a": "b"}, "returns str under 'a'"),
        (lambda self, f: f.ops.outer(f("u"), f("u")), r"array of shape \(3, 3\).*one value per sample"),
        (lambda self, f: f("u") + missing, "raised NameError: name 'missing' is not defined"),  # noqa: F821
        (lambda self, f: f.ops.pi, "raised AttributeError"),
        (lambda self, f: f("exact_u"), "'exact_u' is not known here"),
    ],
)
def test_a_mistake_in_a_term_is_told_with_file_and_line(term, message: str):
    line = term.__code__.co_firstlineno
    with pytest.raises(UserError, match=message) as caught:
        record_of(term)
    assert str(caught.value).startswith(f"test_problem.py:{line}: Mine.pde: ")


def test_a_laplacian_needs_a_coordinate_besides_time():
    problem = class_of({**PLAIN, "time": "x", "pde": residual(lambda self, f: f.laplacian("u"))})
    with pytest.raises(UserError, match="a Laplacian needs a coordinate besides time"):
        recordings(problem())


def test_a_term_that_reduces_itself_is_noticed_by_its_shape():
    problem = class_of({**PLAIN, "mass": residual(lambda self, f: f.ops.mean(f("u")) - 1.0)})()
    assert recordings(problem)["interior"].reduced


def test_terms_may_use_every_operator_and_constants_are_seen_through_all_of_them():
    @residual
    def pde(self, f):
        u, x = f("u", "x")
        positive = (u > 0) & ~(x < 0) | (u == 0)
        return f.ops.where(positive, -u / 2 + x**2, self.b * 2.0) + f.ops.exp(self.a) + (1 - u) * (3 + x) / (2 + x)

    fields = {"a": 1.0, "b": 2.0, "c": 3.0, "__annotations__": dict.fromkeys("abc", "float")}
    problem = class_of({**PLAIN, **fields, "pde": pde})()
    assert recordings(problem)["interior"].constants == {"a", "b"}
