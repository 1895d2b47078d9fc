"""Where tensors live: the device chosen once, threads set once, host arrays carried to it and back."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from backends.errors import UserError
from backends.spec import Precision

DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
HALVES: Mapping[str | None, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> str:
    """What "auto" ("cuda:0" where there is one, else "cpu") or "cuda" means. Raises UserError for what is not there."""
    if name == "cpu":
        return name
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if count else "cpu"
    kind, _, number = name.partition(":")
    if kind in ("cuda", "gpu") and (number == "" or number.isdecimal()):
        if int(number or 0) < count:
            return f"cuda:{int(number or 0)}"
        there = f"cuda:0 … cuda:{count - 1}" if count > 1 else "cuda:0" if count else "none"
        raise UserError(f"{name!r} is not on this machine; graphics devices that torch sees: {there}", path="device")
    raise UserError(f"the torch backend knows no device {name!r}; allowed: auto, cpu, cuda, cuda:0, …", path="device")


def room(device: str) -> float:
    """Bytes of memory of a device; infinite for a CPU."""
    return float(torch.cuda.get_device_properties(device).total_memory) if device.startswith("cuda") else math.inf


def slow_half(compute: str | None, device: str) -> str:
    """What to say of a half precision that this processor computes by way of float32; empty where it is fast."""
    if compute is None or device != "cpu":
        return ""
    asked = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[compute]
    known = getattr(torch.ops.mkldnn, asked, None)
    if known is None or known():
        return ""
    return (
        f"compute: {compute} is emulated on this CPU: products take several times as long as in float32 (measured: 6); "
        "it saves memory, but no time"
    )


def versions() -> dict[str, str]:
    """Versions of the packages whose numbers these are."""
    found = {"torch": str(torch.__version__), "numpy": np.__version__}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found


def set_threads() -> None:
    """As many threads as OMP_NUM_THREADS says, where it says so (it may have been set after torch was imported)."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0 and torch.get_num_threads() != int(asked):
        torch.set_num_threads(int(asked))


def put(array: NDArray[np.generic], dtype: torch.dtype, device: str) -> torch.Tensor:
    """A tensor of its own with the values of a host array: floats in `dtype`, integers int64, flags bool."""
    host = np.asarray(array)
    kind = dtype if host.dtype.kind == "f" else torch.bool if host.dtype.kind == "b" else torch.int64
    # torch.tensor copies: neither side may ever write into the other's memory.
    return torch.tensor(host, dtype=kind, device=device)


def fetch(tensor: torch.Tensor) -> NDArray[np.generic]:
    """A host array of its own with the values of a tensor."""
    return np.array(tensor.detach().cpu().numpy(), copy=True)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that code makes from nothing (`torch.zeros(3)` in a user's module) get this type meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def own_generator(device: torch.device) -> Iterator[None]:
    """Leaves torch's generator, whose numbers belong to the user, as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
