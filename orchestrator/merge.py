"""Putting experiment files together: `extends`, `--set`, and paths relative to the file that names them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.errors import ConfigError, Problem, nearest
from orchestrator.yaml_text import Document, Mark, Path_, dotted, read_file, read_value

PATH_KEYS = ("target", "path")
"""Keys whose value names a file beside the file that it stands in."""


def read_with_bases(path: Path, shown: str | None = None, above: tuple[Path, ...] = ()) -> Document:
    """Read a file and what it extends; nearer files win, lists of named stages merge by name."""
    document = read_file(path, shown)
    name = shown or str(path)
    if not isinstance(document.tree, dict):
        kind = type(document.tree).__name__
        raise ConfigError([Problem(name, 1, 1, "", f"the top level must be a mapping (key: value), got a {kind}")])
    anchor(document.tree, path.parent)
    base = document.tree.pop("extends", None)
    if base is None:
        return document
    where = document.mark(("extends",))
    if not isinstance(base, str):
        raise ConfigError([Problem(where.file, where.line, where.column, "extends", "must be the path of one file")])
    target = (path.parent / base).resolve()
    if target in (*above, path.resolve()):
        raise ConfigError(
            [Problem(where.file, where.line, where.column, "extends", f"{base} extends this file in turn")]
        )
    try:
        below = read_with_bases(target, _shown(path, base, shown), (*above, path.resolve()))
    except ConfigError as error:
        if target.exists():
            raise
        message = f"there is no file {base!r} beside this one"
        raise ConfigError([Problem(where.file, where.line, where.column, "extends", message)]) from error
    merged = Document(None, dict(below.marks), [*below.problems, *document.problems])
    merged.tree = _merge(below.tree, document.tree, (), document, merged)
    merged.marks[()] = document.marks[()]
    return merged


def _shown(path: Path, base: str, shown: str | None) -> str:
    return str(Path(shown or path).parent / base)


def _merge(below: Any, above: Any, path: Path_, document: Document, merged: Document) -> Any:
    """`above` over `below`; a mapping of another `kind` replaces the old one whole."""
    if (
        isinstance(below, dict)
        and isinstance(above, dict)
        and below.get("kind") == above.get("kind", below.get("kind"))
    ):
        out = dict(below)
        for key, value in above.items():
            here = (*path, key)
            out[key] = (
                _merge(below[key], value, here, document, merged)
                if key in below
                else _take(value, here, here, document, merged)
            )
            merged.marks[here] = document.mark(here)
        return out
    if path == ("stages",) and isinstance(below, list) and isinstance(above, list):
        return _merge_stages(below, above, document, merged)
    return _take(above, path, path, document, merged)


def _merge_stages(below: list[Any], above: list[Any], document: Document, merged: Document) -> list[Any]:
    out = list(below)
    names = [_stage_name(s) for s in below]
    for i, stage in enumerate(above):
        name = _stage_name(stage)
        if name is not None and name in names:
            j = names.index(name)
            old = out[j]
            for key in stage:
                merged.marks[("stages", j, key)] = document.mark(("stages", i, key))
            out[j] = {**old, **stage} if stage.get("kind", old.get("kind")) == old.get("kind") else stage
        else:
            out.append(_take(stage, ("stages", i), ("stages", len(out)), document, merged))
            names.append(name)
    return out


def _stage_name(stage: Any) -> Any:
    return stage.get("name", stage.get("kind")) if isinstance(stage, dict) else None


def _take(value: Any, old: Path_, new: Path_, document: Document, merged: Document) -> Any:
    """A value of the nearer file, with its marks moved to where it lands."""
    for key, mark in list(document.marks.items()):
        if key[: len(old)] == old:
            merged.marks[(*new, *key[len(old) :])] = mark
    return value


def anchor(tree: Any, folder: Path) -> None:
    """Make file names in `target` and `path` independent of where the merged file ends up."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in PATH_KEYS and isinstance(value, str):
                tree[key] = anchored(key, value, folder)
            else:
                anchor(value, folder)
    elif isinstance(tree, list):
        for child in tree:
            anchor(child, folder)


def anchored(key: str, value: str, folder: Path) -> str:
    """`mine.py:Fisher` or a data file as a path from the current directory's root; module targets stay."""
    file, colon, name = value.rpartition(":") if key == "target" else (value, "", "")
    if (key == "target" and not file.endswith(".py")) or not file or "://" in file:
        return value
    return f"{folder.resolve() / file}{colon}{name}"


def override(document: Document, assignments: Mapping[str, Any] | list[str], folder: Path) -> None:
    """Apply `path=value` texts (or {path: value}) to the tree; stages are addressed by name or number."""
    pairs: list[tuple[str, Any, str]] = []
    for item in assignments:
        if isinstance(assignments, Mapping):
            pairs.append((item, assignments[item], f"-s {item}"))
            continue
        path, equals, text = item.partition("=")
        shown = f"-s {item}"
        if not equals or not path.strip():
            document.problems.append(Problem(shown, 0, 0, "", "must have the form path=value, say stages.warm.lr=1e-3"))
            continue
        try:
            pairs.append((path.strip(), read_value(text, shown), shown))
        except ConfigError as error:
            document.problems.extend(Problem(shown, 0, 0, path.strip(), p.message) for p in error.problems)
    for path, value, shown in pairs:
        problem = _assign(document, path, value, shown, folder)
        if problem:
            document.problems.append(Problem(shown, 0, 0, path, problem))


def _assign(document: Document, dotted_path: str, value: Any, shown: str, folder: Path) -> str | None:
    """Set one value; what is wrong with the path, or None."""
    node: Any = document.tree
    path: Path_ = ()
    if isinstance(value, dict | list):
        value = copy.deepcopy(value)
        anchor(value, folder)
    parts = dotted_path.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            index = _index(node, part)
            if index is None:
                names = [str(_stage_name(s)) for s in node if isinstance(s, dict)]
                return f"there is no entry {part!r} in {dotted(path)}{nearest(part, names)}"
            path = (*path, index)
            if last:
                node[index] = value
            else:
                node = node[index]
        elif isinstance(node, dict):
            path = (*path, part)
            if last:
                node[part] = anchored(part, value, folder) if part in PATH_KEYS and isinstance(value, str) else value
            else:
                if isinstance(node.get(part), int | float) and path[0] == "points":
                    node[part] = {"count": node[part]}  # the short form of a point set
                node = node.setdefault(part, {})
                if node is None:
                    return f"{dotted(path)} is null here; set it whole"
        else:
            return f"{dotted(path)} is a single value here; it has no {part!r}"
    for known in [k for k in document.marks if k[: len(path)] == path]:
        del document.marks[known]
    document.marks[path] = Mark(shown)
    return None


def _index(items: list[Any], part: str) -> int | None:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    for i, item in enumerate(items):
        if _stage_name(item) == part:
            return i
    return None
