"""Checks of `init`, `enter` and `step`: the same bits, the right updates, knobs that act, a guard that holds."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.errors import NonFinite
from backends.protocol import finite_terms
from backends.randomness import generator
from backends.spec import Clip
from backends.stages import SECOND_ORDER, Adam, AdamW, GaussNewton, Lbfgs, Sgd, SsBroyden, Stage
from backends.task import trained_terms
from backends.testing.setup import (
    ADAM,
    CAPACITY,
    STAGES,
    all_close,
    build,
    close,
    column,
    differ,
    oracle,
    same_bits,
    snapshot,
    table,
)
from backends.testing.tasks import Curves, Kinked, LeastSquares, Noisy


def check_initial_parameters_are_numpys_bits(module: ModuleType, **settings: Any) -> None:
    """Parameters come from the stream (seed, "init"), in the precision of the first stage."""
    task = Curves()
    for precision in ("float32", "float64"):
        backend = build(module, task, [Adam(steps=5, precision=precision)], **settings)
        expected = {k: v.astype(precision) for k, v in task.init(generator(7, "init")).items()}
        same_bits(backend.parameters(backend.init(7)), expected, f"init in {precision}")
        same_bits(snapshot(backend, backend.init(7)), snapshot(backend, backend.init(7)), "init twice")
        assert differ(backend.parameters(backend.init(8)), expected), "the seed changes nothing"


def check_many_steps_equal_single_steps(module: ModuleType, **settings: Any) -> None:
    """step(n) gives the bits of n times step(1), for every kind of stage, with rates and samples that change."""
    for task in (Curves(), Noisy()):
        for stage in STAGES if isinstance(task, Curves) else ADAM:
            backend, feed = build(module, task, [stage], **settings), task.feed(0)
            knobs = table(task, stage, 6, shift=1.1)
            if "lr" in stage.model_fields_set:
                knobs[:, 0] *= np.linspace(1, 0.5, 6)
            whole, reported = backend.step(backend.init(0), 6, knobs, feed, 0)
            one, rows = backend.init(0), []
            for k in range(6):
                one, steps = backend.step(one, 1, knobs[k : k + 1], feed, k)
                rows.append(np.array(steps.losses))
            same_bits(snapshot(backend, whole), snapshot(backend, one), f"{stage.name}: state after 6 steps")
            same_bits({"losses": np.array(reported.losses)}, {"losses": np.concatenate(rows)}, stage.name)
            assert reported.losses.shape == (6, len(trained_terms(task.terms)))
            assert reported.ok.all() and reported.bad() is None


def check_nothing_is_compiled_twice(module: ModuleType, **settings: Any) -> None:
    """n, knobs, new samples and a restored state cost no compilation; every function is compiled at most once."""
    task = Curves(label="compilations")
    for stage in STAGES:
        backend = build(module, task, [stage], **settings)
        feed = task.feed(0)
        feed.every = 2
        state, _ = backend.step(backend.init(0), 2, table(task, stage, 2), feed, 0)
        backend.evaluate(state, task.held_out(100))
        backend.probe(state, frozenset({"losses", "grad_norms"}), feed, 0, table(task, stage, 1))
        backend.predict(state, ["u"], {"t": np.zeros(5)})
        backend.candidates(state, "inside", task.batches(3)["inside"])
        before = backend.compilations()
        for step, n, shift in ((2, 5, 1.0), (7, 1, 2.0), (8, CAPACITY, 0.5)):
            state, _ = backend.step(state, n, table(task, stage, n, shift=shift, pair=3.0), feed, step)
        state = backend.load(*backend.arrays(state))
        state, _ = backend.step(state, 3, table(task, stage, 3, edge=0.1), feed, 18)
        backend.step(backend.init(5), 1, table(task, stage, 1), feed, 0)
        state = backend.enter(backend.load(*backend.arrays(backend.init(5))), 0)
        backend.step(state, 1, table(task, stage, 1), feed, 0)
        state = backend.init(6)
        backend.evaluate(state, task.held_out(100))
        backend.probe(state, frozenset({"losses", "grad_norms"}), feed, 5, table(task, stage, 1, pair=2.0))
        backend.predict(state, ["u"], {"t": np.ones(5)})
        backend.candidates(state, "inside", task.batches(4)["inside"])
        assert backend.compilations() == before, f"{stage.name}: {before} became {backend.compilations()}"
        assert all(count <= 1 for count in before.values()), f"{stage.name}: {before}"


def check_every_knob_acts(module: ModuleType, **settings: Any) -> None:
    """Each column of the table changes what a stage does."""
    task, clip = Curves(), Clip(norm=0.5)
    for stage in STAGES:
        backend = build(module, task, [stage], **settings, clip=clip)
        cut = clip if stage.kind in ("adam", "adamw", "sgd") else None
        plain_table = table(task, stage, 4, clip=cut)
        expected = backend.parameters(backend.step(backend.init(0), 4, plain_table, task.feed(0), 0)[0])
        for k in range(plain_table.shape[1]):
            knobs = plain_table.copy()
            knobs[:, k] = knobs[:, k] * 0.5 + 0.01
            got = backend.parameters(backend.step(backend.init(0), 4, knobs, task.feed(0), 0)[0])
            assert differ(got, expected), f"{stage.name}: column {k} of the table changes nothing"


def check_first_order_updates(module: ModuleType, **settings: Any) -> None:
    """adam, adamw and sgd against their textbook form in numpy, on least squares, to 1e-12 over 10 steps."""
    task = LeastSquares()
    for stage in STAGES[:3]:
        backend = build(module, task, [stage], **settings)
        knobs = table(task, stage, 10)
        knobs[:, 0] *= np.linspace(1, 0.1, 10)
        state, steps = backend.step(backend.init(3), 10, knobs, task.feed(0), 0)
        params = task.init(generator(3, "init"))
        memory: dict[str, Any] = {part: {k: 0 * v for k, v in params.items()} for part in "mv"}
        for k in range(10):
            close(steps.losses[k, 0], oracle(task, params, task.batches())["fit"], f"{stage.name}: loss of step {k}")
            params = _updated(stage, params, task.gradient(params), memory, k + 1, knobs[k, 0])
        all_close(backend.parameters(state), params, stage.name)


def _updated(stage: Stage, params: dict[str, Any], g: dict[str, Any], memory: Any, k: int, lr: float) -> dict[str, Any]:
    m, v = memory["m"], memory["v"]
    for name in g:
        if isinstance(stage, Sgd):
            m[name] = g[name] + stage.momentum * m[name]
            params = {**params, name: params[name] - lr * m[name]}
        elif isinstance(stage, (Adam, AdamW)):
            m[name] = stage.b1 * m[name] + (1 - stage.b1) * g[name]
            v[name] = stage.b2 * v[name] + (1 - stage.b2) * g[name] ** 2
            u = m[name] / (1 - stage.b1**k) / (np.sqrt(v[name] / (1 - stage.b2**k)) + stage.eps)
            decay = stage.weight_decay if isinstance(stage, AdamW) else 0.0
            params = {**params, name: params[name] - lr * (u + decay * params[name])}
    return params


def check_quasi_newton_finds_the_minimum(module: ModuleType, **settings: Any) -> None:
    """Second-order stages solve least squares; a knob that moves the minimum is noticed; a tolerance ends the stage."""
    task = LeastSquares()
    small: dict[str, Any] = {"steps": 20, "tolerance": 1e-7}
    newton = [GaussNewton(**small, solver=s, damping=1e-6) for s in ("dense", "samples", "cg")]
    searching = GaussNewton(**small, step="line_search", damping=1e-6)
    for stage in (Lbfgs(**small, memory=5), SsBroyden(**small), *newton, searching):
        backend, feed = build(module, task, [stage], **settings), task.feed(0)
        state, steps = backend.step(backend.init(0), 10, table(task, stage, 10), feed, 0)
        for shift in (1.0, -2.0):
            for step in range(10, 50, 10):
                state, steps = backend.step(state, 10, table(task, stage, 10, shift=shift), feed, step)
            params = backend.parameters(state)
            found = [float(params["offset"]), *params["slope"]]
            close(found, task.minimum(shift), f"{stage.kind} at shift {shift}", rtol=1e-8)
            assert steps.ended == "gradient below tolerance", f"{stage.kind}: ended {steps.ended!r}"
            assert (steps.evaluations >= 0).all() and np.isfinite(steps.losses).all()


def check_losses_are_before_or_after_the_step(module: ModuleType, **settings: Any) -> None:
    """First-order stages report the loss before the step, quasi-Newton stages the one after it."""
    task = Curves()
    for stage in STAGES:
        backend = build(module, task, [stage], **settings)
        state = backend.init(0)
        before = oracle(task, backend.parameters(state), task.batches())
        state, steps = backend.step(state, 1, table(task, stage, 1), task.feed(0), 0)
        after = oracle(task, backend.parameters(state), task.batches())
        expected = after if isinstance(stage, SECOND_ORDER) else before
        close(steps.losses[0], [expected[t.name] for t in trained_terms(task.terms)], stage.name, rtol=1e-10)
        assert steps.evaluations.shape == (1,) and steps.evaluations[0] >= 1


def check_a_loss_that_is_not_finite_is_named_and_changes_nothing(module: ModuleType, **settings: Any) -> None:
    """The guard: a bad step leaves every array of the state as it was, and its term is named."""
    for task, stage in ((Curves(counts=True), STAGES[0]), *((Curves(), stage) for stage in STAGES[1:])):
        backend = build(module, task, [stage], **settings)
        at = column(task, stage, "task/shift")
        knobs = table(task, stage, 3)
        expected, _ = backend.step(backend.init(0), 2, knobs[:2], task.feed(0), 0)
        knobs[2, at] = np.nan
        state, steps = backend.step(backend.init(0), 3, knobs, task.feed(0), 0)
        assert steps.ok.tolist() == [True, True, False] and steps.bad() == 2, f"{stage.name}: ok is {steps.ok}"
        assert finite_terms(trained_terms(task.terms), steps.losses[2]) == ["energy", "edge"], stage.name
        all_close(backend.parameters(state), backend.parameters(expected), stage.name, rtol=0)
        if stage.kind in ("adam", "adamw", "sgd"):
            same_bits(snapshot(backend, state), snapshot(backend, expected), f"{stage.name}: state after a bad step")
        good = table(task, stage, 1)
        state, steps = backend.step(state, 1, good, task.feed(0), 3)
        assert steps.ok.all() and np.isfinite(steps.losses).all(), f"{stage.name} does not go on after a bad step"
    assert "energy" in str(NonFinite(2, ["energy"]))


def check_a_gradient_that_is_not_finite_changes_nothing(module: ModuleType, **settings: Any) -> None:
    """Loss finite, gradient 0/0: the step is not ok, and parameters stay finite."""
    task = Kinked()
    for stage in (STAGES[0], *STAGES[3:]):
        backend = build(module, task, [stage], **settings)
        before = snapshot(backend, backend.init(0))
        state, steps = backend.step(backend.init(0), 2, table(task, stage, 2, shift=0.0), task.feed(0), 0)
        assert steps.ok.tolist() == [False, False], f"{stage.name}: ok is {steps.ok}"
        after = snapshot(backend, state)
        same_bits(
            {k: v for k, v in after.items() if k.startswith("params/")},
            {k: v for k, v in before.items() if k.startswith("params/")},
            stage.name,
        )
        assert finite_terms(trained_terms(task.terms), steps.losses[0]) == [], stage.name


def check_clipping_scales_the_whole_gradient(module: ModuleType, **settings: Any) -> None:
    """sgd with a clipped gradient moves by lr times the norm, along the gradient; a small gradient is left alone."""
    task, stage, clip = LeastSquares(), Sgd(steps=5, lr=0.1, precision="float64"), Clip(norm=1e-3)
    backend = build(module, task, [stage], **settings, clip=clip)
    start = task.init(generator(0, "init"))
    g = task.gradient(start)
    norm = np.sqrt(sum(np.sum(v**2) for v in g.values()))
    for limit in (1e-3, 2 * norm):
        state, _ = backend.step(backend.init(0), 1, table(task, stage, 1, clip=Clip(norm=limit)), task.feed(0), 0)
        factor = min(1.0, limit / norm)
        all_close(backend.parameters(state), {k: start[k] - 0.1 * factor * g[k] for k in g}, f"limit {limit}")


def check_frozen_parameters_and_untrained_terms_stay_out(module: ModuleType, **settings: Any) -> None:
    """A frozen parameter does not move; `layout` lists the trained ones by name."""
    task = Curves()
    trained = ["net/b0", "net/b1", "net/w0", "net/w1", "rate"]
    for stage in STAGES:
        backend = build(module, task, [stage], **settings)
        state, steps = backend.step(backend.init(0), 3, table(task, stage, 3), task.feed(0), 0)
        start = task.init(generator(0, "init"))
        params = backend.parameters(state)
        assert np.array_equal(params["frozen/scale"], start["frozen/scale"])
        assert all(not np.array_equal(params[name], start[name]) for name in trained), stage.name
        assert backend.layout(state) == [(name, start[name].shape) for name in trained]
        assert steps.losses.shape[1] == 3, "losses have one column per trained term"


def check_precision_belongs_to_the_stage(module: ModuleType, **settings: Any) -> None:
    """A float32 stage and then a float64 one: parameters are cast, the optimizer is fresh."""
    task = Curves()
    stages = (
        Adam(name="a", steps=5, precision="float32"),
        SsBroyden(name="b", steps=5),
        Sgd(name="c", steps=5, precision="float32"),
    )
    backend, feed = build(module, task, stages, **settings), task.feed(0)
    state = backend.init(0)
    for k, precision in enumerate(("float32", "float64", "float32")):
        if k:
            before = backend.parameters(state)
            state = backend.enter(state, k)
            same_bits(backend.parameters(state), {n: v.astype(precision) for n, v in before.items()}, f"enter {k}")
        state, steps = backend.step(state, 3, table(task, stages[k], 3), feed, 3 * k)
        arrays, meta = backend.arrays(state)
        assert meta["stage"] == k and meta["precision"] == precision, meta
        assert {str(v.dtype) for n, v in arrays.items() if n.startswith("params/")} == {precision}
        assert steps.losses.dtype == np.float64 and steps.ok.all()
