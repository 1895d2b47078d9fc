"""Checks of points that change and have weights of their own: passes, agreement, bits, compilations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from backends import pointwise
from backends.networks import MLP
from backends.pde.task import PdeTask
from backends.points.feed import PointFeed
from backends.spec import Attention, Causal, Points, Rard, SelfAdaptive
from backends.stages import Adam
from backends.task import Parts
from backends.testing.setup import ADAM, build, same_bits, snapshot, table

RULES: tuple[tuple[Any, Any, Any], ...] = (
    (Causal(windows=5, eps=1.0), Attention(gamma=0.9, eta=0.1), SelfAdaptive(lr=0.05)),
    (Attention(), SelfAdaptive(lr=0.5, mask="sigmoid", high=3.0), Causal(windows=4, eps=1e-3)),
)
"""Weights of the points inside, at the start and at the ends: every kind, an `eps` that stays and one that grows."""
SETS = ("interior", "t=0", "x=periodic")


def allen_cahn(rules: tuple[Any, Any, Any], passes: int = 3) -> PdeTask:
    """Points in buffers that grow inside and at the start; all terms soft, so that there are three sets."""
    from backends.tasks.allen_cahn import AllenCahn

    grows = Rard(capacity=48, add=8), Rard(capacity=12, add=2, k=1, c=1, spread=0.1), None
    sets = zip(("pde", "ic", "bc"), (24, 6, 12), (48, 12, 12), grows, rules, strict=True)
    points = {
        term: Points(count=count, adapt=adapt, pointwise=rule, chunk=size // passes)
        for term, count, size, adapt, rule in sets
    }
    found = AllenCahn().build(Parts(network=MLP(width=6, depth=1), points=points))
    assert isinstance(found, PdeTask)
    return found


def steps_with(backend: Any, task: PdeTask, state: Any, feed: PointFeed, rounds: range, stage: Any = ADAM[0]) -> Any:
    """(state, losses) after five steps a round, each followed by new points."""
    losses = []
    for k in rounds:
        state, steps = backend.step(state, 5, table(task, stage, 5), feed, 5 * k)
        losses.append(np.array(steps.losses))
        for batch in feed.adaptive():
            candidates = feed.propose(batch, k)
            kept = feed.adopt(batch, k, candidates, backend.candidates(state, batch, candidates))
            moved = pointwise.moved(task.pointwise[batch], backend.aux(state), kept)
            state = backend.with_aux(state, moved)
    return state, np.concatenate(losses)


def check_growing_points_with_weights_resume_whatever_the_passes(module: ModuleType, **settings: Any) -> None:
    """Saved after 10 of 20 steps and taken up again: the same bits, nothing compiled twice; uncut the same to 1e-11."""
    for rules in RULES:
        task = allen_cahn(rules)
        backend, feed = build(module, task, ADAM, **settings), task.feed(0)
        state, before = steps_with(backend, task, backend.init(0), feed, range(2))
        saved, points = backend.arrays(state), feed.arrays()
        host = {name: np.array(value) for name, value in saved[0].items()}
        state, losses = steps_with(backend, task, state, feed, range(2, 4))
        again = task.feed(0)
        again.load(points)
        assert again.active == {"interior": 40, "t=0": 10}
        other, repeated = steps_with(backend, task, backend.load(host, saved[1]), again, range(2, 4))
        assert np.array_equal(losses, repeated), repr(rules)
        same_bits(snapshot(backend, other), snapshot(backend, state), f"{rules}: after resuming")
        counts = {k: n for k, n in backend.compilations().items() if not k.startswith("candidates")}
        assert max(counts.values()) <= 1, counts
        uncut = allen_cahn(rules, 1)
        backend = build(module, uncut, ADAM, **settings)
        found = steps_with(backend, uncut, backend.init(0), uncut.feed(0), range(4))[1]
        np.testing.assert_allclose(found, np.concatenate([before, losses]), rtol=1e-11, err_msg=repr(rules))


def check_weights_of_points_agree(one: ModuleType, other: ModuleType, **settings: Any) -> None:
    """Losses of 50 steps with growing points, to 1e-9; a state of one goes on in the other."""
    stage = Adam(steps=50, lr=1e-2, precision="float64")
    for rules in RULES:
        task, found, last = allen_cahn(rules), [], []
        first, second = (build(module, task, [stage], **settings) for module in (one, other))
        for backend in (first, second):
            state, losses = steps_with(backend, task, backend.init(0), task.feed(0), range(10), stage)
            found.append(losses)
            last.append(state)
        np.testing.assert_allclose(found[0], found[1], rtol=1e-9, err_msg=repr(rules))
        arrays, meta = second.arrays(last[1])
        host = {name: np.array(value) for name, value in arrays.items()}
        same_bits(snapshot(first, first.load(host, meta)), host, f"{rules}: crossed over")
