"""Training backends: the ground floor that knows no framework, and one folder per framework on top of it.

`load("jax")` imports a backend by name at run time, so that nothing above has a static edge to a framework.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from backends.errors import MissingBackend, UserError, nearest

__all__ = ["NAMES", "installed", "load"]

NAMES = ("jax", "torch")
"""What `load` knows."""
_PACKAGES = {"jax": ("jax", "jaxlib", "optax"), "torch": ("torch",)}


def load(name: str) -> ModuleType:
    """The backend called `name`, a module that follows `backends.protocol`. Imports its framework.

    Raises UserError for an unknown name, MissingBackend where a package is not installed.
    """
    if name not in NAMES:
        raise UserError(f"there is no backend {name!r}{nearest(name, NAMES)}", path="backend")
    installed(name)
    return importlib.import_module(f"backends.{name}")


def installed(name: str) -> None:
    """Raise MissingBackend where a package of the backend is not installed; nothing is imported."""
    for package in _PACKAGES.get(name, ()):
        if importlib.util.find_spec(package) is None:
            raise MissingBackend(
                f"the backend {name!r} needs the package {package!r}, which is not installed; install it with "
                f'pip install "orchestrator[{name}]" (in a checkout: pip install -e ".[{name}]"), '
                f"or choose another backend ({', '.join(n for n in NAMES if n != name)})",
                path="backend",
            )
