"""Verbs about the program itself: tasks, schema, ui, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import Json, app


@app.command()
def tasks(json_: Json = False) -> None:
    """List the tasks with their terms, settings and references."""
    from orchestrator.printing import show_tasks

    show_tasks(as_json=json_)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of stdout.")] = None,
) -> None:
    """Print the JSON schema of experiment files, for completion and hover text in an editor."""
    from orchestrator.schema import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@app.command()
def ui(
    uri: Annotated[
        str | None, typer.Option("--uri", help="Tracking store; default MLFLOW_TRACKING_URI or sqlite:///mlflow.db.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port on 127.0.0.1; default: a free one from 5000.")
    ] = None,
) -> None:
    """Serve the MLflow UI on 127.0.0.1."""
    from orchestrator.mlflow_ui import serve

    serve(uri, port)


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what works on this machine: backends, devices, compiler, Ray, MLflow, browser, disk."""
    from orchestrator.doctor import examine, show_findings

    raise typer.Exit(show_findings(examine(), as_json=json_))
