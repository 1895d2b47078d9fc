"""The context of the evaluation that runs, for a user's own module: `Network.apply` has no place for it.

A task calls `network.apply(ops, params, h)`; a module with buffers or dropout reads aux and key from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backends.task import Context

_PRESENT: ContextVar[Context | None] = ContextVar("present", default=None)


@contextmanager
def present(context: Context) -> Iterator[None]:
    """Everything called inside sees `context`."""
    token = _PRESENT.set(context)
    try:
        yield
    finally:
        _PRESENT.reset(token)


def now() -> Context:
    """The present context; an evaluation without aux where there is none."""
    return _PRESENT.get() or Context({}, training=False)
