"""Where each value of an experiment came from: which line of which file, an override, the environment, a default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.reader import Read
from orchestrator.yaml_text import Path_, dotted


@dataclass(frozen=True)
class Origin:
    """One resolved value."""

    path: str
    value: Any
    origin: str
    """`burgers.yaml:12`, `-s stages.warm.lr=1e-3`, `MLFLOW_TRACKING_URI`, `python`, or `default`."""


def origins(read: Read, decided: Mapping[str, tuple[Any, str]]) -> list[Origin]:
    """Every leaf of the resolved experiment in the order of the file format.

    `decided`: values that the environment or the machine decides, {path: (value, origin)}.
    """
    found = []
    for path, value in _leaves(read.experiment.tree(), ()):
        name = dotted(path)
        if name in decided:
            found.append(Origin(name, *decided[name]))
        else:
            found.append(Origin(name, value, _origin(read, path)))
    return found


def _leaves(tree: Any, path: Path_) -> list[tuple[Path_, Any]]:
    if isinstance(tree, Mapping) and tree:
        return [leaf for key, child in tree.items() for leaf in _leaves(child, (*path, str(key)))]
    if isinstance(tree, list | tuple) and any(isinstance(child, Mapping | list | tuple) for child in tree):
        return [leaf for i, child in enumerate(tree) for leaf in _leaves(child, (*path, i))]
    return [(path, tree)]


def _origin(read: Read, path: Path_) -> str:
    """`default` where the document has no such value. A short form (`pde: 4000`) is the origin of what it became."""
    given: Any = read.document.tree
    value: Any = read.experiment.tree()
    short = False
    for part in path:
        if not isinstance(given, Mapping | list | tuple):
            short = True
        elif _has(given, part):
            given = _child(given, part)
        else:
            return "default"
        value = _child(value, part)
    return "default" if short and given != value else _shown(read, path)


def _has(node: Any, part: str | int) -> bool:
    return part in node if isinstance(node, Mapping) else isinstance(part, int) and part < len(node)


def _child(node: Any, part: Any) -> Any:
    return node[part]


def _shown(read: Read, path: Path_) -> str:
    mark = read.document.mark(path)
    if not mark.line:
        return "python" if mark.file == "experiment" else mark.file
    file = Path(mark.file)
    return f"{os.path.relpath(file) if file.is_absolute() else mark.file}:{mark.line}"
