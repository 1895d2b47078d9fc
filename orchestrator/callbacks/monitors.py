"""What a run costs and how fast it moves: rates and momentum, samples per second, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backends.periods import Period
from backends.spec import Leaf
from orchestrator.hooks import Ask, Moment, Surroundings, Work
from orchestrator.timeline import due

MIB = 2.0**20
MOMENTA = ("momentum", "b1")
"""Knobs that are a momentum, under one name: `momentum`."""


class LrMonitor(Leaf):
    """Record the learning rate of every group at a period of its own.

    The rate is always a curve (`lr`, every `tracking.every` steps); this is for a denser one, and for momentum.
    """

    kind: Literal["lr_monitor"] = "lr_monitor"
    every: Period = 10
    """Optimizer steps (or `1 epoch`) between readings."""
    momentum: bool = False
    """Record `momentum` (or `b1` of the Adam family) as well."""
    weight_decay: bool = False
    """Record `weight_decay` as well."""

    def make(self, folder: Path) -> WatchesRates:
        """The callback itself."""
        return WatchesRates(self)


class WatchesRates:
    """The behaviour of `lr_monitor`."""

    def __init__(self, spec: LrMonitor) -> None:
        self.spec, self.every = spec, spec.every

    def step(self, moment: Moment) -> Ask | None:
        """The knobs of the step just done."""
        if not due(moment.step, self.every):
            return None
        found = {k: v for k, v in moment.knobs.items() if k == "lr" or k.startswith("lr/")}
        if self.spec.momentum:
            known = [moment.knobs[k] for k in MOMENTA if k in moment.knobs]
            found |= {"momentum": known[0]} if known else {}
        if self.spec.weight_decay and "weight_decay" in moment.knobs:
            found["weight_decay"] = moment.knobs["weight_decay"]
        return Ask(metrics=found)


class Throughput(Leaf):
    """Record `time/steps_per_s`, `time/samples_per_s` and `time/data_wait`, the share of time that steps wait for data.

    Samples are those of all workers.
    """

    kind: Literal["throughput"] = "throughput"
    every: Period = 100
    """Optimizer steps (or `1 epoch`) that are averaged over."""

    def make(self, folder: Path) -> MeasuresThroughput:
        """The callback itself."""
        return MeasuresThroughput(self)


class MeasuresThroughput:
    """The behaviour of `throughput`. Compilation is part of the first reading."""

    def __init__(self, spec: Throughput) -> None:
        self.every, self.steps, self.work = spec.every, 0, Work()

    def step(self, moment: Moment) -> Ask | None:
        """Add up, and report where due."""
        self.steps, self.work = self.steps + len(moment.losses), self.work + moment.work
        if not due(moment.step, self.every) or not self.work.seconds:
            return None
        steps, work, self.steps, self.work = self.steps, self.work, 0, Work()
        return Ask(
            metrics={
                "time/steps_per_s": steps / work.seconds,
                "time/samples_per_s": work.samples / work.seconds,
                "time/data_wait": min(work.waited_s / work.seconds, 1.0),
            }
        )


class Memory(Leaf):
    """Record memory in MiB: `memory/process`, `memory/process_peak`, and of an accelerator `memory/device(_peak)`."""

    kind: Literal["memory"] = "memory"
    every: Period = 100
    """Optimizer steps (or `1 epoch`) between readings."""

    def make(self, folder: Path) -> MeasuresMemory:
        """The callback itself."""
        return MeasuresMemory(self)


class MeasuresMemory:
    """The behaviour of `memory`."""

    def __init__(self, spec: Memory) -> None:
        self.every = spec.every
        self.around: Surroundings | None = None

    def attach(self, around: Surroundings) -> None:
        """Learn on which device the run trains."""
        self.around = around

    def step(self, moment: Moment) -> Ask | None:
        """Read, where due."""
        if not due(moment.step, self.every):
            return None
        device: Mapping[str, float] = {}
        if self.around is not None:
            device = self.around.module.memory(self.around.device)
        names: dict[str, Any] = {"in_use": "memory/device", "peak": "memory/device_peak"}
        return Ask(metrics={**process_memory(), **{names[k]: v / MIB for k, v in device.items()}})


def process_memory() -> dict[str, float]:
    """Resident memory of this process now and at most so far, in MiB."""
    import psutil

    unit = 1.0 if sys.platform == "darwin" else 1024.0  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    now = psutil.Process().memory_info().rss
    return {"memory/process": now / MIB, "memory/process_peak": max(peak, now) / MIB}
