"""DeepXDE's step on the same equation, network, points and first weights: the peer of `benchmarks.steps`.

Its `train` evaluates train and test losses at the start and at the end of every call, so that a step is timed by
difference: n steps against n/4.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from backends.networks import MLP
from backends.pde.task import PdeTask
from backends.randomness import generator
from benchmarks.problems import experiment
from orchestrator.build import task_of

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1", "PJRT_NPROC": "1"}
"""The environment of the released package, on one core."""


def measured(case: dict[str, Any], backend: str, steps: int, rounds: int, later: int) -> dict[str, Any]:
    """Least CPU milliseconds of a step over some rounds, and the losses before step 0 and `later`."""
    from pathlib import Path

    os.environ["DDE_BACKEND"] = {"jax": "jax", "torch": "pytorch"}[backend]
    made = experiment(case, backend)
    task = task_of(made, Path())
    assert isinstance(task, PdeTask) and isinstance(made.network, MLP)
    points = task.feed(0).take(0, 1).fixed()["interior"]
    columns = np.stack([points[c] for c in task.problem.coords], 1).astype(np.float32)
    params = {k: v.astype(np.float32) for k, v in task.init(generator(0, "init")).items()}
    model = _model(backend, columns, params, made.network.depth, float(task.constants["nu"]))
    history, _ = model.train(iterations=later, display_every=later, verbose=0)
    losses = [float(np.sum(history.loss_train[i])) for i in (0, -1)]
    model.train(iterations=steps, display_every=10**9, verbose=0)  # compiles what was not compiled, warms up
    times = []
    for _ in range(rounds):
        long, short = (_timed(model, n) for n in (steps, steps // 4))
        times.append(1e3 * (long - short) / (steps - steps // 4))
    return {"ms": min(times), "losses": losses}


def _timed(model: Any, steps: int) -> float:
    began = time.process_time()
    model.train(iterations=steps, display_every=10**9, verbose=0)
    return time.process_time() - began


def _model(backend: str, columns: Any, params: dict[str, Any], depth: int, nu: float) -> Any:
    """Burgers' equation on given points, without conditions."""
    import deepxde

    dde: Any = deepxde  # without types

    def pde(x: Any, y: Any) -> Any:
        u = y[0] if backend == "jax" else y
        u_t, u_x = (_first(dde.grad.jacobian(y, x, i=0, j=j)) for j in (0, 1))
        return u_t + u * u_x - nu * _first(dde.grad.hessian(y, x, i=1, j=1))

    # Two points of its own: with none it would have no points to test at.
    data = dde.data.PDE(dde.geometry.Rectangle([0, -1], [1, 1]), pde, [], num_domain=0, anchors=columns)
    width = params["w0"].shape[1]
    net = dde.nn.FNN([2, *[width] * depth, 1], "tanh", "Glorot normal")
    model = dde.Model(data, net)
    if backend == "torch":
        import torch

        with torch.no_grad():
            for k, linear in enumerate(net.linears):
                linear.weight.copy_(torch.from_numpy(params[f"w{k}"].T))
                linear.bias.copy_(torch.from_numpy(params[f"b{k}"]))
        model.compile("adam", lr=1e-3)
        return model
    model.compile("adam", lr=1e-3)
    import jax.numpy as jnp

    given = {f"denses_{k}": {"kernel": jnp.asarray(params[f"w{k}"]), "bias": jnp.asarray(params[f"b{k}"])}
             for k in range(depth + 1)}  # fmt: skip
    net.params = {"params": given}
    model.params = [net.params, []]
    model.opt_state = model.opt.init(model.params)
    return model


def _first(derivative: Any) -> Any:
    """DeepXDE's derivatives under JAX are pairs (values, function)."""
    return derivative[0] if isinstance(derivative, tuple) else derivative
