"""What ships: every task with its terms and settings, read off the models themselves."""

from __future__ import annotations

import typing
from typing import Any

from backends.pde.problem import Problem
from backends.tasks import TaskUnion


def catalogue() -> list[dict[str, Any]]:
    """One entry per task kind: kind, what it is, terms, settings with their defaults."""
    union = typing.get_args(TaskUnion)[0]
    return [_entry(task) for task in typing.get_args(union)]


def _entry(task: Any) -> dict[str, Any]:
    fields = {k: f for k, f in task.model_fields.items() if k != "kind"}
    problem = issubclass(task, Problem)
    return {
        "kind": task.model_fields["kind"].default,
        "what": _sentence(task.__doc__ or ""),
        "terms": list(task.declared()) if problem else list(task.term_names),
        "settings": {k: (None if f.is_required() else f.get_default()) for k, f in fields.items()},
        "reference": problem and task.has_solution(),
    }


def _sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
