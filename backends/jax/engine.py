"""The JAX backend: `backends.protocol.Backend` over compiled functions that live at module level.

A state's arrays are donated to `step`, which writes the new state into them: the old one is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from backends import quasi
from backends.errors import UserError
from backends.jax import states
from backends.jax.devices import device_of
from backends.jax.distributed import fetch, own, put
from backends.jax.program import TRACED, Program, programs
from backends.jax.readings import CANDIDATES, EVALUATE, PREDICT, PROBE
from backends.jax.samples import Holder, local
from backends.jax.steps import STEPS
from backends.protocol import CURVATURE, ROWS, Settings, Steps, curved, kernel_samples, samples_key
from backends.stages import Stage
from backends.task import Batches, Columns, Draw, Feed, Task
from backends.weighting import uncertainty

Tree = dict[str, Any]
PIECE = 2**16
"""Samples per call of a prediction: more are cut into pieces of this size, so that memory stays bounded."""


@dataclass(frozen=True)
class State:
    """Training state: arrays on the device, and the number of the stage they belong to."""

    stage: int
    arrays: Tree


class JaxBackend:
    """Compiled functions for one (task, stages, settings)."""

    name = "jax"

    def __init__(self, task: Task, stages: Sequence[Stage], settings: Settings) -> None:
        task = uncertainty.beside(task, settings.trained_weights)
        self._task, self._stages, self._settings = task, tuple(stages), settings
        self._device = device_of(settings.device)
        self._world = settings.world
        self._programs = programs(task, self._stages, settings)
        self._probes = tuple(
            replace(p, kind="", method="", stage=None, columns=(), compute=None, process=None, own=None)
            for p in self._programs
        )
        self._readers = tuple(replace(p, world=1) for p in self._probes)
        self._holder = Holder(task, self._world, self._device, settings.accumulate)
        self._traced_before = dict(TRACED)
        if settings.compile == "never" and self._world.size > 1:
            settings.warn("compile: never has no effect with several workers: the sums over workers are compiled")

    # --- the life of a state ---
    def init(self, seed: int) -> State:
        """The state before step 0, in the first stage."""
        return self._on_device(0, states.initial(self._programs[0], seed))

    def enter(self, state: State, stage: int) -> State:
        """The same parameters with a fresh optimizer of stage number `stage`, in its precision."""
        kept = {group: jax.tree.map(fetch, state.arrays[group]) for group in ("params", "aux", "constants")}
        return self._on_device(stage, states.entered(self._program(stage), kept))

    def step(self, state: State, n: int, knobs: NDArray[np.float64], feed: Feed, step: int) -> tuple[State, Steps]:
        """n optimizer steps from global step `step` in one dispatch; `knobs` is [n, columns]."""
        program, capacity = self._programs[state.stage], self._settings.capacity
        if not 0 < n <= capacity or knobs.shape != (n, len(program.columns)):
            raise ValueError(
                f"step: n = {n} with knobs {knobs.shape}; this stage takes at most {capacity} steps at a time, each "
                f"with a row of {len(program.columns)} knobs: {', '.join(program.columns)}"
            )
        draw, fixed, stacked = self._holder.take(feed, step, n, capacity, program.dtype)
        table = np.zeros((capacity, len(program.columns)))
        table[:n] = knobs
        # Only line searches compare samples; a hash per step would be a tenth of a small first-order step.
        stamps = _stamps(draw, step, n, capacity) if program.stage is not None else np.zeros(capacity)
        given = [*map(self._given, (np.int64(n), table, stamps, np.int64(self._settings.seed), np.int64(step)))]
        with self._mode():
            arrays, rows = STEPS(program, state.arrays, *given[:2], fixed, stacked, *given[2:])
        return State(state.stage, arrays), _steps({name: fetch(v) for name, v in rows.items()}, n, program.readings)

    # --- readings ---
    def evaluate(self, state: State, batches: Batches) -> dict[str, float]:
        """Mean of every term over the batches, in the order of the task's terms."""
        reader = self._readers[state.stage]
        samples = local(batches, reader.dtype, self._device)
        with self._mode():
            found = EVALUATE(reader, self._own(state), samples)
        return {t.name: float(found[t.name]) for t in self._task.terms if t.name in found}

    def candidates(self, state: State, batch: str, columns: Columns) -> dict[str, NDArray[np.float64]]:
        """|value| per sample of each trained term of one batch."""
        reader = self._readers[state.stage]
        samples = local({batch: columns}, reader.dtype, self._device)[batch]
        with self._mode():
            found = CANDIDATES(reader, self._own(state), batch, samples)
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def predict(self, state: State, names: Sequence[str], columns: Columns) -> dict[str, NDArray[np.float64]]:
        """Outputs at the samples."""
        reader, count = self._readers[state.stage], len(next(iter(columns.values())))
        params, pieces = self._own(state), []
        for rows in _pieces(count):
            samples = local({"": {k: np.asarray(v)[rows] for k, v in columns.items()}}, reader.dtype, self._device)[""]
            with self._mode():
                pieces.append(PREDICT(reader, params, tuple(names), samples))
        return {
            name: np.concatenate([np.asarray(piece[name], np.float64) for piece in pieces])[:count] for name in names
        }

    def probe(
        self, state: State, what: frozenset[str], feed: Feed, step: int, knobs: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Any of `losses`, `grad_…`, `gram`, `gradient` and `ntk/<n>` on the samples of `step`; `knobs` is one row."""
        program = self._programs[state.stage]
        _, fixed, stacked = self._holder.take(feed, step, 1, 1, program.dtype)
        kernels = kernel_samples(what)
        row = dict(zip(program.columns, np.asarray(knobs, np.float64).reshape(-1), strict=True))
        weights, constants = (
            {k.removeprefix(prefix): self._put(v) for k, v in row.items() if k.startswith(prefix)}
            for prefix in ("weight/", "task/")
        )
        with self._mode():
            found = PROBE(
                self._probes[state.stage],
                {group: state.arrays[group] for group in ("params", "aux")},
                weights,
                constants,
                fixed,
                stacked,
                *map(self._put, (np.int64(self._settings.seed), np.int64(step))),
                kernels=tuple(kernels.items()),
                gradients=any(not name.startswith((CURVATURE, ROWS)) for name in what - set(kernels)),
                curvatures=curved(what),
            )
        return {name: fetch(found[name]).astype(np.float64) for name in sorted(what)}

    # --- out and in ---
    def aux(self, state: State) -> dict[str, NDArray[Any]]:
        """Host copies of the state without a gradient by name."""
        return {name: fetch(value) for name, value in state.arrays["aux"].items()}

    def with_aux(self, state: State, new: Mapping[str, NDArray[Any]]) -> State:
        """The state with other values of some of it."""
        old = state.arrays["aux"]
        put = {name: self._put(np.asarray(value).astype(old[name].dtype)) for name, value in new.items()}
        return State(state.stage, {**state.arrays, "aux": {**old, **put}})

    def parameters(self, state: State) -> dict[str, NDArray[Any]]:
        """Host copies of all parameters by name."""
        return {name: fetch(value) for name, value in state.arrays["params"].items()}

    def layout(self, state: State) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the trained parameters in the order of flat vectors."""
        free, _ = self._programs[state.stage].split(state.arrays["params"])
        return [(name, tuple(free[name].shape)) for name in sorted(free)]

    def arrays(self, state: State) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All state as host arrays, plus the stage and its precision."""
        program = self._programs[state.stage]
        host = states.named(program.kind, jax.tree.map(fetch, state.arrays))
        return host, {"stage": state.stage, "precision": program.precision}

    def load(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> State:
        """The opposite of `arrays`; strict."""
        stage = int(meta["stage"])
        return self._on_device(stage, states.restored(self._program(stage), arrays))

    def compiled(self, stage: int) -> bool:
        """Whether the steps of a stage run as machine code."""
        return self._programs[stage].compiled

    def compilations(self) -> dict[str, int]:
        """How often each function was compiled since this backend was built; 0 where another one had done it."""
        found: dict[str, int] = {}
        names = {p: f"step/{s.name}" for p, s in zip(self._programs, self._stages, strict=True)}
        for key, count in TRACED.items():
            program, function = key
            if program in names or program in self._probes or program in self._readers:
                name = names[program] if function == "step" else function
                found[name] = found.get(name, 0) + count - self._traced_before.get(key, 0)
        return found

    # --- the rest ---
    def _program(self, stage: int) -> Program:
        if not 0 <= stage < len(self._programs):
            raise UserError(
                f"checkpoint: it is from stage number {stage + 1}, and there are {len(self._programs)} stages"
            )
        return self._programs[stage]

    def _given(self, value: Any) -> Any:
        """A small argument of one dispatch: the call carries host arrays over, at an eighth of the cost of `put`."""
        return np.asarray(value) if self._world.size == 1 else self._put(value)

    def _put(self, value: Any) -> jax.Array:
        return put(np.asarray(value), self._world, self._device)

    def _on_device(self, stage: int, host: Tree) -> State:
        return State(stage, jax.tree.map(self._put, host))

    def _own(self, state: State) -> Tree:
        """This process's copies of what readings need."""
        return {group: jax.tree.map(own, state.arrays[group]) for group in ("params", "aux", "constants")}

    @contextmanager
    def _mode(self) -> Iterator[None]:
        # On a GPU, JAX would round the factors of float32 products to 10 bits.
        with jax.disable_jit(not self._programs[0].compiled), jax.default_matmul_precision("float32"):
            yield


def _steps(rows: Mapping[str, NDArray[Any]], n: int, readings: Sequence[str]) -> Steps:
    """Rows of the steps that were asked for. After the end of a quasi-Newton stage: the last losses again, no work."""
    done, ended = int(rows["done"]), int(rows["ended"])
    losses = rows["losses"][:n].astype(np.float64)
    losses[done:] = losses[done - 1]
    more = {name: rows[name][:n].copy() for name in readings}
    return Steps(losses, rows["ok"][:n].copy(), rows["evaluations"][:n].copy(), quasi.WHY[ended], more)


def _stamps(draw: Draw, step: int, n: int, capacity: int) -> NDArray[np.float64]:
    stamps = np.zeros(capacity)
    if draw.stacked:
        stamps[:n] = [samples_key(draw, step + i) for i in range(n)]
    else:
        stamps[:n] = samples_key(draw, step)
    return stamps


def _pieces(count: int) -> list[NDArray[np.intp]]:
    """Rows of each piece, all of one length: the last row is repeated at the end."""
    if count <= PIECE:
        return [np.arange(count)]
    whole = -(-count // PIECE) * PIECE
    return np.split(np.minimum(np.arange(whole), count - 1), whole // PIECE)
