"""Laplacians from random directions: unbiased, of the variance that is reported, alike on both backends."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

import backends
from backends.derivatives.estimator import SAMPLE, EstimatedLaplacian, directions, names
from backends.errors import UserError
from backends.networks import MLP
from backends.networks.network import Network
from backends.ops import NumpyOps
from backends.pde.field import NetworkField
from backends.pde.problem import Problem, hard, residual
from backends.pde.recorder import record
from backends.pde.representation import Representation
from backends.pde.task import PdeTask
from backends.spec import Points
from backends.task import Context, Parts
from backends.testing.setup import ADAM, all_close, build, oracle, table

OPS = NumpyOps()
D = 5
COORDS = {f"x{i}": (-1, 1) for i in range(1, D + 1)}


class Bowl(Problem):
    """lap u = sum x + source in the cube, u = 0 on its boundary."""

    source: float = 0.7
    coords = COORDS
    fields = ("u",)

    @residual
    def pde(self, f):
        return f.laplacian("u") - f.ops.sum(f.position(), 0) - self.source

    @residual(on="boundary")
    def bc(self, f):
        return f("u")

    @hard("bc")
    def ansatz(self, f):
        edge = math.prod(1.0 - f(c) ** 2 for c in f.coords)
        return {"u": edge * (1.0 + f.ops.sum(f.position() ** 2, 0)) * f("u")}


class Quadratic(Network):
    """h' A h with a full matrix A: every second derivative is a known constant."""

    kind: Literal["quadratic"] = "quadratic"
    matrix: ClassVar[Any] = np.random.default_rng(3).normal(size=(D, D))

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict:
        return {"A": self.matrix, "ones": np.ones((D, 1))}

    def apply(self, ops: Any, params: Any, h: Any) -> Any:
        return ops.linear(h * ops.matmul(params["A"], h), params["ones"])


QUADRATIC = Quadratic().init(np.random.default_rng(0), D, 1)


class Nested(MLP):
    """The same network, differentiated by the framework."""

    kind: Literal["nested"] = "nested"  # pyright: ignore[reportIncompatibleVariableOverride]
    jets: ClassVar[bool] = False


def spec(kind: Any, samples: int = 2, unbiased: bool = False) -> EstimatedLaplacian:
    return EstimatedLaplacian(kind=kind, samples=samples, unbiased=unbiased)


def task(network: Any = None, laplacian: Any = None, constraints: Any = "hard", problem: Any = None) -> PdeTask:
    points = {"pde": Points(count=24, chunk=8)}
    network = network or MLP(width=6, depth=2)
    return (problem or Bowl()).build(Parts(network, constraints, points=points, laplacian=laplacian))


def estimate(along: Any, network: Any = None, count: int = 3) -> tuple[Any, Any]:
    """The Laplacian of a network, hard constraints applied, along given directions [m, d]; and the exact one."""
    problem = Bowl()
    represented = Representation(network or MLP(width=6, depth=2), hard=True)
    params = represented.network.init(np.random.default_rng(1), D, 1)
    columns = {c: np.random.default_rng(2).uniform(-1, 1, (D, count))[i] for i, c in enumerate(COORDS)}
    recording = record(problem, problem.region("pde"), ("pde",), columns)
    exact = NetworkField(represented, OPS, params, columns, recording.plan, problem).laplacian("u")
    vectors = np.repeat(np.asarray(along, float)[:, :, None], count, 2)
    plan = recording.along(names(len(vectors)))
    return NetworkField(represented, OPS, params, columns, plan, problem, directions=vectors).laplacian("u"), exact


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_sparse_directions_average_to_the_laplacian_over_all_choices_of_coordinates(samples: int):
    choices = list(itertools.combinations(np.eye(D) * math.sqrt(D / samples), samples))
    values = [estimate(choice) for choice in choices]
    np.testing.assert_allclose(np.mean([v for v, _ in values], 0), values[0][1], rtol=1e-12)


def test_random_signs_average_to_the_laplacian_over_all_sign_vectors():
    values = [estimate([signs]) for signs in itertools.product((-1.0, 1.0), repeat=D)]
    np.testing.assert_allclose(np.mean([v for v, _ in values], 0), values[0][1], rtol=1e-12)


def test_all_coordinates_at_once_are_the_laplacian_itself():
    value, exact = estimate(np.eye(D))
    np.testing.assert_allclose(value, exact, rtol=1e-13)


def test_a_network_without_jets_is_moved_along_the_directions():
    along = np.random.default_rng(0).normal(size=(3, D))
    found = [estimate(along, network)[0] for network in (MLP(width=6, depth=2), Nested(width=6, depth=2))]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)  # numpy nests by differences


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian"])
def test_directions_are_drawn_with_mean_square_one_in_every_pair_of_coordinates(kind: str):
    v = directions(spec(kind, 3), OPS, (0, 7), "set", np.arange(40_000), D, np.zeros(1))
    assert v.shape == (3, D, 40_000)
    mean = np.einsum("kin,kjn->ij", v, v) / v.shape[2]
    np.testing.assert_allclose(mean, np.eye(D), atol=0.02)


