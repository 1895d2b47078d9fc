"""One run from the driver's side: check, make the folder, start the uploader, launch the host, collect the result."""

from __future__ import annotations

import copy
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backends
from backends.environment import environment
from backends.errors import ConfigError, StorageFailed, UserError
from orchestrator import build, launch, provenance, resolved
from orchestrator.callbacks import own_objects
from orchestrator.config import Experiment
from orchestrator.epochs import counted
from orchestrator.folder import Lines, RunFolder, acquire, create, storage_of, write_json
from orchestrator.loggers import absolute
from orchestrator.merge import anchor, override
from orchestrator.ray_job import refuse_relative, this_job
from orchestrator.reader import Read, read_experiment, validate
from orchestrator.result import RunResult
from orchestrator.start_from import beginning
from orchestrator.tracking import effective_uri, run_record
from orchestrator.worker import Job
from orchestrator.yaml_text import Document, Mark

EXECUTED = "ORCHESTRATOR_EXECUTED"
"""Set in the environment of a process that has been executed again with its environment in place."""


@dataclass(frozen=True)
class Prepared:
    """A run folder that is ready to be launched."""

    folder: RunFolder
    experiment: Experiment
    job: Job
    tracking: bool
    callbacks: Sequence[Any] = ()
    """Objects of the calling program, beside the callbacks of the file."""


def checked(source: str | Path | Experiment | Mapping[str, Any], overrides: Any = None) -> Read:
    """Read and check an experiment with everything that needs no framework; epochs become steps.

    Raises ConfigError or UserError.
    """
    read = _read(source, overrides or {})
    try:
        return counted(read, build.check(read.experiment, read_folder(source)))
    except UserError as error:
        raise read.blame(error) from error


def _read(source: str | Path | Experiment | Mapping[str, Any], overrides: Any) -> Read:
    if isinstance(source, str | Path):
        return read_experiment(Path(source), overrides)
    tree = source.tree() if isinstance(source, Experiment) else copy.deepcopy(dict(source))
    document = Document(tree, {(): Mark("experiment")})
    anchor(tree, Path.cwd())
    override(document, overrides, Path.cwd())
    if document.problems:
        raise ConfigError(document.problems)
    return Read(validate(Experiment, document.tree, "experiment"), document, "")


def read_folder(source: Any) -> Path:
    """The folder that relative names in an experiment refer to."""
    return Path(source).parent if isinstance(source, str | Path) else Path.cwd()


def prepare(
    source: str | Path | Experiment | Mapping[str, Any],
    overrides: Any = None,
    *,
    out: Path | None = None,
    start_from: str | None = None,
    execute: bool = True,
    callbacks: Sequence[Any] = (),
) -> Prepared:
    """Check everything, then make the run folder. Nothing is written before all checks have passed.

    `execute`: the command line may execute itself again, once, with the environment that the backend needs.
    """
    read = checked(source, overrides)
    experiment = read.experiment
    if start_from is not None:
        experiment = experiment.changed(start_from=start_from)
    refuse_objects_elsewhere(callbacks, experiment)
    try:
        launch.backend_installed(experiment.backend)
        launch.refuse_what_does_not_fit(experiment)
        asked = _storage(experiment, read.document.mark(("storage",)).file.startswith("-s"))
        storage = storage_of(asked)
        uri = effective_uri(experiment.tracking, read.document.mark(("tracking", "uri")).file.startswith("-s"))
        store = uri if experiment.tracking.enabled else ""
        refuse_relative(asked or "runs", store, out, [getattr(spec, "dir", None) for spec in experiment.loggers])
        checkpoint = beginning(experiment, read_folder(source), str(storage))
    except UserError as error:
        raise read.blame(error) from error
    if execute:
        execute_again(experiment)
    folder = create(storage, experiment.name, out)
    _fill(folder, read, experiment, uri, checkpoint)
    return Prepared(folder, experiment, Job(str(folder.path)), experiment.tracking.enabled, callbacks)


def refuse_objects_elsewhere(callbacks: Sequence[Any], experiment: Experiment) -> None:
    """Raise UserError where objects are no callbacks, or where they would have to travel to other processes."""
    names = ", ".join(own_objects(callbacks))
    if names and experiment.resources.workers:
        raise UserError(
            f"callbacks: {names}: objects of this program work in this process alone, and the file asks for "
            f"{experiment.resources.workers} Ray worker(s). Set resources.workers to 0; or name the class in the file, "
            'which travels: callbacks: [{kind: custom, target: "mine.py:Watch"}]',
            path="resources.workers",
        )


def _storage(experiment: Experiment, explicit: bool) -> str | None:
    """Where run folders go, in order: `-s storage=…`, ORCHESTRATOR_RUNS, the file; None: the default."""
    if explicit:
        return experiment.storage
    return os.environ.get("ORCHESTRATOR_RUNS") or experiment.storage


