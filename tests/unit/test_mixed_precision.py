"""Half precision of network and derivatives: master weights in float32, loss scaling of float16, both backends."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends
from backends import scaling
from backends.ops import NumpyOps
from backends.randomness import normal
from backends.spec import Clip
from backends.stages import Adam, Lbfgs, Sgd
from backends.testing.setup import all_close, build, same_bits, snapshot, table
from backends.testing.tasks import Curves, LeastSquares, Noisy

COMPILE = {"backends.jax": "auto", "backends.torch": "never"}
HALF = Adam(name="half", steps=100, lr=1e-2, compute="float16")
BRAIN = Adam(name="brain", steps=100, lr=1e-2, compute="bfloat16")
SINGLE = Adam(name="single", steps=100, lr=1e-2)
PARTS = {name: f"optimizer/adam/{name}" for name in scaling.PARTS}


@pytest.fixture(params=["jax", "torch"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    pytest.importorskip(request.param)
    return backends.load(request.param)


def made(module: ModuleType, task: Any, stage: Any, **settings: Any) -> Any:
    return build(module, task, [stage], compile=COMPILE[module.__name__], **settings)


def scaled_by(backend: Any, scale: float, good: int = 0) -> Any:
    """The state before step 0 with another loss scale."""
    arrays, meta = backend.arrays(backend.init(0))
    parts = {PARTS[scaling.SCALE]: np.asarray(scale, np.float32), PARTS[scaling.GOOD]: np.asarray(good, np.int64)}
    return backend.load({**arrays, **parts}, meta)


def trained(module: ModuleType, task: Any, stage: Any, steps: int) -> tuple[Any, dict[str, Any]]:
    backend, feed, losses = made(module, task, stage), task.feed(0), []
    state = scaled_by(backend, 2.0**8) if stage is HALF else backend.init(0)
    for start in range(0, steps, 10):
        state, found = backend.step(state, 10, table(task, stage, 10), feed, start)
        assert found.ok.all()
        losses.append(np.array(found.losses))
    return np.concatenate(losses), snapshot(backend, state)


@pytest.mark.parametrize("stage", [BRAIN, HALF], ids=lambda s: s.compute)
def test_a_half_precision_stage_follows_float32_to_its_digits(module: ModuleType, stage: Adam):
    """bfloat16 has 8 bits, float16 has 11; parameters and optimizer stay float32 and keep what is smaller."""
    for task in (Curves(pass_size=4), Noisy()):
        losses, state = trained(module, task, stage, 40)
        expected, _ = trained(module, task, SINGLE, 40)
        assert not np.array_equal(losses, expected), "computed in float32"
        np.testing.assert_allclose(losses, expected, rtol=0.1 if stage is BRAIN else 0.02, atol=0.02)
        kinds = {str(v.dtype) for name, v in state.items() if name.startswith("params/") or "/mu/" in name}
        assert kinds == {"float32"}
        assert set(PARTS.values()) <= set(state) if stage is HALF else not set(PARTS.values()) & set(state)


def test_both_backends_agree_to_the_digits_of_the_half():
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    for stage, tolerance in ((BRAIN, 0.05), (HALF, 0.01)):
        losses = [trained(backends.load(name), Curves(), stage, 20)[0] for name in ("jax", "torch")]
        np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance, atol=tolerance / 5)


def test_an_overflow_is_skipped_and_halves_the_scale(module: ModuleType):
    """Residuals of 30: their gradient times 2^15 overflows, and comes back into range after some halvings."""
    task = LeastSquares()
    backend, feed = made(module, task, HALF), task.feed(0)
    knobs = table(task, HALF, 10, shift=30.0)
    before = snapshot(backend, backend.init(0))
    state, steps = backend.step(backend.init(0), 10, knobs, feed, 0)
    assert steps.ok.all() and steps.bad() is None, "an overflow is no error"
    scale, skipped = (steps.readings[name] for name in (scaling.SCALE, scaling.SKIPPED))
    count = int(skipped[-1])
    assert 0 < count < 10, skipped
    np.testing.assert_array_equal(skipped, np.minimum(np.arange(1, 11), count))
    np.testing.assert_array_equal(scale, scaling.START / 2**skipped)
    after = snapshot(backend, state)
    assert after["optimizer/adam/count"] == 10 - count and after[PARTS[scaling.GOOD]] == 10 - count
    one, _ = backend.step(backend.init(0), count, knobs[:count], feed, 0)
    kept = {n: v for n, v in snapshot(backend, one).items() if n not in PARTS.values() and "constants" not in n}
    same_bits(kept, {name: before[name] for name in kept}, "a skipped step")


def test_clipping_by_value_does_not_hide_an_overflow(module: ModuleType):
    """It turns an infinite gradient into a finite one, after the scale was judged."""
    task, clip = LeastSquares(), Clip(value=1.0)
    backend = made(module, task, HALF, clip=clip)
    _, steps = backend.step(backend.init(0), 10, table(task, HALF, 10, clip, shift=30.0), task.feed(0), 0)
    assert steps.ok.all()
    assert 0 < steps.readings[scaling.SKIPPED][-1] < 10, steps.readings
    assert steps.readings[scaling.SCALE][-1] < scaling.START


def test_what_the_users_function_makes_of_a_sound_gradient_is_no_overflow(module: ModuleType):
    def spoiled(ops: Any, gradients: dict[str, Any], params: Any, step: Any) -> dict[str, Any]:
        return {name: g / (0.0 * g) for name, g in gradients.items()}

    task = Curves()
    backend = made(module, task, HALF, process=spoiled)
    before = snapshot(backend, scaled_by(backend, 2.0**8))
    state, steps = backend.step(scaled_by(backend, 2.0**8), 1, table(task, HALF, 1), task.feed(0), 0)
    assert steps.ok.tolist() == [False] and steps.readings[scaling.SKIPPED].tolist() == [0]
    after = snapshot(backend, state)
    params = [{k: v for k, v in found.items() if k.startswith("params/")} for found in (before, after)]
    same_bits(params[0], params[1], "parameters")


def test_at_the_floor_an_overflow_is_an_error(module: ModuleType):
    task = LeastSquares()
    backend, feed = made(module, task, HALF), task.feed(0)
    floor = scaled_by(backend, scaling.FLOOR)
    weight = 1e7  # its gradient does not fit into float16, whatever the scale
    _, steps = backend.step(floor, 1, table(task, HALF, 1, fit=weight), feed, 0)
    assert steps.ok.tolist() == [False] and np.isfinite(steps.losses).all()


def test_a_loss_that_is_not_finite_is_an_error_at_once(module: ModuleType):
    task = LeastSquares()
    backend = made(module, task, HALF)
    _, steps = backend.step(backend.init(0), 2, table(task, HALF, 2, shift=1e6), task.feed(0), 0)
    assert steps.ok.tolist() == [False, False] and steps.readings[scaling.SKIPPED].tolist() == [0, 0]


def test_many_good_steps_double_the_scale_up_to_its_ceiling(module: ModuleType):
    task = Curves()
    backend, feed = made(module, task, HALF), task.feed(0)
    almost = scaled_by(backend, 2.0**8, scaling.GROWTH - 2)
    state, steps = backend.step(almost, 3, table(task, HALF, 3), feed, 0)
    assert steps.readings[scaling.SCALE].tolist() == [2.0**8, 2.0**9, 2.0**9]
    assert snapshot(backend, state)[PARTS[scaling.GOOD]] == 1
    judged = scaling.judged(
        NumpyOps(),
        {scaling.SCALE: np.float32(scaling.CEILING), scaling.GOOD: np.int64(2000), scaling.SKIPPED: np.int64(0)},
        np.True_,
        np.True_,
    )[1]
    assert judged[scaling.SCALE] == scaling.CEILING


@pytest.mark.parametrize("stage", [BRAIN, HALF], ids=lambda s: s.compute)
def test_it_resumes_with_its_bits_and_crosses_over(stage: Adam):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    task = Noisy()
    knobs = table(task, stage, 9, size=50.0)
    states = {}
    for name in ("jax", "torch"):
        backend = made(backends.load(name), task, stage)
        whole, _ = backend.step(backend.init(0), 9, knobs, task.feed(0), 0)
        state, _ = backend.step(backend.init(0), 5, knobs[:5], task.feed(0), 0)
        arrays, meta = backend.arrays(state)
        states[name] = {k: np.array(v) for k, v in arrays.items()}, dict(meta)
        state, _ = backend.step(backend.load(arrays, meta), 4, knobs[5:], task.feed(0), 5)
        same_bits(snapshot(backend, state), snapshot(backend, whole), name)
    for there, here in (("jax", "torch"), ("torch", "jax")):
        backend = made(backends.load(there), task, stage)
        same_bits(snapshot(backend, backend.load(*states[here])), states[here][0], f"{here} in {there}")


def test_readings_and_probes_are_in_float32(module: ModuleType):
    task = Curves()
    half, single = made(module, task, HALF), made(module, task, SINGLE)
    what = frozenset({"losses", "gradient"})
    found = [b.probe(b.init(0), what, task.feed(0), 0, table(task, s, 1)) for b, s in ((half, HALF), (single, SINGLE))]
    all_close(found[0], found[1], "probe", 1e-6)
    evaluated = [b.evaluate(b.init(0), task.held_out(10)) for b in (half, single)]
    assert evaluated[0] == evaluated[1]


def test_it_is_for_first_order_stages_in_single_precision():
    with pytest.raises(ValueError, match="first-order stages, remove `compute`"):
        Lbfgs.model_validate({"kind": "lbfgs", "steps": 5, "compute": "bfloat16"})
    with pytest.raises(ValueError, match="keeps its parameters in float32"):
        Sgd(steps=5, compute="float16", precision="float64")


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_noise_in_half_precision_is_the_noise_rounded(half: str):
    """Drawn in float32: 24 random bits do not fit into a half, and 1 - u must not become 0."""
    torch = pytest.importorskip("torch")
    from backends.torch.ops import OPS

    rows = torch.arange(5000)
    low = normal(OPS, (1, 2), "noise", rows, 3, torch.zeros((), dtype=getattr(torch, half)))
    full = normal(OPS, (1, 2), "noise", rows, 3, torch.zeros((), dtype=torch.float32))
    assert bool(torch.isfinite(low).all()) and bool((low == full.to(low.dtype)).all())
