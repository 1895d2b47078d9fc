"""What JAX says about time and memory: traces of its profiler, memory of its devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from backends.jax.devices import device_of


def profile(folder: Path) -> Callable[[], None]:
    """Start the profiler; the function returned stops it, and the trace lies in `folder/plugins/profile/`."""
    jax.profiler.start_trace(str(folder))
    return jax.profiler.stop_trace


def memory(device: str) -> dict[str, float]:
    """Bytes of the device that arrays hold: `in_use` now, `peak` at most; empty for a CPU, whose memory is the
    process's."""
    stats = device_of(device).memory_stats() or {}
    names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use"}
    return {ours: float(stats[theirs]) for ours, theirs in names.items() if theirs in stats}
