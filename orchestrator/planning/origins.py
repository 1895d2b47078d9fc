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
    """`default` where the document has no such value; short forms (`pde: 4000`) are where their whole stands."""
    node: Any = read.document.tree
    for depth, part in enumerate(path):
        if part in (node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list | tuple) else ()):
            node = node[part]
        elif depth and not isinstance(node, Mapping | list | tuple) and node is not None:
            break  # a short form: this leaf was made of it, where nothing else could have been
        else:
            return "default"
    short = not isinstance(node, Mapping | list | tuple) and _is_default_of_short(path, node, read)
    return "default" if short else _shown(read, path)


def _is_default_of_short(path: Path_, node: Any, read: Read) -> bool:
    """A field beside the one that a short form gives (`points.pde.sampler` of `pde: 4000`)."""
    value: Any = read.experiment.tree()
    for part in path:
        value = value[part]
    given: Any = read.document.tree
    for part in path:
        if not isinstance(given, Mapping | list | tuple):
            return value != node
        given = given[part]  # type: ignore[index]
    return False


def _shown(read: Read, path: Path_) -> str:
    mark = read.document.mark(path)
    if not mark.line:
        return "python" if mark.file == "experiment" else mark.file
    file = Path(mark.file)
    return f"{os.path.relpath(file) if file.is_absolute() else mark.file}:{mark.line}"
