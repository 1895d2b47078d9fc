"""Checks of parameter groups: rates, signs, rhythms, freezing, and terms that train some of the parameters."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends.groups import Group
from backends.randomness import generator
from backends.stages import Adam, AdamW, Lbfgs, Sgd, SsBroyden
from backends.task import trained_terms
from backends.testing.setup import all_close, build, close, differ, same_bits, slopes, snapshot, table
from backends.testing.tasks import Curves, Duel, LeastSquares

DUEL = {
    "maker": Group(params=("maker/*",), rate=0.5),
    "critic": Group(params=("critic/w",), every=2, offset=1, sign=-1),
}


def check_groups_have_their_rate_and_sign(module: ModuleType, **settings: Any) -> None:
    """sgd: one group moves half as far, another one up the slope; clipping sees the whole gradient."""
    task, stage = LeastSquares(), Sgd(steps=5, lr=0.1, precision="float64")
    groups = {"half": Group(params=("slo*",), rate=0.5), "up": Group(params=("offset",), sign=-1)}
    backend = build(module, task, [stage], **settings, groups=groups)
    start = task.init(generator(0, "init"))
    g = task.gradient(start)
    state, _ = backend.step(backend.init(0), 1, table(task, stage, 1, groups=groups), task.feed(0), 0)
    expected = {"slope": start["slope"] - 0.05 * g["slope"], "offset": start["offset"] + 0.1 * g["offset"]}
    all_close(backend.parameters(state), expected, "one step")
    assert backend.layout(state) == [("offset", ()), ("slope", (2,))]


def check_decay_keeps_its_sign_in_ascent(module: ModuleType, **settings: Any) -> None:
    """adamw with `sign: -1` is adamw on the negative gradient: weight decay still makes parameters smaller."""
    task, stage = LeastSquares(), AdamW(steps=5, lr=0.1, weight_decay=0.5, precision="float64")
    groups = {"all": Group(params=("*",), sign=-1)}
    backend = build(module, task, [stage], **settings, groups=groups)
    start = task.init(generator(0, "init"))
    g = task.gradient(start)
    state, _ = backend.step(backend.init(0), 1, table(task, stage, 1, groups=groups), task.feed(0), 0)
    expected = {k: v - 0.1 * (-g[k] / (np.abs(g[k]) + 1e-8) + 0.5 * v) for k, v in start.items()}
    all_close(backend.parameters(state), expected, "one step")


def check_a_group_rests_with_all_its_state(module: ModuleType, **settings: Any) -> None:
    """`every: 2`: at other steps parameters and optimizer state keep their bits; Adam counts the group's own steps."""
    task, stage = Duel(), Adam(steps=20, lr=1e-2, precision="float64")
    backend = build(module, task, [stage], **settings, groups=DUEL)
    state = backend.init(0)
    after = snapshot(backend, state)
    for step in range(5):
        before = after
        state, _ = backend.step(state, 1, table(task, stage, 1, groups=DUEL, step=step), task.feed(0), step)
        after = snapshot(backend, state)
        own = [name for name in after if "critic" in name and not name.startswith("constants")]
        assert len(own) == 4, own  # parameter, two moments, count
        rested = {name: after[name] for name in own}
        if step % 2 == 0:
            same_bits(rested, {name: before[name] for name in own}, f"step {step}")
        else:
            assert all(not np.array_equal(after[name], before[name]) for name in own), f"step {step}"
    counts = {name: int(after[f"optimizer/adam/count/{name}"]) for name in ("maker", "critic", "rest")}
    assert counts == {"maker": 5, "critic": 2, "rest": 5}, counts


