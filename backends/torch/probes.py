"""Inductor's probes of the processor, remembered from one process to the next.

In every process that compiles, inductor loads a library for each instruction set in a child process, to see whether it
crashes: 0.9 CPU-seconds of a start with a warm cache, for an answer that is always the same where that library lies in
this machine's cache already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def remember() -> None:
    """Ask only where no earlier process had the answer yes. Versions of torch without this probe stay as they are."""
    from torch._inductor.cpu_vec_isa import VecISA

    probe = getattr(VecISA, "_probe_load", None)
    if probe is not None:
        setattr(VecISA, "_probe_load", remembered(probe))  # noqa: B010 (a private name of torch)


def remembered(probe: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """The probe with its good answers kept in empty files beside the libraries."""

    def loads(isa: Any, library: str) -> bool:
        known = Path(f"{library}.loads")
        if known.exists():
            return True
        answer = probe(isa, library)
        if answer:
            known.touch()
        return answer

    return loads
