"""Training backends: the ground floor that knows no framework, and one folder per framework on top of it.

`load("jax")` imports a backend by name at run time, so that nothing above has a static edge to a framework.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from backends.errors import MissingBackend, UserError, nearest

__all__ = ["NAMES", "load"]

NAMES = ("jax", "torch")
"""The backends of this package; anything else that follows `backends.protocol` can be imported by its own name."""
_PACKAGES = {"jax": ("jax", "jaxlib", "optax"), "torch": ("torch",)}


def load(name: str) -> ModuleType:
    """The backend called `name`, a module that follows `backends.protocol`. Imports its framework.

    Raises UserError for an unknown name, MissingBackend where a package is not installed.
    """
    if name not in NAMES:
        raise UserError(f"there is no backend {name!r}{nearest(name, NAMES)}", path="backend")
    try:
        return importlib.import_module(f"backends.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PACKAGES[name]:
            raise
        raise MissingBackend(
            f"the backend {name!r} needs the package {missing!r}, which is not installed; install it with "
            f'pip install "orchestrator[{name}]" (in a checkout: pip install -e ".[{name}]"), or choose another backend '
            f"({', '.join(n for n in NAMES if n != name)})",
            path="backend",
        ) from error
