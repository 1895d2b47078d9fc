"""The verb that makes something to begin with: new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import Json, app


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the folder and the class.", show_default=False)],
    dir: Annotated[Path, typer.Option("--dir", help="Folder to make it in.")] = Path(),
    kind: Annotated[str, typer.Option("--kind", help="problem, network or callback.")] = "problem",
    json_: Json = False,
) -> None:
    """Write a working template of an own problem, network or callback, with its experiment file."""
    from orchestrator.scaffold import new as write

    made = write(name, dir, kind)
    if json_:
        typer.echo(json.dumps(made.as_dict()))
        return
    for file in made.files:
        typer.echo(str(file))
    typer.echo("\n".join(["go on with:", *(f"  {command}" for command in made.next())]), err=True)
