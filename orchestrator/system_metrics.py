"""Readings of CPU, memory, disk, network and accelerators while a run trains, under MLflow's own names.

A thread writes them as lines of `system.jsonl`; the uploader sends them like any other metric, so the run's page
shows its tab "System metrics" although nothing here knows MLflow.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from orchestrator.jsonl import Lines, read_jsonl

Read = Callable[[], Mapping[str, float]]
_FIRST_S = 1.0
"""Seconds until the first reading, so that a short run has one as well."""


def machine(folder: Path) -> Read:
    """A function that reads this machine: utilisation in percent, sizes in megabytes (10^6 bytes).

    `folder` names the disk. Network traffic counts from now on. CPU utilisation is the mean since the last reading.
    """
    psutil.cpu_percent()  # the first answer means nothing
    before = _traffic()

    def read() -> dict[str, float]:
        memory, disk, now = psutil.virtual_memory(), psutil.disk_usage(str(folder)), _traffic()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system/system_memory_usage_percentage": round(100 * memory.used / memory.total, 1),
            "system/disk_usage_percentage": disk.percent,
            "system/disk_usage_megabytes": round(disk.used / 1e6, 1),
            "system/disk_available_megabytes": round(disk.free / 1e6, 1),
            "system/network_receive_megabytes": round((now[0] - before[0]) / 1e6, 3),
            "system/network_transmit_megabytes": round((now[1] - before[1]) / 1e6, 3),
        }

    return read


def _traffic() -> tuple[int, int]:
    """Bytes received and sent since the machine started; zeros where there is no network device."""
    counters = psutil.net_io_counters()
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def accelerators() -> Read | None:
    """A function that reads NVIDIA devices through NVML; None where there is no binding, driver or device."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None

    def read() -> dict[str, float]:
        found: dict[str, float] = {}
        for i, device in enumerate(devices):
            for reading in (_memory, _utilisation, _power):
                try:
                    values = reading(pynvml, device)
                except pynvml.NVMLError:  # a reading that this device does not have
                    continue
                found |= {f"system/gpu_{i}_{name}": round(value, 1) for name, value in values.items()}
        return found

    return read if devices else None


def _memory(nvml: Any, device: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    return {
        "memory_usage_percentage": 100 * memory.used / memory.total,
        "memory_usage_megabytes": memory.used / 1e6,
    }


def _utilisation(nvml: Any, device: Any) -> dict[str, float]:
    return {"utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(device).gpu}


def _power(nvml: Any, device: Any) -> dict[str, float]:
    watts = nvml.nvmlDeviceGetPowerUsage(device) / 1000
    limit = nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000
    return {"power_usage_watts": watts, "power_usage_percentage": 100 * watts / limit}


class SystemMetrics:
    """A thread that appends a reading to `file` every `every_s` seconds, between `with` and its end.

    Steps are running numbers and go on where an earlier attempt of the run stopped. A reading that can't be taken or
    written is left out: measuring never disturbs a run.
    """

    def __init__(self, file: Path, every_s: float = 10.0, *, reads: tuple[Read, ...] | None = None) -> None:
        self._lines, self._every_s = Lines(file), every_s
        if reads is None:
            devices = accelerators()
            reads = (machine(file.parent), *((devices,) if devices else ()))
        self._reads = reads
        self._step = _next_step(file)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="system metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _measure(self) -> None:
        wait = min(_FIRST_S, self._every_s)
        while not self._done.wait(wait):
            self._write()
            wait = self._every_s
        self._write()

    def _write(self) -> None:
        metrics: dict[str, float] = {}
        for read in self._reads:
            try:
                metrics |= read()
            except (OSError, psutil.Error):  # a disk or a counter that went away
                continue
        self._lines.append({"step": self._step, "time": time.time(), "metrics": metrics})
        self._step += 1


def _next_step(file: Path) -> int:
    """One more than the last step in `file`; 0 where it is new."""
    return max((int(record["step"]) for record in read_jsonl(file)[0] if "step" in record), default=-1) + 1
