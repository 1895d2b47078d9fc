"""From files, overrides or plain data to a checked `Experiment`: every mistake at once, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from backends.errors import ConfigError, Problem, UserError
from orchestrator.config import Experiment
from orchestrator.explain import explain
from orchestrator.merge import override, read_with_bases
from orchestrator.yaml_text import Document, Mark, dotted


@dataclass(frozen=True)
class Read:
    """An experiment with where each of its values was written."""

    experiment: Experiment
    document: Document
    text: str
    """The file as the user wrote it."""

    def blame(self, error: UserError) -> ConfigError:
        """A UserError that names a field, as a problem at that field's place."""
        if isinstance(error, ConfigError):
            return error
        mark = self.document.mark(_path(error.path, self.document.tree))
        return ConfigError([Problem(mark.file, mark.line, mark.column, error.path, str(error))])


def read_experiment(path: Path, overrides: Mapping[str, Any] | list[str] | None = None) -> Read:
    """Read an experiment file with what it extends and with overrides. Raises ConfigError."""
    document = read_with_bases(path)
    override(document, overrides or {}, Path.cwd())
    experiment = _validated(Experiment, document)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        text = ""
    return Read(experiment, document, text)


def _validated(model: type[Experiment], document: Document) -> Experiment:
    problems = list(document.problems)
    try:
        experiment = model.model_validate(document.tree)
    except ValidationError as error:
        problems += explain(error, model, document)
        raise ConfigError(problems) from None
    except RecursionError:
        raise ConfigError([Problem(document.mark(()).file, 1, 1, "", "nested too deeply")]) from None
    if problems:
        raise ConfigError(problems)
    return experiment


def validate(model: type[BaseModel], data: Mapping[str, Any], name: str) -> Any:
    """Check plain data from Python against a model, with the same messages (no lines)."""
    document = Document(dict(data), {(): Mark(name)})
    try:
        return model.model_validate(document.tree)
    except ValidationError as error:
        raise ConfigError(explain(error, model, document)) from None


def _path(path: str, tree: Any) -> tuple[str | int, ...]:
    """A dotted path as keys; numbers are list positions where there is a list."""
    out: list[str | int] = []
    node = tree
    parts = path.split(".") if path else []
    while parts:
        # Term names may hold dots or slashes: take the longest key that fits.
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if isinstance(node, dict) and key in node:
                node, parts = node[key], parts[end:]
                out.append(key)
                break
            if isinstance(node, list) and end == 1 and key.isdigit() and int(key) < len(node):
                node, parts = node[int(key)], parts[1:]
                out.append(int(key))
                break
        else:
            break
    return tuple(out)


__all__ = ["Read", "dotted", "read_experiment", "validate"]
