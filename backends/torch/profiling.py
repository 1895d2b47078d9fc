"""What torch says about time and memory: traces of its profiler, memory of its devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile


def profile(folder: Path) -> Callable[[], None]:
    """Start the profiler; the function returned stops it and writes `trace.json` into `folder`."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    running = torch_profile(activities=activities)
    running.start()

    def stop() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        running.stop()
        running.export_chrome_trace(str(folder / "trace.json"))

    return stop


def memory(device: str) -> dict[str, float]:
    """Bytes of the device that tensors hold: `in_use` now, `peak` at most; empty for a CPU, whose memory is the
    process's."""
    if not device.startswith("cuda"):
        return {}
    return {
        "in_use": float(torch.cuda.memory_allocated(device)),
        "peak": float(torch.cuda.max_memory_allocated(device)),
    }
