"""The torch backend: `backends.protocol.Backend` for one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.errors import UserError
from backends.groups import Grouping, check_stages
from backends.protocol import (
    Settings,
    Steps,
    columns_of,
    drawn,
    precision_of,
    samples_key,
)
from backends.randomness import generator
from backends.scaling import SCALE, SKIPPED
from backends.stages import FIRST_ORDER, SECOND_ORDER, SsBroyden, Stage
from backends.stages.custom import STATE, CustomOptimizer, refuse_foreign
from backends.task import Batches, Columns, Feed, Task, trained_terms
from backends.torch import own_optimizer, quasi_newton
from backends.torch.device import DTYPES, HALVES, fetch, put, set_threads, slow_half
from backends.torch.layout import Layout
from backends.torch.objective import Objective, Row
from backends.torch.program import Program
from backends.torch.readings import Readings
from backends.torch.samples import Batch, Holder
from backends.torch.state import Arrays, Format, State, converted
from backends.torch.statistics import measured
from backends.torch.tracing import Functions
from backends.torch.update import Update
from backends.weighting import uncertainty

COMPILE_S = 4.0
"""What a compilation costs, in seconds: `compile: auto` compiles a stage that gains more."""
PROBES = 0.02
"""Probes of a stage per step, about: adaptive weights ask every 100 steps, and a probe costs more than a step."""
CALL_GAIN_S, NUMBER_GAIN_S, MATRIX_GAIN_S = 1e-3, 2.5e-8, 5e-9
"""What compiling gains: per evaluation, per number of a layer in it, and per number of a dense inverse Hessian.

