"""The torch backend: graphs recorded from autograd, compiled by inductor where the run is long enough."""

from __future__ import annotations

from collections.abc import Sequence

from backends.protocol import Settings
from backends.stages import Stage
from backends.task import Task
from backends.torch.device import resolve_device, versions
from backends.torch.engine import TorchBackend
from backends.torch.modules import adapt
from backends.torch.own_model import evaluating, own_model, randomness
from backends.torch.process_group import agree, join, leave
from backends.torch.profiling import memory, profile

__all__ = [
    "TorchBackend",
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


def build(task: Task, stages: Sequence[Stage], settings: Settings) -> TorchBackend:
    """The backend of one task; nothing is computed yet."""
    return TorchBackend(task, stages, settings)
