"""The divergence is that of two normal distributions whatever the units, and its minimum with data is the posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import backends
from backends.laws.variational import expected_misfit, kl_normal
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, loss, residual
from backends.protocol import Settings
from backends.stages import Lbfgs
from backends.task import Parts
from orchestrator.knobs import Knobs, initial

OPS = NumpyOps()


@pytest.mark.parametrize(("mean", "std", "prior_mean", "prior_std"), [(0.3, 0.5, 0.0, 1.0), (2.0, 3.0, 1.0, 0.7)])
def test_it_is_the_integral_that_defines_it(mean: float, std: float, prior_mean: float, prior_std: float):
    q, p = norm(mean, std), norm(prior_mean, prior_std)
    exact = quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mean - 12 * std, mean + 12 * std)[0]
    found = kl_normal(OPS, mean, 2 * math.log(std), prior_mean=prior_mean, prior_std=prior_std)
    assert found == pytest.approx(exact, rel=1e-7)


@given(st.floats(-5, 5), st.floats(-6, 3), st.floats(0.1, 10), st.floats(1e-3, 1e3))
def test_it_does_not_depend_on_units_and_is_never_negative(mean: float, log_var: float, prior: float, unit: float):
    found = kl_normal(OPS, mean, log_var, prior_std=prior)
    rescaled = kl_normal(OPS, mean * unit, log_var + 2 * math.log(unit), prior_std=prior * unit)
    assert found == pytest.approx(rescaled, rel=1e-9, abs=1e-9)
    assert found >= -1e-12
    assert kl_normal(OPS, 0.0, 2 * math.log(prior), prior_std=np.array(prior)) == pytest.approx(0.0, abs=1e-12)


class Measured(Problem):
    """u at one place, from a measurement and a prior."""

    coords = {"x": (0, 1)}
    fields = ("u", "log_var")

    @loss(at="sensor")
    def data(self, f):
        return expected_misfit(f.ops, f("u"), f("log_var"), f("seen"), noise=0.5)

    @loss(at="sensor")
    def kl(self, f):
        return kl_normal(f.ops, f("u"), f("log_var"), prior_std=2.0)

    def sensor(self, rng):
        return {"x": np.array([0.5]), "seen": np.array([1.5])}


def test_training_with_it_ends_at_the_posterior():
    pytest.importorskip("torch")
    task, stage = Measured().build(Parts(MLP(width=2, depth=1))), Lbfgs(steps=60, precision="float64")
    backend = backends.load("torch").build(task, (stage,), Settings(compile="never"))
    knobs = Knobs(initial(task, {"data": 1.0, "kl": 1.0}), task=task)
    state, _ = backend.step(backend.init(0), 60, knobs.table(stage, 0, 0, 60), task.feed(0), 0)
    found = backend.predict(state, ("u", "log_var"), {"x": np.array([0.5])})
    precision = 1 / 0.5**2 + 1 / 2.0**2
    assert found["u"][0] == pytest.approx(1.5 / 0.5**2 / precision, rel=1e-6)
    assert math.exp(found["log_var"][0]) == pytest.approx(1 / precision, rel=1e-6)


class Electrostatic(Problem):
    """Two fields that must belong together: E = -grad phi, and div E = charge."""

    coords = {"x": (0, 1), "y": (0, 1)}
    fields = ("phi", "ex", "ey")

    @residual
    def gauss(self, f):
        return f("ex_x") + f("ey_y") - f.ops.sin(3.0 * f("x"))

    @residual
    def consistency(self, f):
        return f("ex") + f("phi_x"), f("ey") + f("phi_y")


def test_consistency_of_coupled_fields_is_a_vector_residual_that_vanishes_for_a_gradient():
    from backends.pde.finite_difference import residuals

    potential = {"phi": lambda x, y: np.sin(x) * y, "ex": lambda x, y: -np.cos(x) * y, "ey": lambda x, y: -np.sin(x)}
    good = residuals(
        Electrostatic(), "consistency", solution=lambda p: {n: v(p["x"], p["y"]) for n, v in potential.items()}
    )
    assert np.abs(good["consistency"]).max() < 1e-8
    potential["ey"] = lambda x, y: 0.0 * x
    bad = residuals(
        Electrostatic(), "consistency", solution=lambda p: {n: v(p["x"], p["y"]) for n, v in potential.items()}
    )
    assert np.abs(bad["consistency"]).max() > 0.5
    assert [t.name for t in Electrostatic().build(Parts(MLP(width=3, depth=1))).terms] == ["gauss", "consistency"]
