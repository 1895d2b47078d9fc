"""A backend in numpy for tests of everything around backends: exact losses, made-up gradients, no framework.

`use(patch)` puts it in the place of both backends. Every knob, sample, precision and parameter changes its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import backends
from backends import pointwise
from backends.ops import NumpyOps
from backends.protocol import Settings, Steps, columns_of, drawn, kernel_samples, of_gradients
from backends.randomness import generator
from backends.stages import Stage
from backends.task import Batches, Columns, Context, Feed, Task, trained_terms
from backends.weighting.uncertainty import beside
from orchestrator import RunResult, run

OPS = NumpyOps()
Arrays = dict[str, Any]


class NumpyBackend:
    """Follows `backends.protocol.Backend`; a state is {"stage", "params", "count", "constants"}."""

    name = "numpy"

    def __init__(self, task: Task, stages: Sequence[Stage], settings: Settings) -> None:
        self.task = beside(task, settings.trained_weights)
        self.stages, self.settings = tuple(stages), settings
        self.ends: dict[int, str] = {}
        """Steps at which a quasi-Newton stage says that it can't go on."""
        self.calls: list[tuple[int, int]] = []
        """(first step, number of steps) of every dispatch."""
        self.tables: list[Any] = []
        """The knobs of every dispatch, [n, columns]."""

    def init(self, seed: int) -> Arrays:
        params = self.task.init(generator(seed, "init"))
        return self.enter({"params": params, "constants": dict(self.task.constants)}, 0)

    def enter(self, state: Arrays, stage: int) -> Arrays:
        dtype = np.dtype(self.stages[stage].precision or "float64")
        params = {k: np.asarray(v).astype(dtype) for k, v in state["params"].items()}
        fresh = {"stage": stage, "params": params, "count": 0, "constants": dict(state["constants"])}
        return {**fresh, "aux": state["aux"]} if "aux" in state else fresh

    def step(self, state: Arrays, n: int, knobs: Any, feed: Feed, step: int) -> tuple[Arrays, Steps]:
        self.calls.append((step, n))
        self.tables.append(np.array(knobs))
        stage = self.stages[state["stage"]]
        names, draw = (
            columns_of(stage, self.task, self.settings.clip, self.settings.groups, self.settings.noise),
            drawn(feed, step, n, self.settings.accumulate),
        )
        terms = [t.name for t in trained_terms(self.task.terms)]
        losses, ok, evaluations, ended = np.zeros((n, len(terms))), np.ones(n, np.bool_), np.zeros(n, np.int64), ""
        state = {**state, "params": dict(state["params"])}
        for i in range(n):
            row = dict(zip(names, knobs[i].tolist(), strict=True))
            constants = {k.removeprefix("task/"): v for k, v in row.items() if k.startswith("task/")}
            aux = self.aux(state) if getattr(self.task, "pointwise", {}) else None
            noting = {} if aux is None else {"aux": aux}
            found = self._means(_rounded(state["params"], stage), _now(draw, i), constants, step + i, **noting)
            if aux is not None and hasattr(stage, "lr"):
                state["aux"] = pointwise.advanced(OPS, self.task, aux, row, 1)
            losses[i], evaluations[i] = [found[t] for t in terms], 1
            ok[i] = np.isfinite(losses[i]).all()
            if ok[i]:
                self._move(state, row, sum(row[f"weight/{t}"] * found[t] for t in terms), step + i)
                state["constants"] = constants
            if not hasattr(stage, "lr") and step + i + 1 in self.ends:
                ended = self.ends[step + i + 1]
                losses[i + 1 :] = losses[i]
                break
        return state, Steps(losses, ok, evaluations, ended)

    def _move(self, state: Arrays, row: Mapping[str, float], loss: float, step: int) -> None:
        """Every knob has its share in the step, and what shapes an optimizer."""
        state["count"] += 1
        stage = self.stages[state["stage"]]
        own = sum(v * (1 + 0.1 * i) for i, (k, v) in enumerate(row.items()) if "/" not in k and k != "lr")
        own += len(stage.method) - len(stage.kind) + getattr(stage, "initial", 0.0)
        made = self.settings.optimizers.get(stage.name)
        rate = made.make(learning_rate=row["lr"]) if made else row.get("lr", 1e-3)
        size = rate * np.tanh(loss) * (1 + 0.01 * np.tanh(own))
        slopes = {k: v + np.cos(np.arange(v.size)).reshape(v.shape) for k, v in state["params"].items()}
        if self.settings.process is not None:
            slopes = dict(self.settings.process(OPS, slopes, dict(state["params"]), np.asarray(step)))
        for k, v in state["params"].items():
            state["params"][k] = (v - size * slopes[k]).astype(v.dtype)

    def _means(
        self, params: Arrays, batches: Batches, constants: Any, step: int, training: bool = True, aux: Any = None
    ) -> Arrays:
        """The mean of every term; with `aux` those of a step, which notes in it what weights of points need."""
        kinds = {t.name: t.kind for t in self.task.terms}
        context = Context(constants, self.task.aux(), (self.settings.seed, step), training)
        means = {}
        with np.errstate(all="ignore"):
            for batch, columns in batches.items():
                values = self.task.per_sample(OPS, dict(params), batch, columns, context)
                factors = pointwise.factors(OPS, self.task, batch, aux or {}, columns if aux is not None else {})
                if aux is not None:
                    aux.update(pointwise.noted(OPS, self.task, batch, aux, columns, values))
                for name, value in values.items():
                    parts = value if isinstance(value, tuple) else (value,)
                    factor = factors[kinds[name] == "residual"]
                    squared = [p * p if kinds[name] == "residual" else p for p in parts]
                    means[name] = float(sum(np.mean(p if factor is None else factor * p) for p in squared))
        return means

    def evaluate(self, state: Arrays, batches: Batches) -> dict[str, float]:
        found = self._means(state["params"], batches, state["constants"], 0, training=False)
        return {t.name: found[t.name] for t in self.task.terms if t.name in found}

    def candidates(self, state: Arrays, batch: str, columns: Columns) -> Arrays:
        context = Context(state["constants"], self.task.aux(), (self.settings.seed, 0), False)
        found = self.task.per_sample(OPS, state["params"], batch, columns, context)
        return {k: np.abs(np.asarray(v, np.float64)) for k, v in found.items()}

    def predict(self, state: Arrays, names: Sequence[str], columns: Columns) -> Arrays:
        context = Context(state["constants"], self.task.aux(), (self.settings.seed, 0), False)
        return dict(self.task.predict(OPS, state["params"], names, columns, context))

    def probe(self, state: Arrays, what: frozenset[str], feed: Feed, step: int, knobs: Any) -> Arrays:
        found = self._means(state["params"], _now(feed.take(step, 1), 0), self.task.constants, step)
        losses = np.array([found[t.name] for t in trained_terms(self.task.terms)])
        size = sum(v.size for v in state["params"].values())
        slopes = np.sqrt(losses)[:, None] * (np.arange(size) % 3 - 0.5) + 0.1 * np.cos(np.arange(size))
        kernels = {name: losses + np.arange(len(losses)) / n for name, n in kernel_samples(what).items()}
        for row, term in zip(slopes, trained_terms(self.task.terms), strict=True):
            kernels |= {
                f"curvature/{term.name}": np.outer(row, row) + np.eye(size),
                f"rows/{term.name}": np.array(1000),
            }
        known = {"losses": losses, "gradient": slopes.sum(axis=0), **of_gradients(slopes), **kernels}
        return {name: known[name] for name in what}

    def aux(self, state: Arrays) -> Arrays:
        return dict(state.get("aux") or self.task.aux())

    def with_aux(self, state: Arrays, new: Mapping[str, Any]) -> Arrays:
        return {**state, "aux": {**self.aux(state), **new}}

    def parameters(self, state: Arrays) -> Arrays:
        return dict(state["params"])

    def layout(self, state: Arrays) -> list[tuple[str, tuple[int, ...]]]:
        return sorted((k, v.shape) for k, v in state["params"].items())

    def arrays(self, state: Arrays) -> tuple[Arrays, Arrays]:
        stage = self.stages[state["stage"]]
        arrays = {f"params/{k}": v for k, v in state["params"].items()}
        arrays |= {f"constants/{k}": np.asarray(v) for k, v in state["constants"].items()}
        arrays |= {f"aux/{k}": np.asarray(v) for k, v in self.aux(state).items() if k.startswith(pointwise.PREFIX)}
        arrays[f"optimizer/{stage.kind}/count"] = np.asarray(state["count"])
        return arrays, {"stage": state["stage"], "precision": stage.precision}

    def load(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> Arrays:
        def of(group: str) -> Arrays:
            return {k.removeprefix(group): v for k, v in arrays.items() if k.startswith(group)}

        count = next(v for k, v in arrays.items() if k.endswith("/count"))
        constants = {k: float(v) for k, v in of("constants/").items()}
        state = {"stage": meta["stage"], "params": of("params/"), "count": int(count), "constants": constants}
        return {**state, "aux": of("aux/")} if of("aux/") else state

    def compilations(self) -> dict[str, int]:
        return {}


def _rounded(params: Arrays, stage: Stage) -> Arrays:
    """Parameters with the digits that a stage computes with."""
    half = getattr(stage, "compute", None) is not None
    return {k: v.astype(np.float16).astype(v.dtype) for k, v in params.items()} if half else params


def _now(draw: Any, i: int) -> Arrays:
    """The samples of step i of a draw."""
    fixed, batches = draw.fixed(), {}
    for name, columns in fixed.items():
        rows = {k: v[i] for k, v in draw.stacked.get(name, {}).items()}
        index = rows.pop("index", None)
        batches[name] = {**(columns if index is None else {k: v[index] for k, v in columns.items()}), **rows}
    return batches


def use(patch: pytest.MonkeyPatch, made: list[NumpyBackend] | None = None) -> None:
    """Runs train with this backend, draw nothing and start no uploader. `made` collects the backends."""

    def build(task: Task, stages: Sequence[Stage], settings: Settings) -> NumpyBackend:
        backend = NumpyBackend(task, stages, settings)
        if made is not None:
            made.append(backend)
        return backend

    module = SimpleNamespace(
        build=build,
        resolve_device=lambda name: "cpu" if name == "auto" else name,
        versions=lambda: {"numpy": np.__version__},
        agree=lambda value, world: value,
        memory=lambda device: {"in_use": 2.0**20, "peak": 2.0**21},
        profile=_profile,
    )
    patch.setattr(backends, "load", lambda name: module)
    patch.setattr("orchestrator.figures.draw_all", lambda *args: [])
    patch.setattr("orchestrator.provenance._git", lambda folder: {})


def _profile(folder: Path) -> Any:
    """A profiler whose trace is empty."""
    return (folder / "trace.json").touch


def trained(tree: Mapping[str, Any], out: Path, **options: Any) -> RunResult:
    """A run of a plain experiment tree."""
    return run(dict(tree), out=out, **options)
