"""Homoscedastic uncertainty: log-variances follow their exact gradient, inside the step, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import checkpoint
from backends.ops import NumpyOps
from backends.stages import Adam, Lbfgs, Sgd
from backends.testing.setup import build, oracle, same_bits, slopes, table
from backends.testing.tasks import Curves
from backends.weighting import Uncertainty, Weighting
from backends.weighting.uncertainty import BOUNDS, LOG_VARIANCE, log_variances, without
from backends.weighting.uncertainty import slopes as of_variances
from orchestrator import Trainer, TrainingConfig, resume, run

TERMS = ("pair", "energy", "edge")
TASK = Curves()
COMPILE: dict[str, Any] = {"jax": "auto", "torch": "never"}


def backend(name: str, stage: Any, spec: Uncertainty | None = None, **settings: Any) -> Any:
    module = pytest.importorskip(name) and backends.load(name)
    return build(
        module, TASK, [stage], compile=COMPILE[name], trained_weights=(spec or Uncertainty()).trained(TERMS), **settings
    )


def variances(made: Any, state: Any) -> np.ndarray:
    return log_variances(made.parameters(state), TERMS)


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_step_of_gradient_descent_is_that_of_the_papers_loss(name: str):
    """loss = sum 1/2 exp(-s) L + s/2 by finite differences in all parameters and all log-variances."""
    stage = Sgd(steps=5, lr=1e-3, momentum=0.0, precision="float64")
    made = backend(name, stage, Uncertainty(values={"pair": 3.0, "edge": 0.2}))
    state = made.init(0)
    before = {k: np.array(v, np.float64) for k, v in made.parameters(state).items()}
    s = log_variances(before, TERMS)
    np.testing.assert_allclose(0.5 * np.exp(-s), [3.0, 1.0, 0.2])
    state, steps = made.step(state, 1, table(TASK, stage, 1), TASK.feed(0), 0)
    after = made.parameters(state)
    own = without(before)
    losses = oracle(TASK, own, TASK.batches(0))
    np.testing.assert_allclose(steps.losses[0], [losses[t] for t in TERMS], rtol=1e-12)
    names = [n for n, _ in made.layout(state) if n in own]
    by_term = slopes(TASK, own, TASK.batches(0), names)
    gradient = (0.5 * np.exp(-s)) @ by_term
    moved = np.concatenate([np.ravel(before[n] - after[n]) for n in names]) / 1e-3
    np.testing.assert_allclose(moved, gradient, rtol=1e-5, atol=1e-8)
    expected = 0.5 * (1 - np.exp(-s) * [losses[t] for t in TERMS])
    np.testing.assert_allclose((s - log_variances(after, TERMS)) / 1e-3, expected, rtol=1e-9)
    np.testing.assert_array_equal(after[BOUNDS], before[BOUNDS])


def test_both_backends_train_the_same_log_variances_and_take_over_each_others_checkpoints():
    stage = Adam(steps=30, lr=1e-2, precision="float64")
    one, other = (backend(name, stage) for name in ("jax", "torch"))
    state, _ = one.step(one.init(0), 10, table(TASK, stage, 10), TASK.feed(0), 0)
    arrays, meta = one.arrays(state)
    crossed = other.load({k: np.array(v) for k, v in arrays.items()}, dict(meta))
    ends = []
    for made, at in ((one, state), (other, crossed)):
        at, _ = made.step(at, 10, table(TASK, stage, 10), TASK.feed(0), 10)
        ends.append(variances(made, at))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    assert (np.abs(ends[0] + np.log(2)) > 0.05).all(), "all of them moved"


@pytest.mark.parametrize("name", backends.NAMES)
def test_accumulated_passes_and_clipping_see_the_log_variances_once(name: str):
    stage = Adam(steps=5, lr=1e-2, precision="float64")
    found = []
    for task in (Curves(), Curves(pass_size=4)):
        module = backends.load(name)
        made = build(module, task, [stage], compile=COMPILE[name], trained_weights=Uncertainty().trained(TERMS))
        state, _ = made.step(made.init(0), 5, table(task, stage, 5), task.feed(0), 0)
        found.append(variances(made, state))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_second_order_stage_keeps_the_weights_and_uses_those_of_the_table(name: str):
    stage = Lbfgs(steps=5, precision="float64")
    made = backend(name, stage)
    plain = build(backends.load(name), TASK, [stage], compile=COMPILE[name])
    knobs = table(TASK, stage, 3, pair=2.0, energy=0.3)
    state, steps = made.step(made.init(0), 3, knobs, TASK.feed(0), 0)
    _, expected = plain.step(plain.init(0), 3, knobs, TASK.feed(0), 0)
    np.testing.assert_allclose(variances(made, state), -np.log(2), rtol=1e-12)
    np.testing.assert_allclose(steps.losses, expected.losses, rtol=1e-9)


@pytest.mark.parametrize("name", backends.NAMES)
def test_weights_stay_within_their_bounds_and_come_back(name: str):
    stage = Sgd(steps=400, lr=0.5, momentum=0.0, precision="float64")
    spec = Uncertainty(low=0.4, high=1.1)
    made = backend(name, stage, spec, groups={})
    state = made.init(0)
    for k in range(20):  # the steps are far too long for the network, so its gradients rest
        state, _ = made.step(state, 1, table(TASK, stage, 1, lr=1e-3), TASK.feed(0), k)
    weighting = Weighting.of(spec, TERMS, 0)
    weighting.update(1, {"log_variances": variances(made, state)})
    assert all(0.4 <= w <= 1.1 for w in weighting.weights.values())


def test_at_a_bound_only_the_way_back_is_open():
    ops = NumpyOps()
    params = {LOG_VARIANCE + "a": np.array(-3.0), BOUNDS: np.array([-2.0, 2.0])}
    assert of_variances(ops, params, {"a": np.array(0.0)})[LOG_VARIANCE + "a"] == 0.0, "it would fall further"
    assert of_variances(ops, params, {"a": np.array(1e3)})[LOG_VARIANCE + "a"] < 0.0, "it rises"
    high = {LOG_VARIANCE + "a": np.array(2.5), BOUNDS: np.array([-2.0, 2.0])}
    assert of_variances(ops, high, {"a": np.array(1e9)})[LOG_VARIANCE + "a"] == 0.0
    assert of_variances(ops, high, {"a": np.array(0.0)})[LOG_VARIANCE + "a"] == 0.5


TREE: dict[str, Any] = {
    "name": "u",
    "backend": "jax",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 6, "depth": 1},
    "points": {"pde": 32, "ic": 8, "bc": 8},
    "stages": [{"kind": "adam", "lr": 1e-2, "steps": 30}, {"kind": "lbfgs", "steps": 3}],
    "weights": {"kind": "uncertainty", "every": 5},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
    "checkpoint": {"every": 10, "keep": 9},
    "evaluate": {"every": 100, "points": 20},
    "figures": {"every": None},
    "precision": "float64",
}


def test_a_run_records_the_weights_keeps_them_in_a_line_search_and_predicts(tmp_path: Path):
    pytest.importorskip("jax")
    whole = run(TREE, out=tmp_path / "whole")
    weights = {k: v for k, v in whole.metrics.items() if k.startswith("weight/")}
    assert set(weights) == {"weight/pde", "weight/ic", "weight/bc"}
    assert all(abs(w - 1) > 0.01 for w in weights.values()), weights
    assert np.isfinite(whole.predict({"t": [0.5], "x": [0.1]})["u"]).all()


def test_a_resumed_run_repeats_the_bits(tmp_path: Path):
    pytest.importorskip("jax")

    def trained(steps: int, name: str) -> Any:
        tree = {**TREE, "stages": [{"kind": "adam", "lr": 1e-2, "steps": steps}], "checkpoint": {"every": 15}}
        return run(tree, out=tmp_path / name)

    whole, part = trained(30, "whole"), trained(15, "part")
    again = resume(part.path, more=15)
    ends = [checkpoint.load(Path(r.path, str(r.checkpoint))).arrays for r in (whole, again)]
    same_bits(ends[0], ends[1], "resumed")
    assert again.metrics["weight/ic"] == whole.metrics["weight/ic"] != 1.0


def test_a_trainer_trains_log_variances_beside_a_model_of_ones_own():
    pytest.importorskip("jax")
    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    data = {"x": x, "y": x[:, 0]}

    def loss(model: Any, batch: Any) -> dict[str, Any]:
        residual = batch["x"] @ model["w"] - batch["y"]
        return {"fit": (residual**2).mean(), "size": (model["w"] ** 2).mean()}

    weights: Any = {"kind": "uncertainty", "every": 2}
    config = TrainingConfig(num_epochs=4, batch_size=16, learning_rate=1e-2, weights=weights)
    made = Trainer({"w": np.ones(2, np.float32)}, config, loss=loss, data=data)
    model, history = made.fit()
    assert set(model) == {"w"}, "the model comes back as it was, without the weighting's parameters"
    assert np.isfinite(history["train_loss"]).all()
    assert made._session.weighting.weights != {"fit": 1.0, "size": 1.0}  # type: ignore[union-attr]
