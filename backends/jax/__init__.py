"""The JAX backend (`backends.protocol`). Importing it turns on 64-bit numbers: the flag belongs to the process."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from backends.jax.devices import resolve_device, versions
from backends.jax.distributed import agree, join, leave
from backends.jax.engine import JaxBackend, State
from backends.jax.modules import adapt
from backends.jax.own_model import evaluating, own_model, randomness
from backends.jax.profiling import memory, profile
from backends.protocol import Settings
from backends.stages import Stage
from backends.task import Task

__all__ = [
    "JaxBackend",
    "State",
    "adapt",
    "agree",
    "build",
    "evaluating",
    "join",
    "leave",
    "memory",
    "own_model",
    "profile",
    "randomness",
    "resolve_device",
    "versions",
]

jax.config.update("jax_enable_x64", True)


def build(task: Task, stages: Sequence[Stage], settings: Settings) -> JaxBackend:
    """Compiled functions for one task; nothing is compiled before it is called."""
    return JaxBackend(task, stages, settings)
