"""Step speed of the product against DeepXDE, and of derivative channels against nested differentiation.

Every measurement is a fresh process on one thread; product and peer take turns (A, B, A, B), the least counts. The
product is timed as `orchestrator run` trains: the loop with its knobs, callbacks and records.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import processes
from benchmarks.results import Section, page, table

TURNS = 2
"""Processes of each side per case against DeepXDE."""
NESTED_TURNS = 1
"""The same against nested differentiation, whose ratios are large."""
LATER = 20
"""The losses before the first step and before this one are compared."""


@dataclass(frozen=True)
class Case:
    """One equation, network and number of points."""

    problem: str
    width: int
    depth: int
    points: int
    steps: int
    """Per measurement."""
    rounds: int
    targets: dict[str, float]
    """How many times faster than the other side, per backend."""

    @property
    def name(self) -> str:
        return f"{self.problem}, {self.width}x{self.depth}, {self.points:,} points"


AGAINST_DEEPXDE = (
    Case("burgers", 64, 4, 10_000, 24, 3, {"jax": 3.6, "torch": 1.7}),
    Case("burgers", 20, 8, 10_000, 40, 3, {"jax": 6.3, "torch": 1.8}),
    Case("burgers", 20, 3, 2_500, 400, 3, {"jax": 3.3, "torch": 2.8}),
    Case("burgers", 20, 3, 500, 1_600, 3, {"jax": 3.4, "torch": 3.8}),
)
AGAINST_NESTED = (
    Case("kuramoto", 64, 4, 2_000, 40, 3, {"jax": 6.0, "torch": 3.0}),
    Case("poisson5", 64, 4, 2_000, 40, 3, {"jax": 8.0, "torch": 8.0}),
)
SHARE, CHANNELS = 0.8, 4
"""Of the core's own sgemm rate at width 64; channels of Burgers."""


def measure(*parts: str) -> Section:
    """`python -m benchmarks steps [jax] [torch] [deepxde] [nested]`."""
    chosen = [b for b in ("jax", "torch") if b in parts] or ["jax", "torch"]
    both = not {"deepxde", "nested"} & set(parts)
    texts = []
    if both or "deepxde" in parts:
        texts.append(_deepxde(chosen))
    if both or "nested" in parts:
        texts.append(_nested(chosen))
    return Section(
        "3.6x, 6.3x, 3.3x, 3.4x DeepXDE's JAX backend and 1.7x, 1.8x, 2.8x, 3.8x its torch backend; 80 % of sgemm; "
        "fourth order 6x and 3x nested differentiation; a Laplacian in five dimensions 8x the trace of the Hessian.",
        "\n\n".join(texts),
    )


def _deepxde(chosen: list[str]) -> str:
    rows, shares = [], []
    for case in AGAINST_DEEPXDE:
        for backend in chosen:
            ours, peers = _in_turns(case, backend)
            mine, peer = (min(found, key=lambda f: f["ms"]) for found in (ours, peers))
            gap = max(abs(a - b) / abs(b) for a, b in zip(mine["losses"], peer["losses"], strict=True))
            rows.append(
                [case.name, backend, f"{mine['ms']:.3f}", f"{peer['ms']:.3f}", f"{peer['ms'] / mine['ms']:.2f}",
                 f"{case.targets[backend]}", _spread(ours), _spread(peers), f"{gap:.1e}"]
            )  # fmt: skip
            if backend == "jax" and case.width == 64:
                rate = flops(case) / mine["ms"] / 1e6
                shares.append([case.name, f"{rate:.0f}", f"{mine['gflops']:.0f}", f"{rate / mine['gflops']:.2f}"])
    text = page(
        """Burgers' residual without conditions, Adam in float32, one thread, coordinates not scaled; the same network,
        points and first weights. CPU milliseconds per step, the least of some rounds in two fresh processes of each
        side in turns (`spread`: of the processes' least). DeepXDE 1.15 as released (under JAX with 64-bit numbers off),
        its steps by difference (n against n/4). `losses differ`: relatively, before steps 0 and 20.""",
        table(
            ["case", "backend", "product, ms", "DeepXDE, ms", "ratio", "target", "spread", "spread of DeepXDE",
             "losses differ"],
            rows,
        ),
    )  # fmt: skip
    if not shares:
        return text
    return (
        text
        + "\n\n"
        + page(
            f"""Matrix products of a JAX step (forward and backward, {CHANNELS} channels) per second, against XLA's own
        product of 2048 x 2048 matrices in float32 in the same processes; target {SHARE}:""",
            table(["case", "GFLOP/s", "sgemm, GFLOP/s", "share"], shares),
        )
    )


