"""Which checkpoint of a run is meant: the last one, the best one, or one by name."""

from __future__ import annotations

from backends import checkpoint
from backends.errors import StorageFailed, UserError, nearest
from orchestrator.folder import RunFolder, read_jsonl

LAST, BEST = "last", "best"


def chosen(folder: RunFolder, which: str) -> checkpoint.Snapshot:
    """The checkpoint `last`, `best`, `step-000004500` or `4500`. Raises UserError where there is none such."""
    saved = {path.name: path for path in checkpoint.listing(folder.checkpoints)}
    if which == LAST:
        found = checkpoint.newest(folder.checkpoints, lambda message: None)
        if found is None:
            raise UserError(f"{folder.path} has no sound checkpoint yet")
        return found
    name = _best(folder) if which == BEST else f"step-{int(which):09d}" if which.isdigit() else which
    if name not in saved:
        if not saved:
            raise UserError(f"{folder.path} has no checkpoint yet")
        raise UserError(f"{folder.path} has no checkpoint {which!r}{nearest(name, [LAST, BEST, *saved])}")
    try:
        return checkpoint.load(saved[name])
    except StorageFailed as error:
        raise UserError(str(error)) from error


def _best(folder: RunFolder) -> str:
    """The name of the checkpoint that was the best one when it was saved."""
    events = read_jsonl(folder.events)[0]
    steps = [int(e["step"]) for e in events if e.get("event") == "checkpoint" and e.get("best")]
    if not steps:
        raise UserError(f"{folder.path} has no best checkpoint (`checkpoint.best` names the metric); take `last`")
    return f"step-{steps[-1]:09d}"
