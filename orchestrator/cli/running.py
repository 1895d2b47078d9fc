"""Verbs that train: run, resume, stop, sync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backends.errors import OrchestratorError, UserError
from orchestrator.cli.app import NONE, File, Json, Quiet, Run, Set, Storage, app

if TYPE_CHECKING:
    from orchestrator.runs import Prepared


@app.command()
def run(
    file: File,
    set: Set = NONE,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder to make, instead of one under the storage.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--start-from", metavar="RUN", help="Start from this run's weights.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the experiment of FILE."""
    from orchestrator.runs import prepare

    _train(prepare(file, list(set), out=out, start_from=start_from), as_json=json_, quiet=quiet)


@app.command()
def resume(
    name: Run,
    set: Set = NONE,
    more: Annotated[
        int | None, typer.Option("--more", min=1, metavar="N", help="N further steps of the last stage.")
    ] = None,
    storage: Storage = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run from its newest sound checkpoint: same file, same bits."""
    from orchestrator.resuming import prepare_resume

    _train(prepare_resume(name, list(set), more=more, storage=storage), as_json=json_, quiet=quiet)


def _train(prepared: Prepared, *, as_json: bool, quiet: bool) -> None:
    """Watch a run to its end, print its result and leave with its exit code."""
    from orchestrator.console import watched
    from orchestrator.printing import failed, finish
    from orchestrator.runs import start

    try:
        with watched(prepared.folder, prepared.experiment, quiet=quiet or as_json):
            result = start(prepared)
    except OrchestratorError as error:
        failed(prepared.folder, error, as_json=as_json)
        raise typer.Exit(error.exit_code) from error
    finish(result, as_json=as_json, quiet=quiet)


@app.command()
def stop(name: Run, storage: Storage = None) -> None:
    """Ask a running run to stop after its present dispatch; it saves a checkpoint and is marked killed."""
    from orchestrator import folder

    found = folder.find(name, storage)
    status = folder.status(found)
    if status not in ("running", "waiting"):
        raise UserError(f"{found.path} is {status}; there is nothing to stop")
    found.request_stop("killed")
    typer.echo(f"asked {found.path} to stop; go on later with: orchestrator resume {found.path}", err=True)


@app.command()
def sync(name: Run, storage: Storage = None, json_: Json = False) -> None:
    """Send to MLflow what has not been sent yet, once."""
    from orchestrator import folder
    from orchestrator.uploader import sync as send

    report = send(folder.find(name, storage))
    if json_:
        typer.echo(json.dumps(report.__dict__, default=str))
    else:
        typer.echo(str(report), err=True)
    if not report.complete:
        raise typer.Exit(3)