def test_sparse_directions_of_a_row_are_different_coordinates_and_every_row_has_its_own():
    v = directions(spec("sparse", 3), OPS, (0, 7), "set", np.arange(1000), D, np.zeros(1))
    hit = v != 0
    np.testing.assert_array_equal(hit.sum(1), 1)  # each direction is one coordinate
    np.testing.assert_array_equal(hit.sum((0, 1)), 3)
    np.testing.assert_array_equal(hit.any(0).sum(0), 3)  # no coordinate twice
    np.testing.assert_allclose(v[hit], math.sqrt(D / 3))
    assert np.unique(hit.any(0), axis=1).shape[1] == D  # all turns of one choice
    np.testing.assert_allclose(hit.any(0).mean(1), 3 / D, atol=0.05)


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian"])
def test_a_row_draws_the_same_whatever_is_drawn_beside_it_and_something_else_at_every_step(kind: str):
    def draw(step: int, rows: Any, seed: int = 0) -> Any:
        return directions(spec(kind), OPS, (seed, step), "set", rows, D, np.zeros(1))

    whole = draw(4, np.arange(30))
    np.testing.assert_array_equal(draw(4, np.array([7, 29])), whole[:, :, [7, 29]])
    assert not np.array_equal(draw(5, np.arange(30)), whole)
    assert not np.array_equal(draw(4, np.arange(30), seed=1), whole)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("sparse", lambda h, m: D**2 / m * (1 - m / D) * np.var(np.diag(h), ddof=1)),
        ("rademacher", lambda h, m: 2 / m * (np.sum(h**2) - np.sum(np.diag(h) ** 2))),
        ("gaussian", lambda h, m: 2 / m * np.sum(h**2)),
    ],
)
def test_the_variance_that_is_reported_is_the_one_of_theory(kind: str, exact: Any):
    built = task(Quadratic(), spec(kind, 2), "soft")
    columns = built.feed(0).sets["interior"].draw(20_000, np.random.default_rng(0))
    context = Context(built.constants, training=False)
    found = built.predict(OPS, QUADRATIC, ["variance/pde"], columns, context)["variance/pde"]
    hessian = Quadratic.matrix + Quadratic.matrix.T
    assert found.mean() == pytest.approx(exact(hessian, 2), rel=0.05)


def test_a_product_of_two_estimates_has_the_exact_mean_and_a_square_the_variance_on_top():
    means, errors = {}, {}
    for unbiased in (False, True):
        built = task(Quadratic(), spec("rademacher", 1, unbiased), "soft")
        columns = built.feed(0).sets["interior"].draw(100_000, np.random.default_rng(0))
        context = Context(built.constants, key=(0, 3))
        (term,) = (t for t in built.terms if t.name == "pde")
        assert term.kind == ("loss" if unbiased else "residual")
        value = built.per_sample(OPS, QUADRATIC, "interior", columns, context)["pde"]
        value = value if unbiased else value * value
        means[unbiased], errors[unbiased] = np.mean(value), np.std(value) / math.sqrt(len(value))
        still = replace(context, training=False)
        exact = built.predict(OPS, QUADRATIC, ["residual/pde", "variance/pde"], columns, still)
    wanted = float(np.mean(exact["residual/pde"] ** 2))
    assert abs(means[True] - wanted) < 3 * errors[True]
    assert abs(means[False] - wanted) > 50 * errors[False]
    assert means[False] == pytest.approx(wanted + exact["variance/pde"].mean(), rel=0.02)


@pytest.mark.parametrize("unbiased", [False, True])
def test_evaluations_and_predictions_are_exact(unbiased: bool):
    estimated, exact = task(laplacian=spec("sparse", 2, unbiased)), task()
    params = exact.init(np.random.default_rng(0))
    held_out = exact.held_out(20)
    assert oracle(estimated, params, held_out) == pytest.approx(oracle(exact, params, held_out), rel=1e-13)
    context = Context(exact.constants, training=False)
    both = [t.predict(OPS, params, ["residual/pde"], held_out["interior"], context) for t in (estimated, exact)]
    np.testing.assert_allclose(both[0]["residual/pde"], both[1]["residual/pde"], rtol=1e-13)


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
def test_both_backends_train_alike_in_passes_of_any_size(kind: str):
    losses = {}
    for name, chunk in (("jax", 8), ("torch", 12), ("torch", 24)):
        points = {"pde": Points(count=24, chunk=chunk)}
        parts = Parts(MLP(width=6, depth=2), "hard", points=points, laplacian=spec(kind, 2, kind == "sparse"))
        built = Bowl().build(parts)
        backend = build(backends.load(name), built, compile="never", seed=3)
        _, steps = backend.step(backend.init(3), 5, table(built, ADAM[0], 5), built.feed(3), 0)
        losses[name, chunk] = {"pde": np.array(steps.losses)}
    for key in losses:
        all_close(losses[key], losses["jax", 8], str(key), rtol=1e-12)
    assert np.ptp(losses["jax", 8]["pde"]) > 0


def test_the_cost_is_that_of_the_directions():
    assert task().width("interior") == (D + 2) * 6
    assert task(laplacian=spec("rademacher", 1)).width("interior") == 3 * 6


def test_points_of_estimated_terms_are_numbered():
    columns = task(laplacian=spec("sparse"), constraints="soft").feed(0).take(0, 1).fixed()
    np.testing.assert_array_equal(columns["interior"][SAMPLE], np.arange(24))
    assert SAMPLE not in columns["boundary"]


class Line(Problem):
    coords = {"t": (0, 1), "x": (0, 1)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        return f.laplacian("u") - f("u_t")


@pytest.mark.parametrize(
    ("problem", "laplacian", "message", "path"),
    [
        (Line(), spec("sparse", 1), "nothing to estimate", "derivatives.laplacian"),
        (Bowl(), spec("sparse", 5), "5 of 5 coordinates are all of them", "derivatives.laplacian.samples"),
    ],
)
def test_an_estimate_that_estimates_nothing_is_refused(problem: Problem, laplacian: Any, message: str, path: str):
    with pytest.raises(UserError, match=message) as caught:
        problem.build(Parts(MLP(width=4, depth=1), laplacian=laplacian))
    assert caught.value.path == path