Measured on one core: Adam, 3 x 20, 4000 points 6.7 -> 2 ms per step; ssbroyden, 2000 points 13.0 -> 3.7 per iteration.
"""


class TorchBackend:
    """One task's functions, recorded when they are first called."""

    name = "torch"

    def __init__(self, task: Task, stages: Sequence[Stage], settings: Settings) -> None:
        set_threads()
        task = uncertainty.beside(task, settings.trained_weights)
        self.task, self.stages, self.settings = task, tuple(stages), settings
        self._holder = Holder(task, settings.world, settings.device, settings.accumulate)
        self._programs: dict[int, Program] = {}
        self._terms = trained_terms(task.terms)
        check_stages(settings.groups, self.stages, task.terms)
        for note in {slow_half(getattr(s, "compute", None), settings.device) for s in self.stages} - {""}:
            settings.warn(note)

    # --- states ---

    def init(self, seed: int) -> State:
        return self._fresh(0, self.task.init(generator(seed, "init")))

    def enter(self, state: State, stage: int) -> State:
        dtype = self._dtype(stage)
        x = state.x.to(dtype, copy=True)
        frozen, aux = converted(state.frozen, dtype), converted(state.aux, dtype)
        return State(stage, x, frozen, aux, self._optimizer(stage, x), state.constants.clone())

    def arrays(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        precision = precision_of(self.stages[state.stage], None)
        return self._format(state.stage).arrays(state), {"stage": state.stage, "precision": precision}

    def load(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> State:
        stage = meta.get("stage")
        if not isinstance(stage, int) or not 0 <= stage < len(self.stages):
            raise UserError(
                f"the checkpoint was written in stage number {stage!r}; this experiment has {len(self.stages)}, "
                "counted from 0"
            )
        refuse_foreign(arrays, "torch")
        kept = {k.removeprefix(STATE): v for k, v in arrays.items() if k.startswith(STATE)}
        rest = {k: v for k, v in arrays.items() if not k.startswith(STATE)}
        state = self._format(stage).load(rest, self._fresh(stage, self._template))
        state.optimizer |= {k: torch.tensor(np.asarray(v)) for k, v in kept.items()}
        return state

    def aux(self, state: State) -> dict[str, NDArray[Any]]:
        return {name: fetch(value) for name, value in state.aux.items()}

    def with_aux(self, state: State, new: Mapping[str, NDArray[Any]]) -> State:
        for name, value in new.items():
            old = state.aux[name]
            old.copy_(put(np.asarray(value), old.dtype, str(old.device)))
        return state

    def parameters(self, state: State) -> dict[str, NDArray[Any]]:
        trained = self._layout.arrays(fetch(state.x))
        return trained | {name: fetch(value) for name, value in state.frozen.items()}

    def layout(self, state: State) -> list[tuple[str, tuple[int, ...]]]:
        return list(self._layout.entries)

    # --- training ---

    def step(self, state: State, n: int, knobs: NDArray[np.float64], feed: Feed, step: int) -> tuple[State, Steps]:
        draw = drawn(feed, step, n, self.settings.accumulate)
        batches = self._holder.batches(feed, draw, n, state.dtype)
        program = self._program(state.stage, batches)
        row = program.objective.row
        if isinstance(self.stages[state.stage], SECOND_ORDER):
            # A line search compares losses of one sample: its noise changes with the samples, not with the step.
            stamps = [samples_key(draw, step + i) for i in range(n)]
            return state, quasi_newton.iterate(program, state, batches, self._rows(row, knobs[:n], stamps), stamps)
        rows = self._rows(row, knobs[:n], range(step, step + n))
        own = self.settings.optimizers.get(self.stages[state.stage].name)
        if own is not None:
            return state, own_optimizer.train(program, own, state, batches, rows)
        return state, Reported(program.train(state, batches, rows), program.update.scaled)

    def probe(
        self, state: State, what: frozenset[str], feed: Feed, step: int, knobs: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        draw = drawn(feed, step, 1, self.settings.accumulate)
        batches = self._holder.batches(feed, draw, 1, state.dtype)
        program = self._program(state.stage, batches)
        count = samples_key(draw, step) if isinstance(self.stages[state.stage], SECOND_ORDER) else step
        (row,) = torch.unbind(self._rows(program.objective.row, np.atleast_2d(knobs), [count]), 0)
        return measured(program, state, batches, row, what)

    # --- readings ---

    def evaluate(self, state: State, batches: Batches) -> dict[str, float]:
        return self._readings.evaluate(state, batches)

    def candidates(self, state: State, batch: str, columns: Columns) -> dict[str, NDArray[np.float64]]:
        return self._readings.candidates(state, batch, columns)

    def predict(self, state: State, names: Sequence[str], columns: Columns) -> dict[str, NDArray[np.float64]]:
        return self._readings.predict(state, names, columns)

    def compiled(self, stage: int) -> bool | None:
        """Whether the steps of a stage run as machine code; None before its first step."""
        return self._programs[stage].compiled if stage in self._programs else None

    def compilations(self) -> dict[str, int]:
        return dict(self._functions.counts)

    # --- parts, made on first use ---

    @cached_property
    def _template(self) -> dict[str, NDArray[np.float64]]:
        """Parameters whose names and shapes count, not their values; making them also makes a user's own module."""
        return self.task.init(generator(self.settings.seed, "init"))

    @cached_property
    def _layout(self) -> Layout:
        return Layout.of(self._template, self._grouping.frozen)

    @cached_property
    def _grouping(self) -> Grouping:
        groups = self.settings.groups
        return Grouping.of(groups, self._template if groups else (), self.task.terms)

    @cached_property
    def _functions(self) -> Functions:
        signature, s = getattr(self.task, "signature", None), self.settings
        shared = None if signature is None else (
            type(self.task), signature, self._layout, self._grouping, s.world.size, s.device, s.accumulate, s.remat
        )  # fmt: skip
        return Functions(s.warn, shared, s.remat)

    @cached_property
    def _readings(self) -> Readings:
        s = self.settings
        return Readings(self.task, self._layout, self._functions, s.device, s.seed, s.compile == "always")

    def _dtype(self, stage: int) -> torch.dtype:
        return DTYPES[precision_of(self.stages[stage], None)]

    def _format(self, stage: int) -> Format:
        chosen = self.stages[stage]
        by_parameter = isinstance(chosen, FIRST_ORDER)
        return Format(chosen.kind, self._layout, tuple(self.task.constants), by_parameter)

    def _fresh(self, stage: int, params: Mapping[str, NDArray[np.float64]]) -> State:
        dtype, device = self._dtype(stage), self.settings.device
        x = put(self._layout.flat(params).astype(np.float64), dtype, device)
        frozen = {
            name: put(np.asarray(v, np.float64), dtype, device)
            for name, v in params.items()
            if not self._grouping.free(name)
        }
        aux = {name: put(np.asarray(v), dtype, device) for name, v in self.task.aux().items()}
        constants = put(np.array(list(self.task.constants.values()), np.float64), torch.float64, device)
        return State(stage, x, frozen, aux, self._optimizer(stage, x), constants)

    def _optimizer(self, stage: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
        chosen = self.stages[stage]
        if isinstance(chosen, CustomOptimizer):
            return {}
        if isinstance(chosen, FIRST_ORDER):
            return Update(chosen, self._layout, self._grouping).init(x)
        return quasi_newton.init(chosen, x, len(self._terms), len(self.task.constants))

    def _program(self, stage: int, batches: Sequence[Batch]) -> Program:
        if stage not in self._programs:
            chosen, s = self.stages[stage], self.settings
            row = Row(columns_of(chosen, self.task, s.clip, s.groups, s.noise))
            reaches = tuple(self._grouping.reach(t) for t in self._terms)
            compute = HALVES.get(getattr(chosen, "compute", None))
            own = bool(s.trained_weights) and hasattr(chosen, "lr")
            objective = Objective(self.task, self._terms, self._layout, row, s.world, reaches, compute, s.remat, own)
            gain = {"always": np.inf, "never": 0.0, "auto": self._gain_s(chosen, batches)}[s.compile]
            self._programs[stage] = Program(
                chosen,
                objective,
                self._functions,
                self._dtype(stage),
                s.seed,
                self._grouping,
                compiled=gain > COMPILE_S,
                probes_compiled=gain * PROBES > COMPILE_S,
                process=s.process,
            )
        return self._programs[stage]

    def _gain_s(self, stage: Stage, batches: Sequence[Batch]) -> float:
        """Seconds that compiling saves. A function of the file alone, so that a resumed run decides alike."""
        numbers = sum(b.samples * self.task.width(b.name) for b in batches)
        matrix = self._layout.size**2 if isinstance(stage, SsBroyden) else 0
        return stage.steps * (CALL_GAIN_S + NUMBER_GAIN_S * numbers + MATRIX_GAIN_S * matrix)

    def _rows(self, row: Row, knobs: NDArray[np.float64], steps: Sequence[float]) -> torch.Tensor:
        """The knob table with the number behind it that keys the noise of each step, [n, width] float64."""
        table = np.zeros((len(knobs), row.width))
        table[:, : len(row.names)] = knobs
        table[:, len(row.names)] = steps
        return put(table, torch.float64, self.settings.device)


class Reported(Steps):
    """What first-order steps report, fetched from the device when it is first asked for."""

    def __init__(self, rows: torch.Tensor, scaled: bool = False) -> None:
        object.__setattr__(self, "_device_rows", rows)
        object.__setattr__(self, "_more", (SCALE, SKIPPED) if scaled else ())
        object.__setattr__(self, "evaluations", np.ones(len(rows), np.int64))

    @cached_property
    def _rows(self) -> NDArray[np.float64]:
        return fetch(self.__dict__["_device_rows"]).astype(np.float64)

    @cached_property
    def losses(self) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n, terms]"""
        return self._rows[:, : self._rows.shape[1] - 1 - len(self.__dict__["_more"])]

    @cached_property
    def ok(self) -> NDArray[np.bool_]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n]"""
        return self._rows[:, self.losses.shape[1]] != 0

    @cached_property
    def readings(self) -> dict[str, NDArray[np.float64]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[n] each"""
        first = self.losses.shape[1] + 1
        return {name: self._rows[:, first + i] for i, name in enumerate(self.__dict__["_more"])}
