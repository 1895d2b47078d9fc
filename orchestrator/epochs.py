"""Epochs become steps: once, as soon as the data's length is known, so that everything after works in steps."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from backends.errors import ConfigError, UserError
from backends.periods import in_epochs
from backends.task import Task
from orchestrator.config import Experiment
from orchestrator.epoch_hooks import epoch_of
from orchestrator.explain import explain
from orchestrator.reader import Read, validate


def in_steps(experiment: Experiment, task: Task) -> Experiment:
    """The experiment with every length and period in steps.

    Raises UserError where the task has no epochs, ConfigError where the steps don't fit one another.
    """
    tree = _tree(experiment, task)
    return experiment if tree is None else validate(Experiment, tree, "experiment")


def counted(read: Read, task: Task) -> Read:
    """`in_steps` of an experiment that was read from a file: mistakes are blamed on their lines."""
    tree = _tree(read.experiment, task)
    if tree is None:
        return read
    try:
        return Read(Experiment.model_validate(tree), read.document, read.text)
    except ValidationError as error:
        raise ConfigError(explain(error, Experiment, read.document)) from None


def _tree(experiment: Experiment, task: Task) -> dict[str, Any] | None:
    """Plain data in which steps stand for epochs; None where there are no epochs."""
    found = in_epochs(experiment)
    if not found:
        return None
    length = epoch_of(task.feed(experiment.seed), experiment.accumulate)
    if length is None:
        path, epochs = next(iter(found.items()))
        kind = experiment.task.kind
        raise UserError(
            f"{str(epochs)!r}: the task {kind!r} draws points and has no data, of which an epoch would be one pass; "
            "give a number of steps",
            path=path,
        )
    tree = experiment.tree()
    for path, epochs in found.items():
        _put(tree, path.split("."), epochs.steps(length))
    return tree


def _put(tree: Any, keys: list[str], value: int) -> None:
    for key in keys[:-1]:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    tree[keys[-1]] = value
