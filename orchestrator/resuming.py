"""Going on with a run: the same file gives the same bits; `--more` adds steps; anything else is refused.

Three words: *resume* (same file), *resume with --more* (further steps of the last stage), *start from* (a new run
with another run's weights).
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends import checkpoint
from backends.errors import UserError
from orchestrator import build, launch, resolved
from orchestrator.config import Experiment
from orchestrator.epochs import in_steps
from orchestrator.folder import Lines, RunFolder, find, owner, read_json, status, write_json
from orchestrator.loggers import absolute
from orchestrator.ray_job import refuse_relative
from orchestrator.reader import read_experiment, validate
from orchestrator.resolved import Differences, differences
from orchestrator.result import RunResult
from orchestrator.runs import Prepared, execute_again, refuse_objects_elsewhere, start
from orchestrator.start_from import shapes, weights
from orchestrator.tracking_uri import absolute_uri
from orchestrator.worker import Job

FREE = ("backend", "device", "resources", "storage", "tracking", "loggers", "checkpoint", "callbacks")
"""What may change on resume; the next three end the promise of equal bits."""
BITS = ("backend", "device", "resources")
CHANGED = "# Resolved; changed on resume, see events.jsonl.\n"


def prepare_resume(
    name: str,
    overrides: Any = None,
    *,
    more: int | None = None,
    storage: str | None = None,
    execute: bool = True,
    callbacks: Sequence[Any] = (),
) -> Prepared:
    """Make a run ready to go on. Raises UserError where it can't, with the difference and the alternative."""
    overrides = overrides or {}
    folder = find(name, storage or _storage(overrides))
    _refuse_running(folder, more)
    _refuse_edited(folder)
    before = read_experiment(folder.experiment).experiment
    after = _changed(folder, before, overrides)
    if more is not None:
        after = _longer(after, more)
    after = in_steps(after, build.check(after, folder.path))
    refuse_objects_elsewhere(callbacks, after)
    launch.backend_installed(after.backend)
    launch.refuse_what_does_not_fit(after)
    store = (after.tracking.uri or "") if after.tracking.enabled else ""
    refuse_relative(str(folder.path.parent), store, folder.path, [getattr(spec, "dir", None) for spec in after.loggers])
    if execute:
        execute_again(after)
    changes = differences(before.tree(), after.tree())
    if changes:
        _record(folder, after, changes, more)
    folder.clear_stop()
    return Prepared(folder, after, Job(str(folder.path), resume=True), after.tracking.enabled, callbacks)


def resume(
    name: str | Path,
    overrides: Any = None,
    *,
    more: int | None = None,
    storage: str | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
) -> RunResult:
    """Go on with a run and return its result (`orchestrator.runs.run` from the newest sound checkpoint)."""
    prepared = prepare_resume(str(name), overrides, more=more, storage=storage, execute=False, callbacks=callbacks)
    if not progress:
        return start(prepared)
    from orchestrator.console import watched

    with watched(prepared.folder, prepared.experiment, signals=False):
        return start(prepared)


# --- what is refused ---


def _refuse_running(folder: RunFolder, more: int | None) -> None:
    state = status(folder)
    if state == "running" or owner(folder) is not None:
        raise UserError(f"{folder.path} is running; first: orchestrator stop {folder.path}")
    if state == "finished" and more is None:
        raise UserError(
            f"{folder.path} has finished. Further steps of its last stage: orchestrator resume {folder.path} --more N. "
            f"A new run from its weights: {_new_run(folder)}"
        )


def _refuse_edited(folder: RunFolder) -> None:
    """The run folder's own file says what the run computes; it is no place for changes."""
    found = resolved.edited(folder)
    if found:
        command = _new_run(folder, with_weights=_fits(folder, read_experiment(folder.experiment).experiment, found))
        raise UserError(
            f"{folder.experiment} was changed since the run wrote it:\n{_listed(found)}\n"
            f"Put it back to go on with this run; or start a new one with the change: {command}"
        )


