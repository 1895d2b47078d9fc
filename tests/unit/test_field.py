"""What terms read: the network's derivatives in physical units, hard constraints, both ends, finite differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from backends.derivatives.jets import Plan
from backends.errors import UserError
from backends.networks import MLP
from backends.networks.network import Network
from backends.ops import NumpyOps
from backends.pde.field import NetworkField
from backends.pde.finite_difference import DifferenceField, residuals, stencil
from backends.pde.problem import Problem, hard, residual
from backends.pde.recorder import record
from backends.pde.regions import Region
from backends.pde.representation import Representation

OPS = NumpyOps()


class Product(Network):
    """A closed form instead of a network: outputs sin(w0 h0 + w1 h1 + 0.3) and twice that."""

    kind: Literal["product"] = "product"

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict:
        return {"w": np.array([[0.7, 1.4], [-1.1, -2.2]]), "c": np.array([1.3, 0.2])}

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        return ops.sin(ops.linear(h, params["w"], params["c"]))


class Plane(Problem):
    """A box that is nowhere symmetric, two fields of different scale."""

    shift: float = 0.5
    coords = {"t": (1, 3), "x": (-2, 6)}
    fields = ("u", "v")
    time = "t"
    unknowns = {"kappa": 2.0}
    scales = {"v": 10.0}

    @residual
    def pde(self, f):
        return f("u_t")

    @hard("pde")
    def ansatz(self, f):
        t, x, u, kappa = f("t", "x", "u", "kappa")
        return {"u": f.ops.exp(-kappa * t) * (x**2 + self.shift) * u}


PARAMS = {**Product().init(np.random.default_rng(0), 2, 2), "unknown/kappa": np.array(0.6)}
COLUMNS = {"t": np.linspace(1, 3, 5), "x": np.linspace(-2, 6, 5) ** 3 / 36, "measured": np.arange(5)}
XI = {"t": COLUMNS["t"] - 2, "x": (COLUMNS["x"] - 2) / 4}
PHASE = 0.7 * XI["t"] - 1.1 * XI["x"] + 1.3, 1.4 * XI["t"] - 2.2 * XI["x"] + 0.2


def field(plan: Plan, *, network: Network | None = None, problem: Problem | None = None, **kw: Any) -> NetworkField:
    represented = Representation(network or Product(), scales={"v": 10.0}, **kw)
    return NetworkField(represented, OPS, PARAMS, COLUMNS, plan, problem or Plane())


def test_derivatives_are_in_the_users_units_whatever_the_scaling():
    f = field(Plan.closing([("t", "x"), ("x", "x")], ()))
    u, u_t, u_x, u_xx, u_tx = f("u", "u_t", "u_x", "u_xx", "u_xt")
    sin, cos = np.sin(PHASE[0]), np.cos(PHASE[0])
    np.testing.assert_allclose(u, sin, rtol=1e-14)
    np.testing.assert_allclose(u_t, 0.7 * cos, rtol=1e-13)
    np.testing.assert_allclose(u_x, -1.1 / 4 * cos, rtol=1e-13)
    np.testing.assert_allclose(u_xx, -((1.1 / 4) ** 2) * sin, rtol=1e-13)
    np.testing.assert_allclose(u_tx, 0.7 * 1.1 / 4 * sin, rtol=1e-13)
    np.testing.assert_allclose(f("v"), 10 * np.sin(PHASE[1]), rtol=1e-13)
    np.testing.assert_allclose(f("v_x"), -10 * 2.2 / 4 * np.cos(PHASE[1]), rtol=1e-13)


def test_without_scaling_the_network_sees_the_coordinates_themselves():
    f = field(Plan.closing([("x",)]), scale_coords=False)
    phase = 0.7 * COLUMNS["t"] - 1.1 * COLUMNS["x"] + 1.3
    np.testing.assert_allclose(f("u_x"), -1.1 * np.cos(phase), rtol=1e-13)


def test_names_are_read_in_the_order_asked_for():
    f = field(Plan.closing([("x", "x")]))
    x, measured, kappa = f("x", "measured", "kappa")
    np.testing.assert_array_equal(x, COLUMNS["x"])
    np.testing.assert_array_equal(measured, COLUMNS["measured"])
    assert kappa.shape == ()
    np.testing.assert_array_equal(f.d("u", "x", "x"), f("u_xx"))


def test_a_laplacian_channel_equals_the_sum_of_second_derivatives_and_leaves_time_out():
    class Space(Problem):
        coords = {"t": (0, 1), "x": (0, 1), "y": (0, 2)}
        fields = ("u",)
        time = "t"

        @residual
        def pde(self, f):
            return f.laplacian("u")

    network = MLP(width=5, depth=2)
    params = network.init(np.random.default_rng(1), 3, 1)
    columns = {c: np.random.default_rng(2).uniform(0, 1, 6) for c in ("t", "x", "y")}
    represented = Representation(network)
    channel = NetworkField(represented, OPS, params, columns, Plan.closing([], ("x", "y")), Space())
    parts = NetworkField(represented, OPS, params, columns, Plan.closing([("x", "x"), ("y", "y")]), Space())
    np.testing.assert_allclose(channel.laplacian("u"), parts("u_xx") + parts("u_yy"), rtol=1e-12)
    np.testing.assert_allclose(parts.laplacian("u"), parts("u_xx") + parts("u_yy"), rtol=1e-12)


def test_the_ansatz_acts_on_every_derivative():
    problem = Plane(shift=0.25)
    f = field(Plan.closing([("t",), ("x", "x")]), problem=problem, hard=True)
    t, x, (sin, cos) = COLUMNS["t"], COLUMNS["x"], (np.sin(PHASE[0]), np.cos(PHASE[0]))
    front, grown, rate = np.exp(-0.6 * t), x**2 + 0.25, -1.1 / 4
    np.testing.assert_allclose(f("u"), front * grown * sin, rtol=1e-12)
    np.testing.assert_allclose(f("u_t"), front * grown * (-0.6 * sin + 0.7 * cos), rtol=1e-12)
    exact = front * (2 * sin + 4 * x * rate * cos - grown * rate**2 * sin)
    np.testing.assert_allclose(f("u_xx"), exact, rtol=1e-12)
    np.testing.assert_allclose(f("v"), 10 * np.sin(PHASE[1]), rtol=1e-13, err_msg="not named by the ansatz")


@pytest.mark.parametrize(
    ("ansatz", "message"),
    [
        (lambda self, f: {"u": f("u_x")}, "made of values, not of derivatives"),
        (lambda self, f: {"u": f.laplacian("u")}, "made of values, not of derivatives"),
        (lambda self, f: {"w": f("u")}, "returns 'w', which is no field"),
        (lambda self, f: f("u"), "must return {field: value}"),
    ],
)
def test_an_ansatz_that_is_none_is_refused(ansatz: Any, message: str):
    body = {"__module__": __name__, "ansatz": hard("pde")(ansatz)}
    with pytest.raises(UserError, match=message):
        field(Plan(), problem=type("Wrong", (Plane,), body)(), hard=True)


def test_an_ansatz_may_return_a_constant():
    body = {"__module__": __name__, "ansatz": hard("pde")(lambda self, f: {"u": 3.0})}
    f = field(Plan.closing([("x",)]), problem=type("Flat", (Plane,), body)(), hard=True)
    np.testing.assert_array_equal(f("u"), 3.0)
    np.testing.assert_array_equal(f("u_x"), 0.0)


# --- periodic coordinates ------------------------------------------------------------------------------------


class Ring(Problem):
    """Periodic in x, by the network itself or by a term."""

    coords = {"t": (0, 1), "x": (-1, 3)}
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


def test_a_periodic_term_sees_both_ends_of_the_same_other_coordinates():
    network = MLP(width=4, depth=1)
    params = network.init(np.random.default_rng(0), 2, 1)
    columns = {"t": np.linspace(0, 1, 4), "x": np.full(4, -1.0)}
    plan, region = Plan.closing([("x",)]), Ring().region("same")
    f = NetworkField(Representation(network), OPS, params, columns, plan, Ring(), region)
    (low, high), (left, right), (t, also_t) = f.ends("u_x", "x", "t")
    for end, value in ((-1.0, low), (3.0, high)):
        at = {"t": columns["t"], "x": np.full(4, end)}
        plain = NetworkField(Representation(network), OPS, params, at, plan, Ring())
        np.testing.assert_allclose(value, plain("u_x"), rtol=1e-13)
    assert (set(left), set(right)) == ({-1.0}, {3.0})
    np.testing.assert_array_equal(t, also_t)
    np.testing.assert_array_equal(f("t"), columns["t"])
    for name in ("u", "x"):
        with pytest.raises(UserError, match="has two values in a periodic term; ask for f.ends"):
            f(name)


def test_periodic_features_make_every_derivative_periodic():
    network = MLP(width=4, depth=2)
    represented = Representation(network, hard=True)
    assert represented.inputs(Ring(), tuple(Ring.coords)) == 3
    params = network.init(np.random.default_rng(0), 3, 1)
    plan = Plan.closing([("x", "x")])
    low, high, inside = (
        NetworkField(represented, OPS, params, {"t": np.linspace(0, 1, 4), "x": np.full(4, x)}, plan, Ring())
        for x in (-1.0, 3.0, 0.3)
    )
    for name in ("u", "u_x", "u_xx"):
        np.testing.assert_allclose(low(name), high(name), rtol=1e-12, atol=1e-13)
        assert not np.allclose(low(name), inside(name))


# --- networks without Jets -----------------------------------------------------------------------------------


class Opaque(MLP):
    """A network that Jets can't pass, as a user's own module."""

    jets: ClassVar[bool] = False


def test_nested_differentiation_gives_what_jets_give_also_under_hard_constraints():
    jax = pytest.importorskip("jax")
    from backends.jax.ops import JaxOps

    params = MLP(width=6, depth=2).init(np.random.default_rng(0), 2, 2) | {"unknown/kappa": np.array(0.6)}
    plan = Plan.closing([("t",), ("t", "x")], ("x",))

    def values(columns: Any) -> Any:
        for network in (MLP(width=6, depth=2), Opaque(width=6, depth=2)):
            represented = Representation(network, hard=True, scales={"v": 10.0})
            f = NetworkField(represented, JaxOps(), params, columns, plan, Plane())
            yield *f("u", "u_t", "u_tx", "v_x"), f.laplacian("u"), f.laplacian("v")

    with jax.enable_x64(True):
        found = jax.jit(lambda columns: list(values(columns)))(COLUMNS)
    for jets, nested in zip(*found, strict=True):
        np.testing.assert_allclose(jets, nested, rtol=1e-11, atol=1e-12)


def test_the_gradient_of_a_residual_reaches_every_parameter_and_agrees_with_differences():
    jax = pytest.importorskip("jax")
    from backends.jax.ops import JaxOps

    network = MLP(width=4, depth=2)
    params = network.init(np.random.default_rng(0), 2, 2) | {"unknown/kappa": np.array(0.6)}
    plan = Plan.closing([("t",), ("x", "x")])

    def total(ops: Any, p: Any) -> Any:
        f = NetworkField(Representation(network, hard=True), ops, p, COLUMNS, plan, Plane())
        u_t, u_xx, v, kappa = f("u_t", "u_xx", "v", "kappa")
        return ops.mean((u_t - kappa * u_xx + v) ** 2)

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda p: total(JaxOps(), p)))(params)
    rng = np.random.default_rng(3)
    direction = {k: rng.normal(size=v.shape) for k, v in params.items()}
    step = 1e-5
    ahead, behind = ({k: v + s * step * direction[k] for k, v in params.items()} for s in (1, -1))
    slope = (total(OPS, ahead) - total(OPS, behind)) / (2 * step)
    assert sum(float(np.sum(gradient[k] * direction[k])) for k in params) == pytest.approx(slope, rel=1e-7)


# --- finite differences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("derivative", [1, 2, 3, 4])
def test_a_stencil_differentiates_polynomials_exactly(derivative: int):
    weights = np.array(stencil(derivative))
    nodes = np.arange(len(weights)) - len(weights) // 2
    for power in range(len(weights)):
        expected = math.factorial(derivative) if power == derivative else 0.0
        assert weights @ nodes.astype(float) ** power == pytest.approx(expected, abs=1e-8)
    assert stencil(0) == (1.0,)


def test_differences_of_a_known_function_are_its_derivatives():
    def known(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"u": np.exp(0.5 * points["t"]) * np.sin(points["x"]), "v": points["x"] ** 3}

    f = DifferenceField(Plane(), COLUMNS, known, unknowns={"kappa": 4.0})
    wave = np.exp(0.5 * COLUMNS["t"])
    np.testing.assert_allclose(f("u_t"), 0.5 * wave * np.sin(COLUMNS["x"]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(f("u_tx"), 0.5 * wave * np.cos(COLUMNS["x"]), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(f("v_xxx"), 6.0, rtol=1e-4)
    np.testing.assert_allclose(f.laplacian("v"), 6 * COLUMNS["x"], rtol=1e-7, atol=1e-7)
    assert f("kappa") == 4.0
    with pytest.raises(UserError, match="the true value of 'kappa' is not known"):
        DifferenceField(Plane(), COLUMNS, known)("kappa")
    with pytest.raises(UserError, match="the solution says nothing of 'v'"):
        DifferenceField(Plane(), COLUMNS, lambda p: {"u": p["x"]})("v")


def test_differences_also_prove_periodic_terms():
    def moving(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"u": np.sin(0.5 * math.pi * (points["x"] - points["t"]))}

    for term in ("pde", "same"):
        assert np.abs(residuals(Ring(), term, solution=moving)[term]).max() < 1e-9

    def aperiodic(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"u": np.sin(points["x"] - points["t"])}

    assert np.abs(residuals(Ring(), "same", solution=aperiodic)["same"]).max() > 0.1


def test_a_region_without_a_name_is_the_inside():
    assert Region().interior
    assert Region().name == "interior"


class Many(Problem):
    """Time and twelve more coordinates."""

    coords = {"t": (0, 1), **{f"x{i}": (-1, 1) for i in range(1, 13)}}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        return f("u_x12x1") - f.laplacian("u") + sum(f.d("u", c) for c in f.coords)

    @residual(x1="periodic")
    def turn(self, f):
        return f.ops.sum(f.position(), 0)


def test_many_coordinates_have_unambiguous_names_and_can_be_looped_over():
    problem = Many()
    names = problem.vocabulary()
    assert names.parse("u_x12x1").index == ("x1", "x12") == names.parse("u_x1_x12").index
    columns = {c: np.full(3, 0.1 * i) for i, c in enumerate(problem.coords)}
    recording = record(problem, problem.region("pde"), ("pde",), columns)
    assert recording.plan.laplacian == tuple(sorted(c for c in problem.coords if c != "t"))
    network = MLP(width=4, depth=1)
    params = network.init(np.random.default_rng(0), 13, 1)
    f = NetworkField(Representation(network), OPS, params, columns, recording.plan, problem)
    assert f.coords == tuple(problem.coords)
    np.testing.assert_array_equal(f.position(), np.stack([columns[f"x{i}"] for i in range(1, 13)]))
    with pytest.raises(UserError, match="two values in a periodic term"):
        record(problem, problem.region("turn"), ("turn",), columns)


def test_coordinates_of_one_interval_are_one_block_of_features_with_the_same_numbers():
    network, plan = MLP(width=5, depth=1, activation="sin"), Plan.closing([("x1", "x12")], ("x1", "x2"))
    params = network.init(np.random.default_rng(0), 13, 1)
    columns = {c: np.random.default_rng(i).uniform(0, 1, 4) for i, c in enumerate(Many.coords)}
    u = Representation(network).fields(OPS, params, columns, plan, Many())["u"]
    at = {c: (x - 0.5) * 2 if c == "t" else x for c, x in columns.items()}
    phase = params["w0"].T @ np.stack([at[c] for c in Many.coords]) + params["b0"][:, None]
    slopes = dict(zip(Many.coords, params["w0"], strict=True))
    expected = params["w1"].T @ (-np.sin(phase) * (slopes["x1"] * slopes["x12"])[:, None])
    np.testing.assert_allclose(u.at(("x1", "x12")), expected, rtol=1e-13)
    squares = (slopes["x1"] ** 2 + slopes["x2"] ** 2)[:, None]
    np.testing.assert_allclose(u.at("laplacian"), params["w1"].T @ (-np.sin(phase) * squares), rtol=1e-13)


def test_an_ansatz_reads_all_coordinates_as_one_jet():
    class Ball(Many):
        @hard("pde")
        def ansatz(self, f):
            return {"u": (1 - f.ops.sum(f.position() ** 2, 0)) * f("u")}

    plan = Plan.closing([("t",)], tuple(f"x{i}" for i in range(1, 13)))
    columns = {c: np.full(2, 0.1) for c in Ball.coords}
    network = MLP(width=4, depth=1)
    params = {k: 0 * v for k, v in network.init(np.random.default_rng(0), 13, 1).items()} | {"b1": np.array([2.0])}
    u = Representation(network, hard=True).fields(OPS, params, columns, plan, Ball())["u"]
    np.testing.assert_allclose(u.value, 2 * (1 - 0.12), rtol=1e-14)
    np.testing.assert_allclose(u.at("laplacian"), -2 * 2 * 12, rtol=1e-14)
    assert u.at(("t",)) is None or not np.any(u.at(("t",)))