def execute_again(experiment: Experiment) -> None:
    """Execute this process again with the variables that must be set before a framework loads (in process only)."""
    if (
        experiment.resources.workers
        or os.environ.get(EXECUTED)
        or Path(sys.argv[0]).name not in ("__main__.py", "orchestrator")
    ):
        return
    variables = environment(experiment.backend, experiment.resources.cpus_per_worker, experiment.device)
    missing = {k: v for k, v in variables.items() if k not in os.environ}
    if missing:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(
            sys.executable,
            [sys.executable, "-m", "orchestrator", *sys.argv[1:]],
            {**os.environ, **missing, EXECUTED: "1"},
        )


def _fill(folder: RunFolder, read: Read, experiment: Experiment, uri: str, checkpoint: Path | None) -> None:
    """What a run folder holds before the run starts. Raises UserError where it can't be written."""
    tree = experiment.tree()
    tree["storage"] = None
    tree["tracking"]["uri"] = uri
    tree["loggers"] = [spec.model_dump(mode="json") for spec in absolute(experiment.loggers)]
    tree["start_from"] = str(checkpoint) if checkpoint else None
    try:
        tree = resolved.write(folder, tree)
        folder.original.write_text(read.text or folder.experiment.read_text(encoding="utf-8"), encoding="utf-8")
        origin = provenance.capture(tree, Path.cwd())
        write_json(folder.provenance, origin)
        write_json(folder.run, run_record(uuid.uuid4().hex, experiment, tree, uri, origin, this_job()))
    except (OSError, StorageFailed) as error:
        raise UserError(f"the run folder can't be written: {error}", path="storage") from error
    Lines(folder.events).append({"time": time.time(), "step": 0, "event": "status", "status": "waiting"})


def start(prepared: Prepared) -> RunResult:
    """Launch a prepared run and wait for it. Raises the run's OrchestratorError after its end was recorded."""
    from orchestrator import uploader
    from orchestrator.loggers import handle as handle_of_loggers

    folder, experiment = prepared.folder, prepared.experiment
    with acquire(folder):
        handle = uploader.start(folder) if prepared.tracking else None
        loggers = handle_of_loggers.start(folder) if experiment.loggers else None
        error: Exception | None = None
        outcome: dict[str, Any] = {}
        try:
            if experiment.resources.workers == 0:
                _set_environment(experiment)
                outcome = launch.in_process(prepared.job, prepared.callbacks)
            else:
                outcome = launch.in_ray_train(prepared.job, experiment)
        except KeyboardInterrupt:
            outcome = {"status": "killed", "reason": "interrupted"}
        except Exception as caught:  # recorded first, then raised: an OrchestratorError, or our bug
            error = caught
        result = _concluded(folder, outcome, error)
        if loggers is not None:
            loggers.finish()
        if handle is not None:
            result = result.tracked(handle.finish())
            _write(result, error)
    if error is not None:
        raise error
    return result


def _set_environment(experiment: Experiment) -> None:
    """In-process: what can still be set before the framework loads."""
    for name, value in environment(experiment.backend, experiment.resources.cpus_per_worker, experiment.device).items():
        os.environ.setdefault(name, value)
    backends.load(experiment.backend)


def _concluded(folder: RunFolder, outcome: Mapping[str, Any], error: Exception | None) -> RunResult:
    """Write `result.json` and the final status."""
    result = RunResult.of(folder, outcome, error)
    _write(result, error)
    Lines(folder.events).append(
        {
            "time": time.time(),
            "step": result.step,
            "event": "status",
            "status": result.status,
            "message": result.reason,
            "final": True,
        }
    )
    return result


def _write(result: RunResult, error: Exception | None) -> None:
    """Write `result.json`. Raises StorageFailed; after a failed run nothing, which has more to say."""
    try:
        write_json(result.folder.result, result.as_dict())
    except StorageFailed:
        if error is None:
            raise


def run(
    source: str | Path | Experiment | Mapping[str, Any],
    overrides: Mapping[str, Any] | list[str] | None = None,
    *,
    out: str | Path | None = None,
    start_from: str | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
) -> RunResult:
    """Train an experiment (a file, a model or plain data) and return its result.

    `overrides` maps dotted paths to values; `callbacks` are objects beside those of the file (`orchestrator.hooks`),
    for runs in this process (`resources.workers: 0`). Prints nothing unless `progress` is set. Raises ConfigError for
    mistakes in the experiment, RunFailed where the run could not go on.
    """
    where = Path(out) if out else None
    prepared = prepare(source, overrides, out=where, start_from=start_from, execute=False, callbacks=callbacks)
    if not progress:
        return start(prepared)
    from orchestrator.console import watched

    with watched(prepared.folder, prepared.experiment, signals=False):
        return start(prepared)
