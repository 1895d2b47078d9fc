"""Networks as configuration and as mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from backends.derivatives.jets import JetOps, Plan, seed
from backends.networks import MLP, CustomNetwork, FourierFeatures, ModifiedMLP, NetworkSpec, VaeNetwork
from backends.ops import NumpyOps
from backends.task import trainable

OPS = NumpyOps()
SPEC: TypeAdapter[Any] = TypeAdapter(NetworkSpec)

NETWORKS = [
    *(MLP(width=5, depth=2, activation=f) for f in ("tanh", "sin", "gelu", "silu")),
    ModifiedMLP(width=5, depth=3),
    MLP(width=5, depth=1, features=FourierFeatures(count=4, scale=0.5)),
    ModifiedMLP(width=5, depth=2, features=FourierFeatures(count=4)),
    VaeNetwork(latent=2, width=4, depth=1),
]


def drawn(network: Any, inputs: int = 2, outputs: int = 3, number: int = 0) -> dict[str, np.ndarray]:
    return network.init(np.random.default_rng(number), inputs, outputs)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.kind)
def test_one_text_gives_the_same_values_on_arrays_and_on_jets(network: Any):
    params, t, x = drawn(network), np.linspace(0, 1, 7), np.linspace(-1, 1, 7)
    plain = network.apply(OPS, params, np.stack([t, x]))
    assert plain.shape == (3, 7)
    for plan in (
        Plan(),
        Plan.closing([("x", "x"), ("t",)]),
        Plan.closing([("x", "x", "x", "t")], laplacian=("t", "x")),
    ):
        ops, at = JetOps(OPS, plan), seed(plan, OPS, {"t": t, "x": x})
        jet = network.apply(ops, params, ops.features([at["t"], at["x"]]))
        np.testing.assert_allclose(jet.value, plain, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.kind)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(network: Any):
    one, same, other = drawn(network), drawn(network), drawn(network, number=1)
    assert one.keys() == same.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, same[name])
        assert value.ndim == 1 or not np.array_equal(value, other[name])


def test_an_mlp_has_width_times_depth_and_a_linear_end():
    params = drawn(MLP(width=20, depth=3), inputs=2, outputs=1)
    assert {k: v.shape for k, v in params.items()} == {
        "w0": (2, 20), "b0": (20,), "w1": (20, 20), "b1": (20,), "w2": (20, 20), "b2": (20,), "w3": (20, 1), "b3": (1,),
    }  # fmt: skip
    h = np.array([[0.3], [-0.2]])
    for k in range(3):
        h = np.tanh(params[f"w{k}"].T @ h + params[f"b{k}"][:, None])
    np.testing.assert_allclose(MLP(width=20, depth=3).apply(OPS, params, np.array([[0.3], [-0.2]])), params["w3"].T @ h)


def test_weights_are_drawn_after_glorot_and_biases_are_zero():
    params = drawn(MLP(width=300, depth=1), inputs=100)
    assert np.var(params["w0"]) == pytest.approx(2 / 400, rel=0.03)
    assert abs(params["w0"].mean()) < 1e-3
    assert not params["b0"].any()


def test_the_modified_mlp_mixes_two_encodings_of_its_input():
    network = ModifiedMLP(width=4, depth=2, activation="tanh")
    params, x = drawn(network), np.random.default_rng(5).normal(size=(2, 6))
    params = {k: v + 0.1 for k, v in params.items()}

    def layer(name: str, h: np.ndarray) -> np.ndarray:
        return np.tanh(params[f"w{name}"].T @ h + params[f"b{name}"][:, None])

    u, v, h = layer("_u", x), layer("_v", x), x
    for k in "01":
        z = layer(k, h)
        h = z * u + (1 - z) * v
    expected = params["w2"].T @ h + params["b2"][:, None]
    np.testing.assert_allclose(network.apply(OPS, params, x), expected, rtol=1e-13)


def test_fourier_frequencies_are_fixed_and_have_the_scale_asked_for():
    features = FourierFeatures(count=4000, scale=3.0)
    network = MLP(width=4, depth=1, features=features)
    params = drawn(network, inputs=1)
    assert [name for name in params if not trainable(name)] == ["frozen/frequencies"]
    assert params["w0"].shape == (8000, 4)
    assert np.std(params["frozen/frequencies"]) == pytest.approx(2 * np.pi * 3.0, rel=0.05)
    h = features.apply(OPS, params, np.array([[0.2, 0.7]]))
    np.testing.assert_allclose(h[:4000] ** 2 + h[4000:] ** 2, np.ones((4000, 2)))


def test_the_two_halves_of_a_vae_fit_together():
    network = VaeNetwork(latent=3, width=8, depth=2)
    params, x = drawn(network, inputs=64, outputs=64), np.random.default_rng(1).uniform(size=(64, 5))
    assert {name.split("/")[0] for name in params} == {"encoder", "decoder"}
    mean, log_variance = network.encode(OPS, params, x)
    assert mean.shape == log_variance.shape == (3, 5)
    np.testing.assert_array_equal(network.decode(OPS, params, mean), network.apply(OPS, params, x))
    assert not np.array_equal(mean, log_variance)


@pytest.mark.parametrize(
    ("network", "widest"),
    [
        (MLP(width=20), 20),
        (MLP(width=20, features=FourierFeatures(count=64)), 128),
        (VaeNetwork(latent=40, width=64), 80),
    ],
)
def test_the_widest_layer_is_known_before_anything_is_built(network: Any, widest: int):
    assert network.widest() == widest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"kind": "mlp"}, MLP),
        ({"kind": "modified_mlp", "features": {"count": 8, "scale": 2}}, ModifiedMLP),
        ({"kind": "vae", "latent": 4}, VaeNetwork),
        ({"kind": "custom", "target": "mine.py:Net", "hidden": [3, 4]}, CustomNetwork),
    ],
)
def test_kind_picks_the_network(given: dict[str, Any], expected: type):
    network = SPEC.validate_python(given)
    assert type(network) is expected
    assert SPEC.validate_python(network.model_dump()) == network


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"kind": "mlpp"}, ()),
        ({"width": 3}, ()),
        ({"kind": "mlp", "width": 0}, ("mlp", "width")),
        ({"kind": "mlp", "width": 65537}, ("mlp", "width")),
        ({"kind": "mlp", "width": 2.5}, ("mlp", "width")),
        ({"kind": "mlp", "width": True}, ("mlp", "width")),
        ({"kind": "mlp", "width": "64"}, ("mlp", "width")),
        ({"kind": "mlp", "depth": 0}, ("mlp", "depth")),
        ({"kind": "modified_mlp", "depth": 101}, ("modified_mlp", "depth")),
        ({"kind": "mlp", "activation": "step"}, ("mlp", "activation")),
        ({"kind": "mlp", "layers": [64, 64]}, ("mlp", "layers")),
        ({"kind": "mlp", "features": {"count": 0}}, ("mlp", "features", "count")),
        ({"kind": "mlp", "features": {"scale": 0}}, ("mlp", "features", "scale")),
        ({"kind": "mlp", "features": {"scale": float("inf")}}, ("mlp", "features", "scale")),
        ({"kind": "vae", "latent": 0}, ("vae", "latent")),
        ({"kind": "vae", "features": {}}, ("vae", "features")),
        ({"kind": "custom"}, ("custom", "target")),
        ({"kind": "custom", "target": "mine.py"}, ("custom", "target")),
        ({"kind": "custom", "target": ":Net"}, ("custom", "target")),
        ({"kind": "custom", "target": "mine.py:3"}, ("custom", "target")),
    ],
)
def test_a_mistake_is_reported_where_it_stands(given: dict[str, Any], path: tuple[str, ...]):
    with pytest.raises(ValidationError) as caught:
        SPEC.validate_python(given)
    assert [error["loc"] for error in caught.value.errors()] == [path]


def test_a_network_of_ones_own_keeps_the_keys_of_its_target():
    network = CustomNetwork.model_validate({"target": "package.module:Outer.Net", "hidden": 32, "fields": 1})
    assert network.fields == {"hidden": 32, "fields": 1}
    assert not network.jets


def test_the_documentation_of_each_option_reaches_the_schema():
    for name, model in SPEC.json_schema()["$defs"].items():
        for option, schema in model["properties"].items():
            assert option == "kind" or schema.get("description"), f"{name}.{option} has no docstring"
