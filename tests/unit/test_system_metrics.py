"""System metrics: MLflow's own names, one line per reading, and never a disturbance of the run."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import system_metrics
from orchestrator.system_metrics import SystemMetrics, accelerators, machine


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_names_are_those_of_mlflows_own_monitors(tmp_path: Path):
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert set(machine(tmp_path)()) == theirs


def test_readings_are_written_until_the_end_with_running_steps(tmp_path: Path):
    file, enough = tmp_path / "system.jsonl", threading.Event()
    count = iter(range(1000))

    def read():
        if (number := next(count)) == 3:
            enough.set()
        return {"system/number": number}

    with SystemMetrics(file, every_s=1e-3, reads=(read,)):
        assert enough.wait(30)
    written = lines(file)
    assert [line["step"] for line in written] == list(range(len(written)))
    assert [line["metrics"]["system/number"] for line in written] == list(range(len(written)))
    assert len(written) >= 4


def test_a_run_shorter_than_the_interval_has_a_reading_too(tmp_path: Path):
    with SystemMetrics(tmp_path / "system.jsonl", every_s=3600):
        pass
    (line,) = lines(tmp_path / "system.jsonl")
    assert line["metrics"]["system/system_memory_usage_megabytes"] > 0 and line["time"] > 1e9


def test_a_resumed_run_goes_on_counting_even_after_a_torn_line(tmp_path: Path):
    file = tmp_path / "system.jsonl"
    file.write_text('{"step": 6, "time": 1, "metrics": {}}\n{"step": 7, "ti')
    with SystemMetrics(file, every_s=3600, reads=()):
        pass
    assert json.loads(file.read_text().splitlines()[-1])["step"] == 7


def test_a_failing_reading_leaves_the_others_alone(tmp_path: Path):
    def broken():
        raise OSError("the disk went away")

    with SystemMetrics(tmp_path / "system.jsonl", every_s=3600, reads=(broken, lambda: {"system/x": 1.0})):
        pass
    assert lines(tmp_path / "system.jsonl")[0]["metrics"] == {"system/x": 1.0}


def test_a_folder_that_vanished_is_no_reason_to_fail(tmp_path: Path):
    with SystemMetrics(tmp_path / "gone" / "system.jsonl", every_s=3600, reads=(lambda: {"system/x": 1.0},)):
        pass


class Nvml(SimpleNamespace):
    """A binding with two devices, of which the second does not tell its power."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self): ...
    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, i):
        return i

    def nvmlDeviceGetMemoryInfo(self, i):
        return SimpleNamespace(used=2e9, total=8e9)

    def nvmlDeviceGetUtilizationRates(self, i):
        return SimpleNamespace(gpu=40 + i)

    def nvmlDeviceGetPowerUsage(self, i):
        if i:
            raise self.NVMLError
        return 150_000

    def nvmlDeviceGetEnforcedPowerLimit(self, i):
        return 600_000


def test_accelerators_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    read = accelerators()
    assert read is not None
    found = read()
    assert found["system/gpu_0_memory_usage_percentage"] == 25 and found["system/gpu_1_utilization_percentage"] == 41
    assert found["system/gpu_0_power_usage_watts"] == 150 and found["system/gpu_0_power_usage_percentage"] == 25
    assert "system/gpu_1_power_usage_watts" not in found


def test_without_binding_or_driver_there_are_no_accelerators(monkeypatch: pytest.MonkeyPatch):
    class Driverless(Nvml):
        def nvmlInit(self):
            raise self.NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", Driverless())
    assert system_metrics.accelerators() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert system_metrics.accelerators() is None