def _nested(chosen: list[str]) -> str:
    rows = []
    for case in AGAINST_NESTED:
        for backend in chosen:
            sides = ["channels", "nested", *(["hessian"] if backend == "jax" else [])]
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for _ in range(NESTED_TURNS):
                for side in sides:
                    arguments = {"case": asdict(case), "backend": backend, "side": side}
                    found[side].append(_call("benchmarks.steps:ours", backend, arguments))
            least = {side: min(f["ms"] for f in some) for side, some in found.items()}
            first = {side: some[0]["losses"][0] for side, some in found.items()}
            gap = max(abs(first[s] - first["channels"]) / abs(first["channels"]) for s in sides)
            others = [f"{least[s]:.2f} ({least[s] / least['channels']:.1f}x)" if s in least else "–"
                      for s in ("nested", "hessian")]  # fmt: skip
            rows.append([case.name, backend, f"{least['channels']:.2f}", *others, case.targets[backend], f"{gap:.1e}"])
    return page(
        """The same loop with derivative channels, and with nested differentiation: `in the product` is the same
        program with the network differentiated by the framework (JAX: forward over forward along single coordinates;
        torch: backward over backward, which gives whole rows of the Hessian), in chunks where the rule says so; `as
        usually written` is a compiled JAX step of its own, reverse over reverse per point (`grad` of `grad`; the
        Laplacian as the trace of `jax.hessian`). CPU milliseconds per step and how many times the channels'.""",
        table(
            ["case", "backend", "channels, ms", "nested, in the product", "nested, as usually written", "target",
             "losses differ"],
            rows,
        ),
    )  # fmt: skip


def _in_turns(case: Case, backend: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from benchmarks.peer_deepxde import THREADS

    ours, peers = [], []
    arguments = {"case": asdict(case), "backend": backend}
    for _ in range(TURNS):
        ours.append(_call("benchmarks.steps:ours", backend, {**arguments, "side": "channels"}))
        counts = {"steps": case.steps, "rounds": case.rounds, "later": LATER}
        peers.append(_call("benchmarks.peer_deepxde:measured", None, {**arguments, **counts}, THREADS))
    return ours, peers


def _call(function: str, backend: str | None, arguments: dict[str, Any], variables: Any = None) -> dict[str, Any]:
    """One measurement, told as soon as it is there: all of them take half an hour."""
    found = processes.call(function, backend, arguments, variables)
    print(arguments["case"], arguments["backend"], arguments.get("side", "DeepXDE"), found, file=sys.stderr, flush=True)
    return found


def _spread(found: list[dict[str, Any]]) -> str:
    least = [f["ms"] for f in found]
    return f"{max(least) / min(least) - 1:.0%}"


def flops(case: Case) -> float:
    """Of the matrix products of one step: forward, and twice that backward."""
    per_point = (case.depth - 1) * case.width**2 + case.width
    return 3 * 2.0 * CHANNELS * case.points * per_point


def ours(case: dict[str, Any], backend: str, side: str) -> dict[str, Any]:
    """Milliseconds per step of one side, losses before the first and a later step (runs in its own process)."""
    from benchmarks.overhead import product
    from benchmarks.problems import NestedMLP, experiment
    from orchestrator.assemble import assemble

    def nested(task: Any) -> Any:
        network = NestedMLP(**{k: v for k, v in task.representation.network if k != "kind"})
        return replace(task, representation=replace(task.representation, network=network))

    chosen = Case(**case)
    with tempfile.TemporaryDirectory(prefix="orchestrator-steps-") as folder:
        made = assemble(experiment(case, backend), Path(folder), change=nested if side == "nested" else lambda t: t)
        if side == "hessian":
            from benchmarks.nested_jax import step_by_step

            loop, losses = step_by_step(made, chosen, LATER)
        else:
            loop, losses = product(made, Path(folder)), _losses(made)
        loop()  # compiles
        times = []
        for _ in range(2 * chosen.rounds):
            began = time.process_time()
            loop()
            times.append(1e3 * (time.process_time() - began) / chosen.steps)
    found = {"ms": min(times), "median": statistics.median(times), "losses": losses}
    return found | ({"gflops": _sgemm()} if backend == "jax" and side == "channels" else {})


def _losses(made: Any) -> list[float]:
    """Before the steps 0 and `LATER`."""
    from orchestrator.knobs import Knobs, initial

    backend, task = made.backend, made.task
    (stage,) = made.stages
    knobs = Knobs(initial(task, {"pde": 1.0}), (), None, task=task)
    _, steps = backend.step(backend.init(0), LATER + 1, knobs.table(stage, 0, 0, LATER + 1), task.feed(0), 0)
    return [float(np.array(steps.losses)[i, 0]) for i in (0, LATER)]


def _sgemm() -> float:
    """GFLOP/s of XLA's product of large matrices."""
    import jax
    import jax.numpy as jnp

    n = 2048
    a = jnp.ones((n, n), jnp.float32)
    multiply: Callable[[Any, Any], Any] = jax.jit(lambda x, y: x @ y)
    multiply(a, a).block_until_ready()
    times = []
    for _ in range(6):
        began = time.process_time()
        multiply(a, a).block_until_ready()
        times.append(time.process_time() - began)
    return 2 * n**3 / min(times) / 1e9
