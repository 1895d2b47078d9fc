"""Going on with a run: the same file gives the same bits; `--more` adds steps; anything else is refused.

Three words: *resume* (same file), *resume with --more* (further steps of the last stage), *start from* (a new run
with another run's weights).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml
from backends.checkpoint import listing

from backends.errors import ConfigError, Problem, UserError, nearest
from orchestrator import launch
from orchestrator.config import Experiment
from orchestrator.folder import Lines, RunFolder, find, owner, status
from orchestrator.merge import override, read_with_bases
from orchestrator.ray_job import refuse_relative
from orchestrator.reader import read_experiment, validate
from orchestrator.runs import Prepared, execute_again
from orchestrator.worker import Job
from orchestrator.yaml_text import flatten

FREE = ("backend", "device", "resources", "tracking", "checkpoint", "callbacks")
"""What may change on resume; the first three end the promise of equal bits."""
BITS = ("backend", "device", "resources")


def prepare_resume(
    name: str, overrides: Any = None, *, more: int | None = None, storage: str | None = None, execute: bool = True
) -> Prepared:
    """Make a run ready to go on. Raises UserError where it can't, with the difference and the alternative."""
    folder = find(name, storage)
    before = read_experiment(folder.experiment).experiment
    state = status(folder)
    if state == "running" or owner(folder) is not None:
        raise UserError(f"{folder.path} is running; `orchestrator stop {folder.path}` first")
    if state == "finished" and more is None:
        raise UserError(
            f"{folder.path} has finished; `--more N` trains N further steps, `run FILE --start-from {folder.path.name}` "
            "starts a new run from its weights"
        )
    after = _changed(folder, before, overrides or {})
    if more is not None:
        after = _longer(after, more)
    launch.backend_installed(after.backend)
    refuse_relative(str(folder.path.parent), after.tracking.uri or "", folder.path)
    if execute:
        execute_again(after)
    differences = _differences(before, after)
    if differences:
        _record(folder, after, differences, more)
    folder.clear_stop()
    return Prepared(
        folder, after, Job(str(folder.path), resume=bool(listing(folder.checkpoints))), after.tracking.enabled
    )


def _changed(folder: RunFolder, before: Experiment, overrides: Any) -> Experiment:
    """The experiment with the allowed overrides; every other change is refused."""
    document = read_with_bases(folder.experiment)
    plain = flatten(document.tree)
    override(document, overrides, Path.cwd())
    problems = list(document.problems)
    problems += [
        Problem(
            f"-s {path}", 0, 0, path,
            f"can't change on resume (was {plain.get(path)!r}); a changed experiment is a new run: "
            f"orchestrator run FILE -s {path}=… --start-from {folder.path.name}"
            + ("" if path.split(".")[0] in Experiment.model_fields else nearest(path.split(".")[0], Experiment.model_fields)),
        )
        for path, value in flatten(document.tree).items()
        if plain.get(path) != value and path.split(".")[0] not in FREE
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    return validate(Experiment, document.tree, str(folder.experiment))


def _longer(experiment: Experiment, more: int) -> Experiment:
    """`more` further steps of the last stage; its schedule ends where it did, so earlier rates stay the same."""
    tree = experiment.tree()
    last = tree["stages"][-1]
    schedule = last.get("schedule")
    if schedule and "steps" in schedule and schedule["steps"] is None:
        schedule["steps"] = last["steps"]
    last["steps"] += more
    return validate(Experiment, tree, "resume --more")


def _differences(before: Experiment, after: Experiment) -> dict[str, tuple[Any, Any]]:
    old, new = flatten(before.tree()), flatten(after.tree())
    return {k: (old.get(k), new.get(k)) for k in {**old, **new} if old.get(k) != new.get(k)}


def _record(folder: RunFolder, after: Experiment, differences: dict[str, tuple[Any, Any]], more: int | None) -> None:
    """Write the changed file and say what changed in the run's events."""
    text = "# Resolved; changed on resume, see events.jsonl.\n" + yaml.safe_dump(after.tree(), sort_keys=False)
    temporary = folder.experiment.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder.experiment)
    said = ", ".join(f"{k}: {old!r} -> {new!r}" for k, (old, new) in sorted(differences.items()))
    bits = sorted({k.split(".")[0] for k in differences} & set(BITS))
    note = f"resumed with changes: {said}" + (f" (equal bits are not promised: {', '.join(bits)})" if bits else "")
    Lines(folder.events).append(
        {
            "time": time.time(),
            "step": 0,
            "event": "resumed",
            "message": note,
            "changes": {k: list(v) for k, v in differences.items()},
            "more": more,
        }
    )


def resume(
    name: str | Path,
    overrides: Any = None,
    *,
    more: int | None = None,
    storage: str | None = None,
    progress: bool = False,
) -> Any:
    """Go on with a run and return its result (`orchestrator.runs.run` from the newest sound checkpoint)."""
    from orchestrator.runs import start

    prepared = prepare_resume(str(name), overrides, more=more, storage=storage, execute=False)
    if not progress:
        return start(prepared)
    from orchestrator.console import watched

    with watched(prepared.folder, prepared.experiment, signals=False):
        return start(prepared)


__all__ = ["prepare_resume", "resume"]