def _changed(folder: RunFolder, before: Experiment, overrides: Any) -> Experiment:
    """The experiment with the allowed overrides; every other change is refused."""
    after = read_experiment(folder.experiment, overrides).experiment.model_copy(update={"storage": before.storage})
    after = after.model_copy(update={"loggers": absolute(after.loggers)})
    uri = after.tracking.uri
    if uri is not None:
        after = after.model_copy(update={"tracking": after.tracking.model_copy(update={"uri": absolute_uri(uri)})})
    changes = differences(before.tree(), after.tree())
    refused = {path: change for path, change in changes.items() if path.split(".")[0] not in FREE}
    if refused:
        command = _new_run(folder, _texts(overrides), with_weights=_fits(folder, after, refused))
        raise UserError(
            f"{folder.path} can't go on with another experiment:\n{_listed(refused)}\n"
            f"A changed experiment is a new run: {command}"
        )
    return after


def _listed(changes: Differences) -> str:
    return "\n".join(f"  {_inline({path: change})}" for path, change in sorted(changes.items()))


def _inline(changes: Differences) -> str:
    return ", ".join(f"{path}: {_plain(old)} -> {_plain(new)}" for path, (old, new) in sorted(changes.items()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _new_run(folder: RunFolder, overrides: Sequence[str] = (), *, with_weights: bool = True) -> str:
    """The command that starts a new run of this experiment, changed or not; from its weights where they fit."""
    words = ["orchestrator", "run", str(folder.experiment), *(w for text in overrides for w in ("-s", text))]
    if with_weights:
        words += ["--start-from", str(folder.path)]
    return shlex.join(words)


def _texts(overrides: Any) -> list[str]:
    """Overrides as they stand on a command line."""
    if isinstance(overrides, Mapping):
        return [f"{path}={json.dumps(value, default=str)}" for path, value in overrides.items()]
    return list(overrides)


def _fits(folder: RunFolder, after: Experiment, changes: Differences) -> bool:
    """Whether a changed experiment can take over this run's weights."""
    saved = checkpoint.newest(folder.checkpoints, lambda message: None)
    if saved is None:
        return False
    try:
        ours = weights(after, folder.path)
    except UserError:
        return False
    if ours is None:  # a user's own network: only its framework knows its shapes
        return not any(path.startswith(("network", "code/")) for path in changes)
    return ours == shapes(saved.arrays)


# --- what changes ---


def _longer(experiment: Experiment, more: int) -> Experiment:
    """`more` further steps of the last stage; its schedule ends where it did, so earlier rates stay the same."""
    tree = experiment.tree()
    last = tree["stages"][-1]
    schedule = last.get("schedule")
    if schedule and "steps" in schedule and schedule["steps"] is None:
        schedule["steps"] = last["steps"]
    last["steps"] += more
    return validate(Experiment, tree, "resume --more")


def _record(folder: RunFolder, after: Experiment, changes: Differences, more: int | None) -> None:
    """Write the changed experiment, and say what changed in the run's events."""
    resolved.write(folder, after.tree(), CHANGED)
    tracking, about = after.tracking, read_json(folder.run)
    about["uri"] = tracking.uri or about.get("uri")
    about["checkpoints"] = tracking.checkpoints
    about["experiment"] = tracking.experiment or about.get("experiment")
    about["tags"] = {**about.get("tags", {}), **tracking.tags}
    write_json(folder.run, about)
    said = _inline(changes)
    happened = {"time": time.time(), "step": 0}
    told = {"changes": {k: list(v) for k, v in changes.items()}, "more": more}
    events = Lines(folder.events)
    events.append({**happened, "event": "resumed", "message": f"resumed with changes: {said}", **told})
    bits = {k: v for k, v in changes.items() if k.split(".")[0] in BITS}
    if bits:
        message = f"from here on equal bits are not promised, for the run was resumed with changes ({_inline(bits)})"
        events.append({**happened, "event": "warning", "message": message})


def _storage(overrides: Any) -> str | None:
    """`-s storage=…`: where the run is looked up."""
    for text in reversed(list(_texts(overrides))):
        path, _, value = text.partition("=")
        if path == "storage":
            return value.strip("\"'")
    return None


__all__ = ["prepare_resume", "resume"]
