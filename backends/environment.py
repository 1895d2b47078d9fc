"""Environment variables that a process needs before it imports a framework: threads, memory, caches, devices.

All of them are read once, when the framework or the C library starts, so they are set for a child process or a Ray
worker, never in a process that runs already. Measured effects stand beside the settings.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path

from backends import NAMES
from backends.errors import UserError, nearest

_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed blocks instead of returning them to the system after every step: up to 2.1x on a torch step."""
_FOR_EVER = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""Without these JAX keeps no program that compiled in under a second: most small networks."""


def environment(backend: str, cpus: int, device: str, gpus: float = 1.0) -> dict[str, str]:
    """Variables for a process that trains on `backend` with `cpus` cores.

    device: "auto", "cpu", "cuda", "gpu" or "cuda:1"; gpus: the share of one device that is this process's own.
    Raises UserError for an unknown backend.
    """
    if backend not in NAMES:
        raise UserError(f"there is no backend {backend!r}{nearest(backend, NAMES)}", path="backend")
    threads = str(max(1, int(cpus)))
    shared = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    accelerated = _accelerated(device)
    return shared | (_jax(threads, accelerated, gpus) if backend == "jax" else _torch())


def cache_folder() -> Path:
    """Where compiled programs are kept: ORCHESTRATOR_CACHE, else `orchestrator` in the user's cache folder."""
    own = os.environ.get("ORCHESTRATOR_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "orchestrator"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "orchestrator"


def _jax(threads: str, accelerated: bool, gpus: float) -> dict[str, str]:
    """XLA on a CPU takes its number of threads from NPROC, not from OMP_NUM_THREADS."""
    found = _FOR_EVER | {
        "NPROC": threads,
        "PJRT_NPROC": threads,
        "JAX_PLATFORMS": "cuda,cpu" if accelerated else "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder() / f"jax-{_version('jax')}-{_version('jaxlib')}-{_machine()}"),
    }
    if accelerated and gpus < 1:
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
    return found


def _torch() -> dict[str, str]:
    folder = cache_folder() / f"torch-{_version('torch')}-{_machine()}"
    allocator = _ALLOCATOR if sys.platform == "linux" else {}
    return allocator | {"TORCHINDUCTOR_CACHE_DIR": str(folder)}


def _accelerated(device: str) -> bool:
    """Whether the process will use a GPU. For "auto": where there is one, and JAX has its plugin."""
    if device == "auto":
        plugin = any(util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
        return plugin and any(Path("/dev").glob("nvidia[0-9]*"))
    return not device.startswith("cpu")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _machine() -> str:
    """Compiled programs use this processor's instructions: another processor must not find them."""
    described = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        described += "".join(sorted(x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))))
    return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()
