"""A run folder for a Trainer that wants one: the same files as any other run has, so that `list`, `show`, `compare`
and MLflow see it. It can't be run or resumed from its file, for the model lives in the user's program."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import provenance, resolved
from orchestrator.assemble import ALONE
from orchestrator.folder import Lines, RunFolder, acquire, create, storage_of, write_json
from orchestrator.hooks import Outcome
from orchestrator.record import Recorder
from orchestrator.result import RunResult
from orchestrator.tracking import effective_uri, run_record
from orchestrator.trainer.session import Session
from orchestrator.trainer.translate import TrainerRun

HEAD = "# What a Trainer did; its model and data live in the program that made it, so this file can't be run again.\n"


def made(experiment: TrainerRun, storage: str) -> RunFolder:
    """A new run folder. Raises UserError, StorageFailed."""
    folder = create(storage_of(storage), experiment.name)
    tree = experiment.tree()
    uri = effective_uri(experiment.tracking, False)
    tree["tracking"]["uri"] = uri
    tree = resolved.write(folder, tree, HEAD)
    folder.original.write_text(folder.experiment.read_text(encoding="utf-8"), encoding="utf-8")
    origin = provenance.capture(tree, Path.cwd())
    write_json(folder.provenance, origin)
    write_json(folder.run, run_record(uuid.uuid4().hex, experiment, tree, uri, origin))
    _status(folder, 0, "waiting")
    return folder


def train(
    folder: RunFolder,
    session: Session,
    until: int,
    callbacks: Mapping[str, Any],
    *,
    validate: bool,
    said: Callable[[int, Mapping[str, float]], None],
) -> None:
    """`Session.run`, recorded: metrics, events, checkpoints, and how it ended. Raises what the loop raises."""
    from orchestrator import uploader
    from orchestrator.loggers import handle as handle_of_loggers

    experiment, resumed = session.experiment, session.live.at.step > 0
    outcome: Outcome | None = None
    error: BaseException | None = None
    with acquire(folder):
        handle = uploader.start(folder) if experiment.tracking.enabled else None
        loggers = handle_of_loggers.start(folder) if experiment.loggers else None
        try:
            with Recorder(folder, experiment, resumed=resumed) as recorder:
                recorder.about(session.made.device, session.made.module.versions(), ALONE)
                recorder.phase(f"compiling for {session.made.device}")
                outcome = session.run(until, callbacks, recorder=recorder, folder=folder, validate=validate, said=said)
        except BaseException as caught:  # recorded first, then raised
            error = caught
        ended = vars(outcome) if outcome else {"status": "killed", "reason": "interrupted"}
        concluded(folder, ended, error if isinstance(error, Exception) else None)
        for following in (loggers, handle):
            if following is not None:
                following.finish()
    if error is not None:
        raise error


def concluded(folder: RunFolder, outcome: dict[str, Any], error: Exception | None) -> RunResult:
    """Write how it ended."""
    result = RunResult.of(folder, outcome, error)
    write_json(folder.result, result.as_dict())
    _status(folder, result.step, result.status, message=result.reason, final=True)
    return result


def _status(folder: RunFolder, step: int, status: str, **more: Any) -> None:
    Lines(folder.events).append({"time": time.time(), "step": step, "event": "status", "status": status, **more})
