"""Which runs are meant: one by any of its names, or several by a storage folder, a pattern or an experiment's name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends.errors import UserError
from orchestrator.folder import RunFolder, find, list_runs, storage_of
from orchestrator.result import RunResult

Meant = str | Path | RunFolder | RunResult
"""What stands for a run (or for several) in Python."""


def chosen(runs: Meant | Iterable[Meant], storage: str | None = None) -> list[RunFolder]:
    """The run folders, each once, in the order in which they were named (oldest first within one name).

    Beside what `find` knows: a storage folder means all its runs, `burgers-*` those whose folder or experiment is
    called so, the name of an experiment all runs of it. Raises UserError where a name means none.
    """
    one = isinstance(runs, str | Path | RunFolder | RunResult)
    named: list[Any] = [runs] if one else list(runs)  # pyright: ignore[reportArgumentType]
    found: dict[Path, RunFolder] = {}
    for name in named:
        for folder in _meant(name, storage):
            found.setdefault(folder.path.resolve(), folder)
    if not found:
        raise UserError("name at least one run: a folder, an id, a name, `latest`, or a storage folder")
    return list(found.values())


def _meant(run: Meant, storage: str | None) -> list[RunFolder]:
    if isinstance(run, RunResult):
        return [run.folder]
    if isinstance(run, RunFolder):
        return [run]
    name, path = str(run), Path(run).expanduser()
    if not (path / "run.json").exists():
        if path.is_dir() and (inside := _paths(list_runs(path.absolute()))):
            return inside
        several = _several(name, path, storage)
        if several:
            return several
    return [find(name, storage)]


def _several(name: str, path: Path, storage: str | None) -> list[RunFolder]:
    """The runs that a pattern or an experiment's name means."""
    pattern = any(sign in name for sign in "*?[")
    if pattern and path.parent != Path():  # a pattern with folders in it, kept from the shell by quotes
        known = list_runs(path.parent.absolute()) if path.parent.is_dir() else []
        name = path.name
    else:
        known = list_runs(storage_of(storage))
    if not pattern:
        return _paths([r for r in known if r["name"] == name])
    fitting = [r for r in known if any(fnmatch.fnmatchcase(str(r[k]), name) for k in ("folder_name", "name"))]
    if not fitting:
        names = ", ".join(str(r["folder_name"]) for r in known[-10:]) or "none at all"
        raise UserError(f"no run fits {str(path)!r}; there are: {names}")
    return _paths(fitting)


def _paths(entries: Iterable[dict[str, Any]]) -> list[RunFolder]:
    return [RunFolder(Path(r["folder"])) for r in entries]
