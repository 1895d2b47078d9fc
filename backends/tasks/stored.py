"""Reference solutions that take longer than a moment, kept as files: computed once per machine."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.environment import cache_folder
from backends.files import replace

Arrays = dict[str, NDArray[Any]]


def stored(name: str, arguments: Mapping[str, Any], compute: Callable[[], Arrays], *, version: int = 1) -> Arrays:
    """What `compute()` returns for these arguments: from the file of an earlier call, else computed and written.

    The file is `references/<name>-<hash>.npz` in the folder of compiled programs (ORCHESTRATOR_CACHE). One that can't
    be read is computed again; where nothing can be written, nothing is kept. `version`: of the solver, to be counted up
    when its results change.
    """
    text = repr((name, version, sorted(arguments.items())))
    path = cache_folder() / "references" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        found = compute()
    buffer = io.BytesIO()
    savez: Any = np.savez  # whose stubs take ** for allow_pickle
    savez(buffer, **found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, buffer.getvalue())
    except OSError:
        pass  # a read-only home: the next process computes it again
    return found
