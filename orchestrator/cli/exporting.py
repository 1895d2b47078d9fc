"""The verb that hands a trained model on: export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import Json, Run, Storage, app


@app.command()
def export(
    name: Run,
    format: Annotated[
        str, typer.Option("--format", "-f", help="safetensors, stablehlo, torch or onnx.", show_default=False)
    ],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="last, best, or a name (step-000004500).")] = "last",
    outputs: Annotated[
        str | None, typer.Option("--outputs", metavar="A,B", help="Fields or derivatives (u,u_x); default: all fields.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make; default: exports/… in the run's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    storage: Storage = None,
    json_: Json = False,
) -> None:
    """Write a trained model as safetensors, StableHLO, torch.export or ONNX, with a script that loads it."""
    from orchestrator import exporting

    wanted = [part.strip() for part in outputs.split(",") if part.strip()] if outputs else None
    made = exporting.export(name, format, checkpoint=checkpoint, outputs=wanted, out=out, storage=storage, force=force)
    if json_:
        about = json.loads((made / "config.json").read_text(encoding="utf-8"))
        kept = ("format", "file", "inputs", "outputs", "precision", "checkpoint", "step", "calling")
        typer.echo(json.dumps({"folder": str(made), **{k: about[k] for k in kept}}))
    else:
        typer.echo(str(made))
        typer.echo(f"try it with: python {made / 'load.py'}", err=True)
