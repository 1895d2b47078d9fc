"""Which device JAX trains on, and which packages do it."""

from __future__ import annotations

import math
import re
from importlib import metadata
from typing import Any

import jax

from backends.errors import UserError

_NAMES = re.compile(r"(auto|cpu|gpu|cuda)(?::(\d+))?")


def resolve_device(name: str) -> str:
    """ "auto" -> "cuda:0" where there is a GPU, else "cpu". Raises UserError where the device is not there."""
    match = _NAMES.fullmatch(name)
    if not match or (match[2] and match[1] in ("auto", "cpu")):
        raise UserError(f"{name!r} is no device; allowed: auto, cpu, cuda, cuda:<number>", path="device")
    if match[1] == "cpu":
        return "cpu"
    count = _gpus()
    if match[1] == "auto":
        return "cuda:0" if count else "cpu"
    number = int(match[2] or 0)
    if number >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "no GPU (is the CUDA plugin of jax installed?)"
        raise UserError(f"{name!r} is not here: JAX sees {there}; use `device: auto` or `device: cpu`", path="device")
    return f"cuda:{number}"


def device_of(name: str) -> Any:
    """The device of a resolved name, among those of this process."""
    kind, _, number = name.partition(":")
    return jax.local_devices(backend="cpu" if kind == "cpu" else "gpu")[int(number or 0)]


def room(platform: str) -> float:
    """Bytes of memory that this process may use on a device of this kind; infinite for a CPU."""
    if platform == "cpu":
        return math.inf
    stats = jax.local_devices(backend="gpu")[0].memory_stats() or {}
    return float(stats.get("bytes_limit", math.inf))


def versions() -> dict[str, str]:
    """Package versions, for provenance."""
    found = {}
    for package in ("jax", "jaxlib", "optax", "flax", "equinox", "jax-cuda12-plugin", "jax-cuda13-plugin"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> int:
    try:
        return len(jax.local_devices(backend="gpu"))
    except RuntimeError:
        return 0
