"""The uncertainty of unknown constants: right where the posterior is known, and in the result of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends.errors import UserError
from backends.laplace import Measured, deviations
from backends.networks import MLP
from backends.pde.problem import Problem, residual
from backends.protocol import Settings
from backends.spec import Points
from backends.stages import Adam
from backends.task import Context, Parts
from orchestrator import run
from orchestrator.knobs import Knobs, initial
from orchestrator.runs import checked

INVERSE: dict[str, Any] = {
    "name": "inverse",
    "backend": "torch",
    "task": {"kind": "inverse_heat", "noise": 0.02, "measurements": 60},
    "network": {"kind": "mlp", "width": 5, "depth": 1},
    "constraints": "hard",
    "points": {"pde": 40},
    "precision": "float64",
    "compile": "never",
    "stages": [{"kind": "lbfgs", "steps": 20}],
    "evaluate": {"every": 20, "points": 20},
    "resources": {"workers": 0},
    "tracking": {"enabled": False},
    "uncertainty": {"kind": "laplace"},
}


def line(noise: float, seed: int, count: int = 30) -> tuple[Any, Any, Any]:
    """Measurements of 1 + 2 x: (design, least squares, residuals)."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, count)
    design = np.stack([np.ones(count), x], 1)
    y = design @ [1.0, 2.0] + noise * rng.standard_normal(count)
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return design, found, design @ found - y


def measured(design: Any, r: Any, weight: float = 1.0) -> Measured:
    n = len(r)
    return Measured(design.T @ design / n, n, float(r @ r / n), n, weight)


@pytest.mark.parametrize("covariance", ["posterior", "noise"])
@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_of_a_linear_model_it_is_the_known_posterior(covariance: Any, weight: float):
    design, _, r = line(0.1, 0)
    found = deviations({"data": measured(design, r, weight)}, ["data"], {"a": 0, "b": 1}, covariance=covariance)
    variance = r @ r / (30 - 2)  # of regression with unknown noise
    exact = np.sqrt(np.diag(variance * np.linalg.inv(design.T @ design)))
    assert found["noise/data"] == pytest.approx(math.sqrt(variance), rel=1e-9)
    np.testing.assert_allclose([found["unknown/a/std"], found["unknown/b/std"]], exact, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["posterior", "noise"])
def test_the_truth_lies_within_two_deviations_as_often_as_it_should(covariance: Any):
    hits = 0
    for seed in range(400):
        design, found, r = line(0.3, seed)
        std = deviations({"data": measured(design, r)}, ["data"], {"a": 0, "b": 1}, covariance=covariance)
        hits += abs(found[1] - 2.0) < 2.0 * std["unknown/b/std"]
    assert 0.92 < hits / 400 < 0.98, "95 % of a Student distribution with 28 degrees of freedom is 94.5 %"


def test_a_term_of_the_equation_narrows_the_posterior_and_a_soft_one_leaves_more_open_than_the_noise():
    design, _, r = line(0.1, 0)
    equation = Measured(np.array([[0.0, 0.0], [0.0, 4.0]]), 50, 0.0, 50, 1.0)
    alone = deviations({"data": measured(design, r)}, ["data"], {"b": 1})
    both = {"data": measured(design, r), "pde": equation}
    posterior = deviations(both, ["data"], {"b": 1})["unknown/b/std"]
    noise = deviations(both, ["data"], {"b": 1}, covariance="noise")["unknown/b/std"]
    assert noise < posterior < alone["unknown/b/std"]


def test_what_nothing_determines_is_not_called_certain():
    empty = Measured(np.zeros((2, 2)), 10, 1.0, 10, 1.0)
    assert deviations({"data": empty}, ["data"], {"a": 0}) == {"unknown/a/std": math.inf}
    flat = Measured(np.diag([1.0, 0.0]), 10, 1.0, 10, 1.0)
    found = deviations({"data": flat}, ["data"], {"a": 0, "b": 1})
    assert found["unknown/b/std"] > 1e5 * found["unknown/a/std"]
    few = Measured(np.eye(2), 2, 0.0, 2, 1.0)
    assert math.isnan(v := deviations({"data": few}, ["data"], {"a": 0})["noise/data"]) or v == math.inf


