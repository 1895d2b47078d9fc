"""What a run computes, as its folder keeps it: `experiment.yaml`, the user's files in `code/`, and what both were.

`experiment.yaml` is for people and for `orchestrator run`; `resolved.json` says what the run wrote into it, so that a
file that somebody changed since is noticed before the run goes on.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from backends import files
from backends.errors import StorageFailed
from backends.own.code import sha256
from orchestrator.folder import RunFolder, read_json, write_json
from orchestrator.yaml_text import flatten

COPIED_BYTES = 64_000_000
"""Larger files of the user's are named where they lie, not copied."""
HEAD = "# Resolved: defaults filled in, files merged. Runs again where it lies.\n"
Differences = dict[str, tuple[Any, Any]]
"""{dotted path: (what it was, what it is)}"""


def write(folder: RunFolder, tree: Mapping[str, Any], head: str = HEAD) -> dict[str, Any]:
    """Write a resolved experiment with copies of the files that it names, and return it as it was written.

    Raises StorageFailed.
    """
    try:
        kept = _with_code(dict(tree), folder)
        text = head + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
        sums = {p.relative_to(folder.path).as_posix(): sha256(p) for p in _code(folder)}
        write_json(folder.resolved, {"experiment": kept, "files": sums})
        files.replace(folder.experiment, text.encode())
    except OSError as error:
        raise StorageFailed(f"{folder.path} could not be written: {error.strerror or error}") from error
    return kept


def pin(folder: RunFolder, **values: Any) -> None:
    """Write what `auto` turned out to be into the resolved experiment: bits depend on it."""
    tree = read_json(folder.resolved).get("experiment")
    if tree and any(tree.get(k) != v for k, v in values.items()):
        write(folder, {**tree, **values})


def edited(folder: RunFolder) -> Differences:
    """What somebody changed in the run folder since the run wrote it: settings by path, files of `code/` by name."""
    kept = read_json(folder.resolved)
    if not kept:
        return {}
    present = yaml.safe_load(folder.experiment.read_text(encoding="utf-8"))
    found = differences(kept["experiment"], present)
    for name, before in kept["files"].items():
        now = sha256(folder.path / name) if (folder.path / name).is_file() else None
        if now != before:
            found[name] = (f"sha256 {before[:12]}…", f"sha256 {now[:12]}…" if now else "missing")
    return found


def differences(before: Any, after: Any) -> Differences:
    """Values that differ between two trees."""
    old, new = flatten(before), flatten(after)
    return {k: (old.get(k), new.get(k)) for k in {**old, **new} if old.get(k) != new.get(k)}


def _code(folder: RunFolder) -> list[Path]:
    return sorted(p for p in folder.code.glob("*") if p.is_file()) if folder.code.is_dir() else []


def _with_code(tree: Any, folder: RunFolder) -> Any:
    """The tree with the user's files copied into `code/` and named there."""
    if isinstance(tree, dict):
        return {
            k: _copied(k, v, folder) if k in ("target", "path") and isinstance(v, str) else _with_code(v, folder)
            for k, v in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_with_code(v, folder) for v in tree]
    return tree


def _copied(key: str, value: str, folder: RunFolder) -> str:
    name, colon, attribute = value.rpartition(":") if key == "target" else (value, "", "")
    source = folder.path / name  # an absolute name stays what it is
    if not source.is_file() or (key == "target" and source.suffix != ".py") or source.stat().st_size > COPIED_BYTES:
        return value
    if source.resolve().parent == folder.code.resolve():
        return f"code/{source.name}{colon}{attribute}"
    folder.code.mkdir(exist_ok=True)
    copy = folder.code / source.name
    if copy.exists() and copy.read_bytes() != source.read_bytes():
        copy = folder.code / f"{uuid.uuid4().hex[:6]}-{source.name}"
    shutil.copy2(source, copy)
    return f"code/{copy.name}{colon}{attribute}"
