"""The derivative engine against analysis, against nested dual numbers and against JAX's own differentiation."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backends.derivatives.jets import Jet, JetOps, Plan, backward, forward, reached, saves_value, seed
from backends.derivatives.towers import FUNCTIONS, power, smooth, tower
from backends.errors import UserError
from backends.networks import MLP, FourierFeatures, ModifiedMLP
from backends.ops import NumpyOps

OPS = NumpyOps()
SMOOTH = [name for name in (*FUNCTIONS, "reciprocal") if smooth(name)]
POSITIVE = {"log", "sqrt", "reciprocal"}
"""Functions that the tests keep away from zero and below."""


@cache
def jax() -> Any:
    module = pytest.importorskip("jax")
    module.config.update("jax_enable_x64", True)
    return module


@cache
def jax_ops() -> Any:
    jnp, nn, special = jax().numpy, jax().nn, jax().scipy.special
    return SimpleNamespace(
        tanh=jnp.tanh,
        sin=jnp.sin,
        cos=jnp.cos,
        exp=jnp.exp,
        log=jnp.log,
        sqrt=jnp.sqrt,
        abs=jnp.abs,
        erf=special.erf,
        relu=nn.relu,
        sigmoid=nn.sigmoid,
        silu=nn.silu,
        softplus=nn.softplus,
        gelu=lambda z: nn.gelu(z, approximate=False),
        reciprocal=lambda z: 1 / z,
        sum=jnp.sum,
        stack=jnp.stack,
        reshape=jnp.reshape,
        matmul=jnp.matmul,
        broadcast_to=jnp.broadcast_to,
        concat=jnp.concatenate,
        features=jnp.concatenate,
        unstack=lambda x, axis: list(jnp.unstack(x, axis=axis)),
        zeros=lambda shape, like: jnp.zeros(shape, like.dtype),
        ones=lambda shape, like: jnp.ones(shape, like.dtype),
        astype=lambda x, like: x.astype(like.dtype),
        linear=lambda h, w, b=None: w.T @ h if b is None else w.T @ h + b[:, None],
        activation=lambda name, plan, channels: forward(name, plan, jax_ops(), channels),
    )


def at_points(plan: Plan, seed_number: int = 0, count: int = 6) -> dict[str, Jet]:
    rng = np.random.default_rng(seed_number)
    return seed(plan, OPS, {"t": rng.uniform(0.2, 1.0, count), "x": rng.uniform(-1.0, 1.0, count)})


def dense(jet: Jet, index: Any) -> np.ndarray:
    x = jet.at(index)
    return np.zeros(jet.shape) if x is None else np.broadcast_to(x, jet.shape)


# --- plans ---------------------------------------------------------------------------------------------------------


def test_a_plan_carries_every_derivative_that_the_wanted_ones_are_made_of():
    plan = Plan.closing([("x", "t", "x")])
    assert plan.indices == ((), ("t",), ("x",), ("t", "x"), ("x", "x"), ("t", "x", "x"))
    assert (plan.order, plan.size) == (3, 6)
    assert plan.position(("x", "t")) == plan.position(("t", "x")) == 3


def test_a_laplacian_costs_one_channel_and_first_derivatives():
    plan = Plan.closing([], laplacian=("z", "y", "x"))
    assert (plan.size, plan.order, plan.position("laplacian")) == (5, 2, 4)


def test_a_derivative_that_does_not_travel_is_named():
    with pytest.raises(KeyError, match=r"\('x', 'x'\).*does not travel"):
        Plan.closing([("x",)]).position(("x", "x"))
    with pytest.raises(KeyError, match="laplacian"):
        Plan.closing([("x",)]).position("laplacian")
    with pytest.raises(TypeError, match="not the text 'xx'"):
        Plan.closing(["xx"])


@pytest.mark.parametrize(("order", "bell"), [(1, 1), (2, 2), (3, 5), (4, 15), (7, 877)])
def test_faa_di_bruno_counts_every_partition_once_and_leibniz_every_subset(order: int, bell: int):
    plan = Plan.closing([("x",) * order])
    assert sum(n for n, _, _ in plan.composition[-1]) == bell
    assert sum(n for n, _, _ in plan.product[-1]) == sum(n for n, _, _ in plan.square[-1]) == 2**order


# --- functions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
@given(z=st.floats(-3, 3))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_each_derivative_of_a_function_is_the_slope_of_the_one_before(name: str, z: float):
    z = abs(z) + 0.7 if name in POSITIVE else z
    step, orders = 1e-3, 6
    # Fourth-order central differences of f^(k) against f^(k+1).
    at = [np.array(tower(name, OPS, np.array(z + k * step), orders)) for k in (-2, -1, 1, 2)]
    slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
    exact = np.array(tower(name, OPS, np.array(z), orders))
    np.testing.assert_allclose(slope[:-1], exact[1:], rtol=1e-7, atol=1e-7 * (1 + np.abs(exact).max()))


@pytest.mark.parametrize("name", [n for n in (*FUNCTIONS, "reciprocal") if saves_value(n)])
def test_derivatives_from_the_saved_value_need_no_argument(name: str):
    z = np.array([0.3, 1.1, 2.0])
    whole = tower(name, OPS, z, 1)
    for a, b in zip(whole, tower(name, OPS, None, 1, whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_a_real_power_is_differentiated_at_zero_as_far_as_it_can_be():
    z, half = np.array([0.0, 4.0]), power(np.array([0.0, 4.0]), 2.5, 2)
    np.testing.assert_allclose(half, [z**2.5, 2.5 * z**1.5, 3.75 * z**0.5])


def test_an_unknown_activation_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'tanh'"):
        forward("tanhh", Plan(), OPS, [np.ones((1, 1))])


@pytest.mark.parametrize("name", ["relu", "abs"])
def test_a_function_with_a_kink_is_refused_from_the_second_order_on_and_says_why(name: str):
    for plan in (Plan.closing([("x", "x")]), Plan.closing([], laplacian=("x",))):
        at = at_points(plan)
        with pytest.raises(UserError, match=rf"'{name}'.*order 2.*none\s+beyond the first.*use tanh"):
            getattr(JetOps(OPS, plan), name)(at["x"])


def test_relu_gives_first_derivatives():
    plan = Plan.closing([("x",)])
    y = JetOps(OPS, plan).relu(at_points(plan)["x"] * 3.0)
    np.testing.assert_array_equal(y.at(("x",)), 3.0 * (y.value > 0))


@pytest.mark.parametrize("name", [*FUNCTIONS, "reciprocal"])
@pytest.mark.parametrize("live", [(0, 1, 2, 3, 4, 5, 6), (0, 1, 2), (0, 2, 4), (0,)])
def test_backward_is_what_autodiff_makes_of_forward(name: str, live: tuple[int, ...]):
    plan = (
        Plan.closing([("x", "x"), ("t", "x")], laplacian=("x", "t")) if smooth(name) else Plan.closing([("x",), ("t",)])
    )
    rng = np.random.default_rng(3)
    # One channel of each kind: dense, constant over the points, one unit for all, absent.
    shapes = {0: (4, 5), 1: (4, 1), 2: (4, 5), 3: (1, 5), 4: (4, 1), 5: (4, 5), 6: (4, 5)}
    z: list[Any] = [rng.normal(size=shapes[i]) if i in live else None for i in range(plan.size)]
    z[0] = np.abs(z[0]) + 0.5 if name in POSITIVE else z[0]
    used = [i for i in live if i < plan.size]
    y = forward(name, plan, OPS, z)
    assert tuple(i for i, c in enumerate(y) if c is not None) == reached(plan, used)
    g = [None if c is None else rng.normal(size=c.shape) for c in y]

    def spread(values: Any) -> list[Any]:
        full: list[Any] = [None] * plan.size
        for i, x in zip(used, values, strict=True):
            full[i] = x
        return full

    def alone(*values: Any) -> list[Any]:
        return [c for c in forward(name, plan, jax_ops(), spread(values)) if c is not None]

    expected = jax().vjp(alone, *(z[i] for i in used))[1]([c for c in g if c is not None])
    kept = [None, *z[1:]] if saves_value(name) else z
    got = backward(name, plan, OPS, y[0], kept, g)
    assert [i for i, c in enumerate(got) if c is not None] == used
    for i, want in zip(used, expected, strict=True):
        assert got[i].shape == z[i].shape
        np.testing.assert_allclose(got[i], want, rtol=1e-11, atol=1e-11)


# --- Jets ----------------------------------------------------------------------------------------------------------


def test_a_polynomial_has_its_derivatives_to_rounding():
    plan = Plan.closing([("x", "x", "x", "t")], laplacian=("t", "x"))
    at = at_points(plan)
    t, x = at["t"].value, at["x"].value
    u = at["x"] ** 4 * at["t"] ** 2 - 3 * at["x"] / 2 + 1
    for index, exact in {
        (): x**4 * t**2 - 1.5 * x + 1,
        ("x",): 4 * x**3 * t**2 - 1.5,
        ("t", "x"): 8 * x**3 * t,
        ("x", "x"): 12 * x**2 * t**2,
        ("x", "x", "x", "t"): 48 * x * t,
        "laplacian": 2 * x**4 + 12 * x**2 * t**2,
    }.items():
        np.testing.assert_allclose(u.at(index), exact, rtol=1e-13, atol=1e-14)


def test_scaling_is_the_value_of_the_seed_channel():
    plan = Plan.closing([("x", "x")])
    x = at_points(plan)["x"]
    scaled = (x - 0.25) * 8.0
    np.testing.assert_array_equal(scaled.at(("x",)), [[8.0]])
    assert scaled.at(("x", "x")) is None
    y = JetOps(OPS, plan).sin(scaled)
    np.testing.assert_allclose(y.at(("x", "x")), -64 * np.sin(scaled.value), rtol=1e-14)


def test_constants_stay_out_of_the_channels():
    plan = Plan.closing([("x", "x"), ("t",)])
    x = at_points(plan)["x"]
    column = np.linspace(0, 1, 6)
    for y in (x + column, column + x, 1 - x, x - np.float64(2), np.float64(2) - x):
        assert [c is None for c in y.channels] == [False, True, False, True]
        assert y.at(("x",)).shape == (1, 1)
    assert isinstance(column * x, Jet) and (column * x).at(("x",)).shape == (1, 6)
    assert (x**0).channels[1:] == [None] * 3


def test_numpy_scalars_do_not_lift_float32():
    plan = Plan.closing([("x",)])
    x = seed(plan, OPS, {"x": np.linspace(0, 1, 3, dtype=np.float32)})["x"]
    for y in (x * np.float64(2), x + np.float64(2), x / np.float64(2), x ** np.float64(2.5)):
        assert y.dtype == y.at(("x",)).dtype == np.float32


@pytest.mark.parametrize("framework", ["numpy", "jax", "torch"])
def test_an_array_of_any_framework_may_stand_on_either_side_of_a_jet(framework: str):
    if framework == "numpy":
        make: Any = np.asarray
    elif framework == "jax":
        make = jax().numpy.asarray
    else:
        make = pytest.importorskip("torch").tensor
    column, plan = make([1.0, 2.0, 4.0]), Plan.closing([("x",)])
    x = Jet(plan, [make([[1.0, 2.0, 3.0]]), make([[1.0]])])
    for left, right in [(column * x, x * column), (column + x, x + column), (column - x, -(x - column))]:
        for a, b in zip(left.channels, right.channels, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    np.testing.assert_allclose(np.asarray((column / x).at(("x",))), -np.array([[1.0, 2 / 4, 4 / 9]]), rtol=1e-6)


def test_features_are_picked_by_slices_only():
    plan = Plan.closing([("x",)])
    ops, at = JetOps(OPS, plan), at_points(plan)
    h = ops.features([at["t"], at["x"], at["x"] * at["t"]])
    np.testing.assert_array_equal(h[1:2].value, at["x"].value)
    np.testing.assert_array_equal(h[1:].at(("x",)), h.at(("x",))[1:])
    one_for_all = Jet(plan, [np.ones((3, 6)), np.full((1, 6), 2.0)])
    assert one_for_all[2:].at(("x",)).shape == (1, 6)
    with pytest.raises(UserError, match=r"write h\[1 : 1 \+ 1\]"):
        h[1]  # type: ignore[index]


def test_joining_fills_what_is_missing_with_zeros():
    plan = Plan.closing([("x",), ("t",)])
    ops, at = JetOps(OPS, plan), at_points(plan)
    h = ops.features([at["t"], at["x"], np.ones((2, 6))])
    np.testing.assert_array_equal(h.at(("x",)), [[0.0], [1.0], [0.0], [0.0]])
    assert h.shape == (4, 6)


def test_derivatives_of_the_first_layer_take_no_room_per_point():
    plan = Plan.closing([("x", "x"), ("t",)])
    ops, at = JetOps(OPS, plan), at_points(plan)
    z = ops.linear(ops.features([at["t"], at["x"]]), np.ones((2, 7)), np.ones(7))
    assert [None if c is None else c.shape for c in z.channels] == [(7, 6), (7, 1), (7, 1), None]


def test_one_matrix_product_serves_all_dense_channels():
    seen = []

    class Counting(NumpyOps):
        def matmul(self, x: Any, y: Any) -> Any:
            seen.append(y.shape)
            return x @ y

    plan = Plan.closing([("x", "x"), ("t",)])
    ops, at = JetOps(Counting(), plan), at_points(plan)
    h = ops.tanh(ops.linear(ops.features([at["t"], at["x"]]), np.ones((2, 7)), np.zeros(7)))
    seen.clear()
    ops.linear(h, np.ones((7, 3)), np.zeros(3))
    assert seen == [(7, plan.size * 6)]


def test_where_picks_channel_by_channel():
    plan = Plan.closing([("x", "x")])
    ops, x = JetOps(OPS, plan), at_points(plan)["x"]
    y = ops.where(x > 0, x * x, 1.0 - x)
    np.testing.assert_array_equal(y.at(("x",)), np.where(x.value > 0, 2 * x.value, -1.0))
    np.testing.assert_array_equal(y.at(("x", "x")), np.where(x.value > 0, 2.0, 0.0))
    assert ops.where(np.array(True), 1.0, 2.0) == 1.0


def test_a_function_without_a_rule_refuses_a_jet_and_lists_those_that_have_one():
    plan = Plan.closing([("x",)])
    ops, x = JetOps(OPS, plan), at_points(plan)["x"]
    with pytest.raises(UserError, match=r"ops\.maximum has no derivatives.*where, tanh"):
        ops.maximum(x, 0.0)
    assert ops.maximum(1.0, 2.0) == 2.0
    assert ops.zeros((2, 3), like=x).shape == (2, 3)


def test_functions_of_plain_arrays_pass_through():
    ops, x = JetOps(OPS, Plan.closing([("x", "x")])), np.linspace(0.1, 1, 4)
    for name in FUNCTIONS:
        np.testing.assert_array_equal(getattr(ops, name)(x), getattr(OPS, name)(x))
    np.testing.assert_array_equal(ops.features([x[None], x[None]]), np.stack([x, x]))
    np.testing.assert_array_equal(ops.linear(x[None], np.ones((1, 2))), np.stack([x, x]))


# --- any expression, against nested dual numbers -------------------------------------------------------------------


class Dual:
    """value + slope * epsilon, where both may be Dual: an independent, slow, exact oracle for single numbers."""

    def __init__(self, value: Any, slope: Any) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Dual:
        return Dual(self.value + _value(other), self.slope + _slope(other))

    def __mul__(self, other: Any) -> Dual:
        return Dual(self.value * _value(other), self.slope * _value(other) + self.value * _slope(other))

    __radd__, __rmul__ = __add__, __mul__

    def of(self, name: str) -> Dual:
        slopes = {
            "sin": lambda z: fn("cos", z),
            "cos": lambda z: -1.0 * fn("sin", z),
            "exp": lambda z: fn("exp", z),
            "tanh": lambda z: 1.0 + -1.0 * (fn("tanh", z) * fn("tanh", z)),
            "reciprocal": lambda z: -1.0 * (fn("reciprocal", z) * fn("reciprocal", z)),
            "root": lambda z: 0.3 * (fn("root", z) * fn("reciprocal", z)),
            "sqrt": lambda z: 0.5 * fn("reciprocal", fn("sqrt", z)),
        }
        return Dual(fn(name, self.value), self.slope * slopes[name](self.value))


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Dual) else x


def _slope(x: Any) -> Any:
    return x.slope if isinstance(x, Dual) else 0.0


def fn(name: str, z: Any) -> Any:
    if isinstance(z, Dual):
        return z.of(name)
    return {"reciprocal": lambda z: 1 / z, "root": lambda z: z**0.3}.get(name, getattr(math, name, None))(z)


LEAVES = st.sampled_from(["t", "x"]) | st.floats(-2, 2).map(lambda c: round(c, 2))
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(st.sampled_from(["+", "-", "*", "/"]), inner, inner)
        | st.tuples(st.sampled_from(["sin", "cos", "tanh", "exp", "sqrt", "root"]), inner)
        | st.tuples(st.just("**"), inner, st.integers(-2, 4))
    ),
    max_leaves=8,
)


def evaluated(tree: Any, at: Any, ops: Any) -> Any:
    """The value of a tree; arguments of sqrt, /, … are made positive, those of exp small: 1 + z², tanh z."""
    if isinstance(tree, str):
        return at[tree]
    if isinstance(tree, float):
        return tree
    name, z = tree[0], evaluated(tree[1], at, ops)
    if name in "+-*/":
        y = evaluated(tree[2], at, ops)
        return {
            "+": lambda: z + y,
            "-": lambda: z + (-1.0) * y,
            "*": lambda: z * y,
            "/": lambda: ops.over(z, 1.0 + y * y),
        }[name]()
    if name == "**":
        return ops.to_the(1.0 + z * z if tree[2] < 0 else z, tree[2])
    if name == "exp":
        return ops.call("exp", ops.call("tanh", z))
    return ops.call(name, 1.0 + z * z if name in ("sqrt", "root") else z)


def dual_power(z: Any, k: int) -> Any:
    out: Any = 1.0
    for _ in range(abs(k)):
        out = out * z
    return fn("reciprocal", out) if k < 0 else out


ON_DUALS = SimpleNamespace(over=lambda u, v: u * fn("reciprocal", v), to_the=dual_power, call=fn)


def on_jets(plan: Plan) -> SimpleNamespace:
    ops = JetOps(OPS, plan)
    return SimpleNamespace(
        over=lambda u, v: u / v,
        to_the=lambda z, k: z**k,
        call=lambda name, z: z**0.3 if name == "root" else getattr(ops, name)(z),
    )


def by_duals(tree: Any, point: dict[str, float], index: tuple[str, ...]) -> float:
    """One dual number per differentiation, the innermost first."""
    at: dict[str, Any] = dict(point)
    for level, c in enumerate(index):
        ones = {name: 1.0 if name == c else 0.0 for name in at}
        zero: Any = 0.0
        for _ in range(level):
            zero = Dual(zero, 0.0)
        at = {name: Dual(z, zero + ones[name] if level else ones[name]) for name, z in at.items()}
    out = evaluated(tree, at, ON_DUALS)
    for _ in index:
        out = _slope(out)
    return float(out)


@given(tree=TREES, t=st.floats(0.1, 1.0), x=st.floats(-1.0, 1.0))
@example(tree=("/", "x", ("-", 1.0, "t")), t=0.5, x=0.0)
@example(tree=("**", ("+", "x", ("sqrt", "t")), -2), t=0.25, x=-0.5)
@example(
    tree=("+", ("*", -1.0, ("sin", ("*", 3.14, "x"))), ("*", ("*", "t", ("-", 1.0, ("**", "x", 2))), "x")), t=0.3, x=1.0
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_derivatives_of_any_expression_are_those_of_nested_dual_numbers(tree: Any, t: float, x: float):
    plan = Plan.closing([("x",) * 4, ("t", "t", "x")], laplacian=("t", "x"))
    u = evaluated(tree, seed(plan, OPS, {"t": np.array([t]), "x": np.array([x])}), on_jets(plan))
    if not isinstance(u, Jet):
        return
    exact = {index: by_duals(tree, {"t": t, "x": x}, index) for index in plan.indices}
    scale = max(1.0, *map(abs, exact.values()))
    for index, value in exact.items():
        assert dense(u, index).item() == pytest.approx(value, rel=1e-9, abs=1e-10 * scale), index
    laplacian = exact[("t", "t")] + exact[("x", "x")]
    assert dense(u, "laplacian").item() == pytest.approx(laplacian, rel=1e-9, abs=1e-10 * scale)


# --- networks, against JAX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        MLP(width=6, depth=3, activation="tanh"),
        MLP(width=6, depth=2, activation="gelu"),
        ModifiedMLP(width=5, depth=2, activation="silu"),
        MLP(width=5, depth=2, activation="sin", features=FourierFeatures(count=3, scale=0.3)),
    ],
    ids=["mlp-tanh", "mlp-gelu", "modified-silu", "fourier-sin"],
)
def test_derivatives_of_a_network_agree_with_nested_differentiation_in_jax(network: Any):
    jnp = jax().numpy
    params = network.init(np.random.default_rng(0), 2, 1)
    columns = {"t": np.array([0.3, 0.9]), "x": np.array([-0.4, 0.7])}

    def bounded(ops: Any, t: Any, x: Any, features: Any) -> Any:
        """A hard-constrained field: -sin(pi x) + t (1 - x²) N(2 t - 1, x) / (1 + t)."""
        return t * (1 - x * x) * network.apply(ops, params, features(2 * t - 1, x)) / (1 + t) - ops.sin(math.pi * x)

    def single(z: Any) -> Any:
        return bounded(jax_ops(), z[0], z[1], lambda t, x: jnp.stack([t, x])[:, None])[0, 0]

    plan = Plan.closing([("x",) * 4, ("t", "x", "x")], laplacian=("t", "x"))
    ops, at = JetOps(OPS, plan), seed(plan, OPS, columns)
    u = bounded(ops, at["t"], at["x"], lambda t, x: ops.features([t, x]))
    points = jnp.stack([columns["t"], columns["x"]], 1)
    value = jax().jit(jax().vmap(single))(points)
    hessian = jax().jit(jax().vmap(jax().hessian(single)))(points)
    along = jnp.array([0.0, 1.0])

    def d_x(f: Any) -> Any:
        return lambda z: jax().jvp(f, (z,), (along,))[1]

    fourth = jax().jit(jax().vmap(d_x(d_x(d_x(d_x(single))))))(points)
    third = jax().jit(jax().vmap(lambda z: jax().jvp(d_x(d_x(single)), (z,), (jnp.array([1.0, 0.0]),))[1]))(points)
    for index, exact in {
        (): value,
        ("t", "x"): hessian[:, 0, 1],
        ("x", "x"): hessian[:, 1, 1],
        "laplacian": hessian[:, 0, 0] + hessian[:, 1, 1],
        ("t", "x", "x"): third,
        ("x", "x", "x", "x"): fourth,
    }.items():
        np.testing.assert_allclose(dense(u, index)[0], exact, rtol=1e-10, atol=1e-10)


def test_a_laplacian_channel_is_the_sum_of_the_second_derivatives():
    network = MLP(width=8, depth=2)
    params = network.init(np.random.default_rng(1), 2, 3)
    plan = Plan.closing([("x", "x"), ("t", "t")], laplacian=("t", "x"))
    ops, at = JetOps(OPS, plan), at_points(plan)
    u = network.apply(ops, params, ops.features([at["t"], at["x"]]))
    np.testing.assert_allclose(u.at("laplacian"), u.at(("t", "t")) + u.at(("x", "x")), rtol=1e-12, atol=1e-13)


def test_features_are_summed_and_points_are_not():
    plan = Plan.closing([("x", "x")], ("t", "x"))
    ops, at = JetOps(OPS, plan), at_points(plan)
    both = ops.features([at["t"], at["x"] * at["x"], at["t"]])
    whole = ops.sum(both, 0)
    expected = at["t"] * 2 + at["x"] * at["x"]
    for index in (*plan.indices, "laplacian"):
        np.testing.assert_allclose(dense(whole, index), dense(expected, index), rtol=1e-14)
    with pytest.raises(UserError, match=r"ops\.sum\(x, 0\)"):
        ops.sum(both)
    assert ops.sum(np.ones((2, 3))) == 6
