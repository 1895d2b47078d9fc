"""Deleting runs: their folders, and nothing else; their MLflow runs are marked as deleted there.

A folder is deleted where it is a run's own: not running, no link, no working directory, with no other run or
repository inside. It is renamed first, so that a run is there or gone, never half.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from backends.errors import StorageFailed, UserError
from orchestrator.folder import RunFolder, acquire, find, owner, read_json, status
from orchestrator.mlflow_forget import forget
from orchestrator.result import RunResult

UPLOADER_S = 5.0
"""Longest wait for an uploader that is still sending."""
_OURS = {
    *("experiment.yaml", "resolved.json", "original.yaml", "code", "provenance.json", "run.json", "mlflow.json"),
    *("metrics.jsonl", "system.jsonl", "events.jsonl", "log.txt", "figures", "checkpoints", "result.json", "LOCK"),
    *("STOP", "upload.json", ".upload.lock"),
}


@dataclass(frozen=True)
class Doomed:
    """A run that may be deleted, and what that means."""

    folder: RunFolder
    status: str
    bytes: int
    foreign: tuple[str, ...]
    """Entries of the folder that the run did not make; they go too."""
    run_id: str | None
    uri: str

    def __str__(self) -> str:
        more = f", with {', '.join(self.foreign)} that the run did not make" if self.foreign else ""
        return f"{self.folder.path} ({self.status}, {megabytes(self.bytes)}{more})"


@dataclass(frozen=True)
class Deleted:
    """What was deleted."""

    folders: tuple[Path, ...]
    bytes: int
    forgotten: tuple[str, ...] = ()
    """MLflow runs that are marked as deleted."""
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "deleted": [str(f) for f in self.folders],
            "bytes": self.bytes,
            "mlflow": list(self.forgotten),
            "warnings": list(self.warnings),
        }


def delete(
    runs: str | Path | RunFolder | RunResult | Iterable[str | Path | RunFolder | RunResult],
    *,
    keep_tracking: bool = False,
    storage: str | None = None,
) -> Deleted:
    """Delete runs for good. `keep_tracking`: leave their MLflow runs as they are.

    Raises UserError, before anything is deleted, where one of them can't be.
    """
    one = isinstance(runs, str | Path | RunFolder | RunResult)
    return carry_out(doomed([runs] if one else runs, storage), keep_tracking=keep_tracking)  # pyright: ignore


def doomed(runs: Iterable[str | Path | RunFolder | RunResult], storage: str | None = None) -> list[Doomed]:
    """What would be deleted. Raises UserError where one of the runs is running, or its folder is more than a run."""
    found: dict[Path, RunFolder] = {}
    for run in runs:
        folder = run.folder if isinstance(run, RunResult) else run
        folder = folder if isinstance(folder, RunFolder) else find(str(folder), storage)
        found.setdefault(folder.path.absolute(), folder)
    return [_checked(folder) for folder in found.values()]


def carry_out(runs: Sequence[Doomed], *, keep_tracking: bool = False) -> Deleted:
    """Delete what `doomed` found. Raises UserError where a run was started meanwhile, StorageFailed."""
    for run in runs:
        _remove(run.folder)
    told, warnings = ([], []) if keep_tracking else forget([(r.uri, r.run_id) for r in runs if r.run_id])
    return Deleted(tuple(r.folder.path for r in runs), sum(r.bytes for r in runs), tuple(told), tuple(warnings))


def _checked(folder: RunFolder) -> Doomed:
    path = folder.path.absolute()
    about = read_json(folder.run)
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.resolve()}; name the run folder itself")
    if not about.get("id") or not (folder.events.is_file() or folder.experiment.is_file()):
        raise UserError(f"{path} is no run folder; nothing is deleted")
    if Path.cwd().is_relative_to(path.resolve()):
        raise UserError(f"{path} is the working directory, or around it; go elsewhere first")
    if holder := owner(folder):
        raise UserError(
            f"{path} is running (process {holder.get('pid')} on {holder.get('host')}); "
            f"end it first: orchestrator stop {path}"
        )
    size, inside = _inside(path)
    if inside:
        raise UserError(f"{path} holds more than a run ({inside}); nothing is deleted")
    foreign = tuple(sorted(e.name for e in path.iterdir() if e.name not in _OURS and not e.name.startswith(".")))
    known = read_json(folder.mlflow)
    return Doomed(folder, status(folder), size, foreign, known.get("run_id"), str(known.get("uri", "")))


def _inside(path: Path) -> tuple[int, str]:
    """Bytes of all files (links are not followed), and what of the content belongs to somebody else."""
    size = 0
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            if name == ".git" or (name == "run.json" and Path(root) != path):
                return size, str((Path(root) / name).relative_to(path))
        size += sum((Path(root) / name).lstat().st_size for name in files)
    return size, ""


def _remove(folder: RunFolder) -> None:
    """Own the run, rename its folder, and remove that."""
    path = folder.path
    trash = path.with_name(f".deleted-{path.name}-{os.urandom(4).hex()}")
    try:
        with FileLock(path / ".upload.lock", timeout=UPLOADER_S), acquire(folder):
            path.rename(trash)
            (trash / "run.json").unlink()  # from now on it is no run, whatever happens
        shutil.rmtree(trash)
    except Timeout as error:
        raise UserError(
            f"{path}: its uploader is still sending to MLflow; try again in a minute, or when the server answers"
        ) from error
    except OSError as error:
        raise StorageFailed(f"{error.filename or path} could not be deleted: {error.strerror or error}") from error


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"
