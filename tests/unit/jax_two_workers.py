"""One of two JAX processes that train together; started by test_jax_distributed.

    python jax_two_workers.py RANK SIZE HOST:PORT FOLDER

Writes `rank<RANK>.npz`: losses, parameters, evaluation, gradient norms of a run of each kind of stage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import backends
from backends.protocol import World
from backends.stages import GaussNewton
from backends.testing.groups import DUEL
from backends.testing.points import RULES, allen_cahn
from backends.testing.setup import STAGES, build, table
from backends.testing.tasks import Curves, Duel, LeastSquares, Noisy
from backends.weighting import Uncertainty


def run(module: Any, world: World) -> dict[str, Any]:
    """Everything that two workers must agree on with one."""
    found: dict[str, Any] = {"agreed": module.agree(10 + world.rank, world)}
    cases = (
        (Curves(counts=True), STAGES[0]),
        (Curves(pass_size=2), STAGES[4]),
        (Curves(pass_size=2), STAGES[5]),
        (LeastSquares(), GaussNewton(steps=20, solver="samples", damping=1e4)),
        (Noisy(), STAGES[0]),
        (Curves(), STAGES[2]),
        (Duel(), STAGES[0]),
        (allen_cahn(RULES[0], passes=6), STAGES[0]),
    )
    for task, stage in cases:
        groups = DUEL if isinstance(task, Duel) else {}
        trained = Uncertainty().trained(["pair", "energy", "edge"]) if stage.kind == "sgd" else {}
        name = f"{type(task).__name__}/{stage.kind}"
        backend, feed = build(module, task, [stage], world=world, groups=groups, trained_weights=trained), task.feed(0)
        state, steps = backend.step(backend.init(0), 8, table(task, stage, 8, groups=groups), feed, 0)
        found[f"{name}/losses"] = steps.losses
        arrays, meta = backend.arrays(state)
        found |= {f"{name}/{k}": v for k, v in arrays.items()}
        state, steps = backend.step(backend.load(arrays, meta), 2, table(task, stage, 2, groups=groups), feed, 8)
        found[f"{name}/resumed"] = steps.losses
        if stage.kind == "adam":
            knobs = table(task, stage, 1, groups=groups)
            what = frozenset({"losses", "grad_norms", "gradient", "gram", "ntk/4"})
            found |= {f"{name}/{k}": v for k, v in backend.probe(state, what, feed, 10, knobs[0]).items()}
            found |= {f"{name}/{k}": np.array(v) for k, v in backend.evaluate(state, task.held_out(5)).items()}
            knobs[0, -1] = np.nan
            state, steps = backend.step(state, 1, knobs, feed, 10)
            found |= {f"{name}/bad": steps.ok, **{f"{name}/after/{k}": v for k, v in backend.parameters(state).items()}}
    return found


if __name__ == "__main__":
    rank, size = int(sys.argv[1]), int(sys.argv[2])
    jax = backends.load("jax")
    if size > 1:
        assert jax.join(sys.argv[3], rank, size, gpu=False, timeout_s=60) == size
    np.savez(Path(sys.argv[4]) / f"rank{rank}of{size}.npz", **run(jax, World(rank, size)))
    if size > 1:
        jax.leave()
