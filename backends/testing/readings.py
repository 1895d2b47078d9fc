"""Checks of what is read off a state (evaluations, candidates, predictions, probes) and of what a checkpoint keeps."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.errors import UserError
from backends.protocol import World, of_gradients
from backends.stages import Adam
from backends.task import trained_terms
from backends.testing.setup import (
    ADAM,
    STAGES,
    all_close,
    build,
    close,
    kernel_traces,
    oracle,
    same_bits,
    slopes,
    snapshot,
    table,
)
from backends.testing.tasks import Curves, Noisy


def check_the_module_exports_the_contract(module: ModuleType, **settings: Any) -> None:
    """Every function of the contract; a device that is not there is refused."""
    for name in ("build", "adapt", "resolve_device", "versions", "agree", "memory", "profile"):
        assert callable(getattr(module, name)), name
    assert all(isinstance(v, float) for v in module.memory("cpu").values())
    assert module.resolve_device("cpu") == "cpu" and isinstance(module.resolve_device("auto"), str)
    assert all(isinstance(v, str) for v in module.versions().values()) and module.versions()
    assert module.agree(3, World()) == 3
    for name in ("cuda:99", "abacus"):
        _refused(lambda name=name: module.resolve_device(name), name)
    assert isinstance(build(module, Curves(), **settings).name, str)


def check_evaluation_is_the_unweighted_mean(module: ModuleType, **settings: Any) -> None:
    """Every term, trained or not, as numpy computes it; any number of samples; chunks change nothing."""
    for size in (None, 4):
        task = Curves(pass_size=size)
        backend = build(module, task, **settings)
        state, _ = backend.step(backend.init(0), 3, table(task, ADAM[0], 3, pair=5.0), task.feed(0), 0)
        for samples in (task.held_out(10), Curves(samples=29).held_out(10), task.batches(5)):
            expected = oracle(task, backend.parameters(state), samples)
            found = backend.evaluate(state, samples)
            assert list(found) == [t.name for t in task.terms if t.name in expected], f"order of terms: {list(found)}"
            all_close(found, expected, f"evaluate in passes of {size}")


def check_evaluation_uses_the_present_constants(module: ModuleType, **settings: Any) -> None:
    """After steps with another value of a constant, evaluation, candidates and prediction see that value."""
    task = Curves()
    backend = build(module, task, **settings)
    state, _ = backend.step(backend.init(0), 3, table(task, ADAM[0], 3, shift=2.5), task.feed(0), 0)
    expected = oracle(task, backend.parameters(state), task.held_out(10), {"shift": 2.5})
    all_close(backend.evaluate(state, task.held_out(10)), expected, "at shift 2.5")
    state = backend.load(*backend.arrays(state))
    all_close(backend.evaluate(state, task.held_out(10)), expected, "at shift 2.5, restored")


def check_candidates_are_the_size_of_each_value(module: ModuleType, **settings: Any) -> None:
    """|value| per sample of each trained term of a batch; a vector residual gives its length."""
    task = Curves()
    backend = build(module, task, **settings)
    state = backend.init(0)
    columns = task.batches(2)["ends"]
    found = backend.candidates(state, "ends", columns)
    assert list(found) == ["edge"] and found["edge"].dtype == np.float64 and found["edge"].shape == columns["t"].shape
    close(np.mean(found["edge"] ** 2), oracle(task, backend.parameters(state), {"ends": columns})["edge"], "edge")
    inside = task.batches(2)["inside"]
    found = backend.candidates(state, "inside", inside)
    expected = oracle(task, backend.parameters(state), {"inside": inside})
    close(np.mean(found["pair"] ** 2), expected["pair"], "a vector residual")
    close(np.mean(found["energy"]), expected["energy"], "a loss")


def check_predictions_are_float64_host_arrays(module: ModuleType, **settings: Any) -> None:
    """[samples, …] for each name, for any number of samples, whatever the precision."""
    task = Curves()
    for stage, tolerance in ((ADAM[0], 1e-13), (Adam(steps=5, precision="float32"), 1e-5)):
        precision = stage.precision
        backend = build(module, task, [stage], **settings)
        state = backend.init(0)
        params = {k: v.astype(np.float64) for k, v in backend.parameters(state).items()}
        for n in (5, 11):
            t = np.linspace(-1, 1, n)
            found = backend.predict(state, ["u", "both"], {"t": t})
            h = np.tanh(params["net/w0"].T @ (t[None] * params["frozen/scale"]) + params["net/b0"][:, None])
            both = (params["net/w1"].T @ h + params["net/b1"][:, None]).T
            assert list(found) == ["u", "both"] and {v.dtype for v in found.values()} == {np.dtype(np.float64)}
            assert all(isinstance(v, np.ndarray) for v in found.values())
            close(found["both"], both, f"in {precision}", tolerance)
            close(found["u"], both[:, 0], f"in {precision}", tolerance)


def check_probe_measures_each_term(module: ModuleType, **settings: Any) -> None:
    """losses and grad_… are unweighted, gradient is the weighted sum; all against finite differences."""
    for task, stages in ((Curves(), (STAGES[0], STAGES[4])), (Curves(pass_size=4), ADAM)):
        for stage in stages:
            backend = build(module, task, [stage], **settings)
            state, _ = backend.step(backend.init(0), 2, table(task, stage, 2), task.feed(0), 0)
            before = snapshot(backend, state)
            knobs = table(task, stage, 1, pair=2.0, edge=0.5, shift=1.2)
            statistics = ("grad_norms", "grad_max", "grad_mean_abs", "grad_std", "gram")
            what = frozenset({"losses", "gradient", *statistics})
            found = backend.probe(state, what, task.feed(0), 2, knobs[0])
            assert set(found) == what
            params = {k: v.astype(np.float64) for k, v in backend.parameters(state).items()}
            constants = {"shift": 1.2}
            means = oracle(task, params, task.batches(), constants)
            close(found["losses"], [means[t.name] for t in trained_terms(task.terms)], "losses", 1e-10)
            names = [name for name, _ in backend.layout(state)]
            rows = slopes(task, params, task.batches(), names, constants=constants)
            for name in statistics:
                close(found[name], of_gradients(rows)[name], f"{stage.name}: {name}", 1e-7)
            close(found["gradient"], np.array([2.0, 1.0, 0.5]) @ rows, f"{stage.name}: gradient", 1e-7)
            same_bits(snapshot(backend, state), before, "probe changes the state")
            assert set(backend.probe(state, frozenset({"losses"}), task.feed(0), 2, knobs[0])) == {"losses"}


def check_probe_measures_the_tangent_kernel(module: ModuleType, **settings: Any) -> None:
    """`ntk/<n>`: the mean square gradient of single residuals, evenly spaced samples, against finite differences."""
    for task in (Curves(), Curves(samples=20), Curves(pass_size=4)):
        backend = build(module, task, **settings)
        state = backend.init(0)
        knobs = table(task, ADAM[0], 1, pair=2.0, shift=1.2)[0]
        whole, few = "ntk/1000", "ntk/5"
        found = backend.probe(state, frozenset({whole, few}), task.feed(0), 0, knobs)
        assert set(found) == {whole, few}
        params = {k: np.asarray(v, np.float64) for k, v in backend.parameters(state).items()}
        names = [name for name, _ in backend.layout(state)]
        for name, count in ((whole, 1000), (few, 5)):
            expected = kernel_traces(task, params, task.batches(), names, count, {"shift": 1.2})
            np.testing.assert_allclose(found[name], expected, rtol=1e-7, err_msg=name)
        both = backend.probe(state, frozenset({few, "gram", "losses"}), task.feed(0), 0, knobs)
        np.testing.assert_allclose(both[few], found[few], rtol=1e-12, err_msg="beside other statistics")
        assert np.isnan(both[few]).tolist() == [t.kind == "loss" for t in trained_terms(task.terms)]


def check_probe_sees_the_noise_of_its_step(module: ModuleType, **settings: Any) -> None:
    """A probe at step k sees the rows and the noise that step k will see."""
    task = Noisy()
    backend, feed = build(module, task, **settings, seed=3), task.feed(1)
    state = backend.init(0)
    for step in (0, 7):
        knobs = table(task, ADAM[0], 1)
        found = backend.probe(state, frozenset({"losses"}), feed, step, knobs[0])
        state, steps = backend.step(state, 1, knobs, feed, step)
        close(found["losses"], steps.losses[0], f"step {step}")


def check_a_restored_state_goes_on_with_the_same_bits(module: ModuleType, **settings: Any) -> None:
    """arrays -> a new backend -> load -> continue equals going on, for every kind of stage, in the middle of it."""
    for task, indices in ((Curves(counts=True), (0,)), (Curves(), range(1, len(STAGES))), (Noisy(), (0,))):
        for index in indices:
            backend, feed = build(module, task, STAGES, **settings), task.feed(0)
            stage, state = STAGES[index], backend.init(0)
            for k in range(1, index + 1):
                state = backend.enter(state, k)
            state, _ = backend.step(state, 4, table(task, stage, 4), feed, 0)
            arrays, meta = backend.arrays(state)
            saved = {name: np.array(value) for name, value in arrays.items()}
            assert meta["stage"] == index
            state, steps = backend.step(state, 4, table(task, stage, 4), feed, 4)
            other = build(module, task, STAGES, **settings)
            restored, again = other.step(other.load(saved, dict(meta)), 4, table(task, stage, 4), feed, 4)
            same_bits(snapshot(other, restored), snapshot(backend, state), f"{stage.name}: restored")
            same_bits({"losses": np.array(again.losses)}, {"losses": np.array(steps.losses)}, f"{stage.name}: losses")


def check_a_wrong_checkpoint_is_refused_by_name(module: ModuleType, **settings: Any) -> None:
    """A missing, unknown or misshapen array and an unknown stage are UserErrors that name it."""
    task = Curves()
    backend = build(module, task, STAGES, **settings)
    arrays, meta = backend.arrays(backend.init(0))
    some = next(name for name in sorted(arrays) if name.startswith("optimizer/"))
    for name in ("params/net/w0", some):
        assert name in _refused(
            lambda name=name: backend.load({k: v for k, v in arrays.items() if k != name}, meta), name
        )
    assert "params/net/w9" in _refused(
        lambda: backend.load({**arrays, "params/net/w9": np.zeros(3)}, meta), "an unknown array"
    )
    assert "params/net/w0" in _refused(
        lambda: backend.load({**arrays, "params/net/w0": np.zeros((2, 5))}, meta), "a misshapen array"
    )
    _refused(lambda: backend.load(arrays, {**meta, "stage": 17}), "a stage that is not there")


def check_arrays_have_neutral_names(module: ModuleType, **settings: Any) -> None:
    """The names that both backends share."""
    task = Curves(counts=True)
    backend = build(module, task, STAGES, **settings)
    state = backend.init(0)
    params = task.init(np.random.default_rng(0))
    free = [name for name in params if not name.startswith("frozen/")]
    expected = {f"params/{n}" for n in params} | {"aux/calls", "aux/mean"}
    optimizer = {f"optimizer/adam/{part}/{n}" for part in ("mu", "nu") for n in free} | {"optimizer/adam/count"}
    names = set(backend.arrays(state)[0])
    assert expected | optimizer <= names, f"missing: {sorted((expected | optimizer) - names)}"
    count = backend.arrays(state)[0]["optimizer/adam/count"]
    assert count.shape == () and count.dtype == np.int64, f"the count is {count.dtype} {count.shape}"
    assert all(isinstance(v, np.ndarray) for v in backend.arrays(state)[0].values())
    for index, part in ((1, "optimizer/adamw/mu/rate"), (2, "optimizer/sgd/trace/rate")):
        state = backend.enter(state, index)
        assert part in backend.arrays(state)[0], sorted(backend.arrays(state)[0])


def _refused(call: Any, what: str) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    raise AssertionError(f"{what} was accepted")