def check_terms_train_their_groups_only(module: ModuleType, **settings: Any) -> None:
    """The gradient of each term, by differences in numpy, where it may go, and zero elsewhere; probes see the same."""
    task, stage = Duel(), Sgd(steps=5, lr=0.1, precision="float64")
    groups = {name: Group(params=group.params) for name, group in DUEL.items()}
    backend = build(module, task, [stage], **settings, groups=groups)
    start = task.init(generator(0, "init"))
    names = [name for name, _ in backend.layout(backend.init(0))]
    rows = slopes(task, start, task.batches(), names)
    whose = np.concatenate([[name.split("/")[0]] * np.size(start[name]) for name in names])
    for row, term in zip(rows, trained_terms(task.terms), strict=True):
        if term.groups:
            row[~np.isin(whose, term.groups)] = 0
    weights: dict[str, Any] = {"fool": 2.0, "judge": 0.5, "both": 1.5}
    knobs = table(task, stage, 1, None, groups, 0, **weights)
    what = frozenset({"gradient", "grad_norms"})
    found = backend.probe(backend.init(0), what, task.feed(0), 0, knobs[0])
    close(found["grad_norms"], np.linalg.norm(rows, axis=1), "grad_norms", rtol=1e-7)
    close(found["gradient"], np.array(list(weights.values())) @ rows, "gradient", rtol=1e-7)
    state, _ = backend.step(backend.init(0), 1, knobs, task.feed(0), 0)
    moved = {k: (start[k] - v) / 0.1 for k, v in backend.parameters(state).items()}
    close(np.concatenate([np.ravel(moved[k]) for k in names]), found["gradient"], "the step", rtol=1e-10)


def check_frozen_groups_stay_out(module: ModuleType, **settings: Any) -> None:
    """Not in the flat vector, without optimizer state, with the bits of the start, in every kind of stage."""
    task = Curves()
    groups = {"first": Group(params=("net/w0", "net/b0"), freeze=True)}
    for stage in (Adam(steps=5, precision="float64"), Lbfgs(steps=5, memory=3), SsBroyden(steps=5)):
        backend = build(module, task, [stage], **settings, groups=groups)
        state, _ = backend.step(backend.init(0), 3, table(task, stage, 3, groups=groups), task.feed(0), 0)
        start, arrays = task.init(generator(0, "init")), snapshot(backend, state)
        assert [name for name, _ in backend.layout(state)] == ["net/b1", "net/w1", "rate"]
        for name in ("net/w0", "net/b0", "frozen/scale"):
            assert np.array_equal(arrays[f"params/{name}"], start[name]), f"{stage.kind}: {name} moved"
        assert not any(n.startswith("optimizer/") and "0" in n for n in arrays), sorted(arrays)
        assert differ(arrays, {**arrays, "params/net/w1": start["net/w1"]}), f"{stage.kind} trains nothing"
        gradient = backend.probe(state, frozenset({"gradient"}), task.feed(0), 3, table(task, stage, 1, groups=groups))
        assert gradient["gradient"].shape == (5 * 2 + 2 + 1,)


def check_groups_resume_with_their_bits(module: ModuleType, **settings: Any) -> None:
    """5 + 4 steps, the second part from a checkpoint, are 9 steps, rhythm, counts and all."""
    task, stage = Duel(), Adam(steps=20, lr=1e-2, precision="float64")
    backend = build(module, task, [stage], **settings, groups=DUEL)
    whole, _ = backend.step(backend.init(0), 9, table(task, stage, 9, groups=DUEL), task.feed(0), 0)
    state, _ = backend.step(backend.init(0), 5, table(task, stage, 5, groups=DUEL), task.feed(0), 0)
    state = backend.load(*backend.arrays(state))
    state, _ = backend.step(state, 4, table(task, stage, 4, groups=DUEL, step=5), task.feed(0), 5)
    same_bits(snapshot(backend, state), snapshot(backend, whole), "9 steps")


def check_rates_and_signs_compile_nothing(module: ModuleType, **settings: Any) -> None:
    """Other rates, signs and rhythms are other knobs of the same program."""
    task, stage = Duel(label="knobs"), Adam(steps=20, lr=1e-2, precision="float64")
    first = build(module, task, [stage], **settings, groups=DUEL)
    feed = task.feed(0)
    state, _ = first.step(first.init(0), 2, table(task, stage, 2, groups=DUEL), feed, 0)
    before = first.compilations()
    other = {name: g.model_copy(update={"rate": 3.0, "sign": 1, "every": 3, "offset": 0}) for name, g in DUEL.items()}
    first.step(state, 2, table(task, stage, 2, groups=other), feed, 2)
    assert first.compilations() == before
    second = build(module, task, [stage], **settings, groups=other)
    second.step(second.init(0), 2, table(task, stage, 2, groups=other), feed, 0)
    assert not any(second.compilations().values()), second.compilations()
