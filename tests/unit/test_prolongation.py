"""A network made wider computes the same function, made narrower again it is the one it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.multilevel.levels import probed
from backends.multilevel.prolongation import Chain, prolong, prolonged_moments, restrict, restricted_moments, width_of
from backends.networks.fourier import FourierFeatures
from backends.networks.mlp import MLP, ModifiedMLP
from backends.ops import NumpyOps

OPS = NumpyOps()
NETWORKS = [
    MLP(width=5, depth=3),
    MLP(width=4, depth=1, activation="gelu"),
    ModifiedMLP(width=5, depth=3),
    MLP(width=4, depth=2, features=FourierFeatures(count=3)),
]


def made(network: Any, seed: int, inputs: int = 2, outputs: int = 3) -> dict[str, np.ndarray]:
    """Parameters with biases, as after some training."""
    rng = np.random.default_rng(seed)
    params = network.init(rng, inputs, outputs)
    return {k: v + 0.3 * rng.normal(size=v.shape) if k.startswith("b") else v for k, v in params.items()}


def values(network: Any, params: Any, inputs: int = 2) -> np.ndarray:
    return network.apply(OPS, params, np.random.default_rng(9).uniform(-1, 1, (inputs, 50)))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.integers(1, 9))
def test_a_wider_network_computes_the_same_and_restricting_gives_the_old_one_back(network: Any, seed: int, more: int):
    params = made(network, seed)
    wide = prolong(params, network.width + more, np.random.default_rng(seed))
    assert width_of(wide) == network.width + more
    np.testing.assert_allclose(values(network, wide), values(network, params), rtol=0, atol=1e-13)
    back, kept = restrict(wide, network.width, probed(network, np.random.default_rng(1)))
    assert set(back) == set(params)
    for name, value in params.items():
        np.testing.assert_array_equal(back[name], value)
    assert all((units == np.arange(network.width)).all() for units in kept[""])


def test_new_units_learn_from_the_first_step_and_differ_from_each_other():
    network = MLP(width=4, depth=2)
    wide = prolong(made(network, 0), 8, np.random.default_rng(0))
    h = list(network.hidden(OPS, wide, np.random.default_rng(9).uniform(-1, 1, (2, 50))))[-1]
    new = h[4:]  # the gradient of their outgoing weights is the error times this
    assert (new.std(1) > 1e-3).all()
    assert (np.abs(np.corrcoef(new)) - np.eye(4)).max() < 0.9999
    assert (wide["w2"][4:] == 0).all() and (wide["w1"][4:, :4] == 0).all()


@pytest.mark.parametrize("network", [MLP(width=12, depth=2), ModifiedMLP(width=12, depth=2)], ids=str)
def test_what_is_dropped_is_taken_over_by_the_rest(network: Any):
    params = made(network, 3)
    narrow, kept = restrict(params, 9, probed(network, np.random.default_rng(1)))
    cut = {}
    for name, value in params.items():  # the same units without the fit
        k = 0 if name in ("w_u", "w_v", "b_u", "b_v") else int(name[1:])
        rows = value if not name.startswith("w") or k == 0 else value[kept[""][k - 1]]
        cut[name] = rows[..., kept[""][k]] if k < 2 else rows
    error = np.abs(values(network, narrow) - values(network, params)).max()
    assert error < 0.2 * np.abs(values(network, cut) - values(network, params)).max()


def test_moments_of_old_weights_stay_and_new_ones_get_their_neighbours_size():
    network = MLP(width=2, depth=2)
    moments = {k: np.abs(v) + 1.0 for k, v in made(network, 0).items()}
    wide = prolonged_moments(moments, 3, fill=True)
    shapes = {k: v.shape for k, v in MLP(width=3, depth=2).init(np.random.default_rng(0), 2, 3).items()}
    assert {k: v.shape for k, v in wide.items()} == shapes
    for name, value in moments.items():
        assert (wide[name][tuple(map(slice, value.shape))] == value).all()
    np.testing.assert_allclose(wide["w2"][2], moments["w2"].mean(0))
    np.testing.assert_allclose(wide["w0"][:, 2], moments["w0"].mean(1))
    assert wide["b0"][2] == moments["b0"].mean()
    zero = prolonged_moments(moments, 3, fill=False)
    assert zero["w2"][2].sum() == zero["w1"][2].sum() == zero["b1"][2] == 0.0
    back = restricted_moments(wide, {"": [np.arange(2), np.arange(2)]})
    for name, value in moments.items():
        np.testing.assert_array_equal(back[name], value)


def test_only_layers_are_chains():
    names = {"w0": 0, "b0": 0, "w1": 0, "b1": 0, "unknown/w1": 0, "field/w0": 0, "field/b0": 0, "field/w1": 0}
    assert Chain.of(names) == (Chain("", 1, False), Chain("field/", 1, False))
