"""Bands of a residual: they add up to it, a mode falls into its own, and both backends give the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backends
from backends.errors import UserError
from backends.laws.multiscale import Bands, BandSet, partition
from backends.laws.quadrature import Axis, product
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, residual
from backends.protocol import Settings
from backends.spec import Points
from backends.stages import Adam
from backends.task import Context, Parts
from orchestrator.knobs import Knobs, initial

OPS = NumpyOps()


class Forced(Problem):
    """u = forcing, whose residual has a known spectrum where the network is zero."""

    coords = {"t": (0, 1), "x": (-1, 1), "y": (0, 2)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        return f("u_t") - f.laplacian("u") - f.ops.sin(7.0 * f("x")) * f("t")

    @residual
    def other(self, f):
        return {"a": f("u"), "b": f("u_x")}

    @residual(x="periodic")
    def bc(self, f):
        return tuple(high - low for low, high in f.ends("u", "u_x"))


def task_of(multiscale: Any, problem: Problem | None = None, **points: Any) -> Any:
    asked = {name: Bands.model_validate(v) for name, v in multiscale.items()}
    return (problem or Forced()).build(Parts(MLP(width=6, depth=2), multiscale=asked, points=points))


def bands_of(values: np.ndarray, axes: tuple[Axis, ...], **spec: Any) -> np.ndarray:
    """[bands]: the mean square of each, of values [nodes]."""
    filters = BandSet(Bands(**spec), axes, "pde").filters()
    return np.array([np.sum((f @ values) ** 2) for f in filters])


@pytest.mark.parametrize("rule", ["gauss", "trapezoidal"])
@pytest.mark.parametrize("coupling", [0.0, 0.7])
@given(seed=st.integers(0, 10**6))
def test_the_mean_squares_of_the_bands_add_up_to_that_of_the_residual(rule: Any, coupling: float, seed: int):
    axis = Axis("x", 16, rule)
    values = np.random.default_rng(seed).normal(size=16)
    _, weights = axis.on(0, 1)
    assert bands_of(values, (axis,), bands=3, coupling=coupling).sum() == pytest.approx(weights @ values**2, rel=1e-10)


@pytest.mark.parametrize(("waves", "band"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (15, 2)])
def test_a_wave_lies_in_the_band_of_its_number(waves: int, band: int):
    axis = Axis("x", 32, "trapezoidal")
    nodes, _ = axis.on(-1, 1)
    found = bands_of(3.0 * np.cos(math.pi * waves * nodes), (axis,), bands=3)
    wanted = np.zeros(3)
    wanted[band] = 9.0 if waves == 0 else 4.5
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_in_two_coordinates_the_larger_number_of_waves_decides():
    axes = (Axis("x", 16, "gauss"), Axis("y", 16, "gauss"))
    found, _ = product(Forced(), axes)
    legendre = np.polynomial.legendre.Legendre.basis
    values = legendre(2)(found["x"]) * legendre(9)(found["y"] - 1.0)
    np.testing.assert_allclose(bands_of(values, axes, bands=2), [0.0, 1 / 5 / 19], atol=1e-13)


@given(st.integers(2, 5), st.floats(0.01, 1), st.integers(32, 100))
def test_shares_of_a_mode_add_up_to_one_and_reach_neighbours_only(bands: int, coupling: float, count: int):
    shares = np.stack(partition(np.arange(count, dtype=float), bands, coupling))
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-14)
    assert (shares >= -1e-15).all()
    assert ((shares > 1e-12).sum(0) <= 2).all()
    shared = np.flatnonzero((shares > 1e-12).sum(0) == 2)
    for m in shared:
        assert np.diff(np.flatnonzero(shares[:, m] > 1e-12)).tolist() == [1]


def test_the_terms_of_a_task_are_bands_and_the_residual_stays_on_the_yardstick():
    task = task_of({"pde": {"bands": 3, "along": ["x"], "nodes": 24}}, pde=Points(count=6))
    assert [(t.name, t.trained, t.counted) for t in task.terms][:4] == [
        ("pde", False, True), ("pde/band0", True, False), ("pde/band1", True, False), ("pde/band2", True, False)
    ]  # fmt: skip
    batch = task.terms[1].batch
    columns = task.feed(0).take(0, 1).fixed()[batch]
    assert columns["x"].shape == (6, 24) and columns["y"].shape == columns["t"].shape == (6,)
    params = task.init(np.random.default_rng(0))
    context = Context({k: np.array(v) for k, v in task.constants.items()})
    found = task.per_sample(OPS, params, batch, columns, context)
    flat = {c: np.repeat(columns[c], 24) if columns[c].ndim == 1 else columns[c].ravel() for c in task.problem.coords}
    whole = task.per_sample(OPS, params, "interior", flat, context)["pde"].reshape(6, 24)
    sums = sum(sum(part**2 for part in band) for band in found.values())
    np.testing.assert_allclose(sums, (whole**2).mean(1), rtol=1e-12)  # the nodes of a period have equal weights
    band = [sum(part**2 for part in band) for band in found.values()]
    assert all(np.max(b) > 0 for b in band)


def test_both_backends_give_the_same_bands():
    task = task_of({"pde": {"bands": 2, "along": ["y"], "nodes": 8, "coupling": 0.5}}, pde=Points(count=4))
    stage = Adam(lr=1e-2, steps=6, precision="float64")
    losses = []
    for name in ("jax", "torch"):
        pytest.importorskip(name)
        backend = backends.load(name).build(task, (stage,), Settings(compile="never" if name == "torch" else "auto"))
        trained = {t.name: 1.0 for t in task.terms if t.trained}
        knobs = Knobs(initial(task, {**trained, "pde/band1": 3.0}), task=task)
        _, steps = backend.step(backend.init(0), 6, knobs.table(stage, 0, 0, 6), task.feed(0), 0)
        losses.append(np.asarray(steps.losses))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


@pytest.mark.parametrize(
    ("multiscale", "told"),
    [
        ({"pdf": {}}, "there is no residual 'pdf' inside the domain; did you mean 'pde'"),
        ({"bc": {}}, "there is no residual 'bc' inside the domain"),
        ({"other/a": {}}, "returns several residuals"),
        ({"pde": {"along": ["t"]}}, "'t' is no coordinate of space"),
        ({"pde": {"along": ["x", "x"]}}, "names a coordinate twice"),
        ({"pde": {"bands": 5, "nodes": 16}}, "5 octaves need at least 32 nodes"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(multiscale: Any, told: str):
    with pytest.raises(UserError, match=told):
        task_of(multiscale)
