"""The user's own callbacks, from a file or a package."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from backends.errors import UserError
from backends.spec import Leaf
from orchestrator.epoch_hooks import has_hooks
from orchestrator.hooks import METHODS, own_code


class CustomCallback(Leaf):
    """The user's own callback: a class with any of the methods of `orchestrator.hooks`."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["custom"] = "custom"
    target: str
    """`mine.py:Watch`, a file beside the experiment file, or `package.module:Watch`; other keys are its arguments."""

    def make(self, folder: Path) -> Any:
        """The user's object, built with the other keys as keyword arguments."""
        from backends.own.code import load

        factory: Any = load(self.target, folder)
        with own_code(getattr(factory, "__init__", factory), self.target):
            return factory(**(self.model_extra or {}))

    def check(self, folder: Path) -> None:
        """Load the target and see whether it takes these arguments. Raises UserError."""
        from backends.own.code import load

        factory: Any = load(self.target, folder)
        if not callable(factory):
            raise UserError(f"{self.target} is no class; a callback is a class with a method step(moment)")
        try:
            inspect.signature(factory).bind(**(self.model_extra or {}))
        except TypeError as error:
            raise UserError(f"{self.target} can't be made with the keys given here: {error}") from error
        except ValueError:
            return  # made in C: only the call itself can tell
        if isinstance(factory, type) and not any(hasattr(factory, m) for m in METHODS) and not has_hooks(factory):
            raise UserError(f"{self.target} has none of the methods {', '.join(METHODS)}; it would never be called")


def own_objects(objects: Sequence[Any]) -> dict[str, Any]:
    """Callbacks that a program passes to `run`, by names that a resumed run finds again. Raises UserError.

    Each has one of the methods of `orchestrator.hooks`; the name is that of its class, `Watch#2` for a second one.
    """
    made: dict[str, Any] = {}
    for given in objects:
        if isinstance(given, type):
            raise UserError(f"callbacks: {given.__name__} is a class; pass an object of it: {given.__name__}(…)")
        name = type(given).__name__
        if not any(callable(getattr(given, m, None)) for m in METHODS) and not has_hooks(given):
            raise UserError(f"callbacks: {name} has none of the methods {', '.join(METHODS)}; it would never be called")
        count = sum(1 for known in made if known.partition("#")[0] == name)
        made[f"{name}#{count + 1}" if count else name] = given
    return made