class Fit(Problem):
    """A term of two residuals, an unknown, and one term that is a loss."""

    coords = {"x": (0, 1)}
    fields = ("u",)
    unknowns = {"k": 2.0}

    @residual
    def pde(self, f):
        return f("u_x") - f("k") * f("u"), f("u_xx") - f("k") ** 2 * f("u")

    @residual(at="sensors")
    def data(self, f):
        return f("u") - f("seen")

    def sensors(self, rng):
        return {"x": np.linspace(0, 1, 7), "seen": np.exp(np.linspace(0, 1, 7))}


def test_the_curvature_of_a_backend_is_that_of_differences():
    task = Fit().build(Parts(MLP(width=3, depth=1), points={"pde": Points(count=6)}))
    stage = Adam(steps=1, precision="float64")
    context = Context({})
    for name in ("jax", "torch"):
        pytest.importorskip(name)
        backend = backends.load(name).build(task, (stage,), Settings(compile="never"))
        state, feed = backend.init(0), task.feed(0)
        row = Knobs(initial(task, {"pde": 3.0, "data": 5.0}), task=task).table(stage, 0, 0, 1)[0]
        what = frozenset({"curvature/pde", "curvature/data", "rows/pde", "rows/data"})
        seen = backend.probe(state, what, feed, 0, row)
        assert (int(seen["rows/pde"]), int(seen["rows/data"])) == (12, 7)
        params, layout = backend.parameters(state), backend.layout(state)
        for term, batch in (("pde", "interior"), ("data", "sensors")):
            columns = feed.take(0, 1).fixed()[batch]
            J = slopes(task, params, layout, batch, term, columns, context)
            np.testing.assert_allclose(seen[f"curvature/{term}"], J.T @ J / len(columns["x"]), rtol=0, atol=1e-5)


def slopes(task: Any, params: Any, layout: Any, batch: str, term: str, columns: Any, context: Any) -> np.ndarray:
    """J [rows, parameters] by central differences."""
    from backends.ops import NumpyOps

    def values(name: str, moved: Any) -> np.ndarray:
        found = task.per_sample(NumpyOps(), {**params, name: moved}, batch, columns, context)[term]
        return np.concatenate(found) if isinstance(found, tuple) else found

    out = []
    for name, shape in layout:
        for i in np.ndindex(shape):
            step = np.zeros(shape)
            step[i] = 1e-6
            out.append((values(name, params[name] + step) - values(name, params[name] - step)) / 2e-6)
    return np.stack(out, 1)


def test_a_run_ends_with_the_deviation_beside_the_constant(tmp_path: Path):
    pytest.importorskip("torch")
    result = run(INVERSE, out=tmp_path / "run")
    assert 0 < result.metrics["unknown/kappa/std"] < 1
    assert 0.01 < result.metrics["noise/data"] < 0.5
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "unknown/kappa/std" in lines, "so MLflow has it too"
    plain = run({**INVERSE, "uncertainty": None}, out=tmp_path / "plain")
    assert "unknown/kappa/std" not in plain.metrics
    assert plain.metrics["unknown/kappa"] == result.metrics["unknown/kappa"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_truth_is_within_three_deviations_of_what_was_found(seed: int, tmp_path: Path):
    """The measurements of inverse_heat are the same for every seed of a run, so each seed measures at other points."""
    pytest.importorskip("jax")
    stages = [{"kind": "ssbroyden", "steps": 400}]
    task = {"kind": "inverse_heat", "noise": 0.02, "measurements": 80 + 10 * seed}
    network = {"kind": "mlp", "width": 10, "depth": 2}
    tree = {**INVERSE, "backend": "jax", "compile": "auto", "stages": stages, "network": network, "seed": seed}
    result = run({**tree, "task": task, "points": {"pde": 200}}, out=tmp_path / "run")
    found, std = result.metrics["unknown/kappa"], result.metrics["unknown/kappa/std"]
    assert std < 0.02
    assert abs(found - 0.3) < 3 * std
    assert result.metrics["noise/data"] == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {"kind": "poisson"}, "constraints": "soft"}, "has no unknown constants"),
        ({"uncertainty": {"terms": ["date"]}}, "'date' is no trained residual; did you mean 'data'"),
        ({"network": {"kind": "mlp", "width": 100, "depth": 3}}, "parameters need matrices"),
    ],
)
def test_what_cannot_be_had_is_refused(changes: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        checked({**INVERSE, **changes}, [])
