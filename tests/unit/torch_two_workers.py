"""One of two torch processes that train together; started by test_torch_workers.

    python torch_two_workers.py RANK SIZE HOST:PORT FOLDER COMPILE

Writes `rank<RANK>of<SIZE>.npz`: losses, parameters, evaluation, gradient norms of a run of each kind of stage.
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
        backend, feed = (
            build(module, task, [stage], world=world, compile="never", groups=groups, trained_weights=trained),
            task.feed(0),
        )
        state, steps = backend.step(backend.init(0), 8, table(task, stage, 8, groups=groups), feed, 0)
        what = frozenset({"losses", "grad_norms", "gradient", "gram", "ntk/4"})
        probe = backend.probe(state, what, feed, 8, table(task, stage, 1, groups=groups)[0])
        found |= {f"{name}/losses": steps.losses, **{f"{name}/probe/{k}": v for k, v in probe.items()}}
        arrays, meta = backend.arrays(state)
        found |= {f"{name}/{k}": v for k, v in arrays.items()}
        state, steps = backend.step(backend.load(arrays, meta), 2, table(task, stage, 2, groups=groups), feed, 8)
        found[f"{name}/resumed"] = steps.losses
        found |= {f"{name}/evaluate/{k}": v for k, v in backend.evaluate(state, task.held_out(5)).items()}
        found[f"{name}/predict"] = backend.predict(state, ["u"], next(iter(task.held_out(5).values())))["u"]
        knobs = table(task, stage, 1, groups=groups)
        knobs[0, -1] = np.nan
        state, steps = backend.step(state, 1, knobs, feed, 10)
        found |= {f"{name}/bad": steps.ok, **{f"{name}/after/{k}": v for k, v in backend.parameters(state).items()}}
    return found


def run_compiled(module: Any, world: World) -> dict[str, Any]:
    """The sum over workers inside a compiled step."""
    task, stage = LeastSquares(), STAGES[0]
    backend, feed = build(module, task, [stage], world=world, compile="always"), task.feed(0)
    state, steps = backend.step(backend.init(0), 8, table(task, stage, 8), feed, 0)
    return {"losses": steps.losses, **backend.parameters(state)}


if __name__ == "__main__":
    rank, size = int(sys.argv[1]), int(sys.argv[2])
    torch = backends.load("torch")
    if size > 1:
        assert torch.join(sys.argv[3], rank, size, gpu=False, timeout_s=60) == size
    function = run_compiled if sys.argv[5] == "always" else run
    np.savez(Path(sys.argv[4]) / f"rank{rank}of{size}.npz", **function(torch, World(rank, size)))
    torch.leave()
