"""Verbs for runs that are over: predict at new points, delete."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from backends.errors import UserError
from orchestrator.cli.app import NONE, Json, Run, Set, Storage, app


@app.command()
def predict(
    name: Run,
    points: Annotated[
        Path | None, typer.Option("--points", metavar="FILE", help="CSV or npz file with a column per coordinate.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option("--grid", metavar="SPEC", help="Grid instead of a file: t=0:1:101,x=-1:1:201 or x=0.5."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option("--outputs", metavar="NAMES", help="Fields, derivatives, terms: u,u_x,residual/pde."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="WHICH", help="best, last, or a checkpoint's name or step.")
    ] = "last",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="CSV, npz or VTK file (.vtu); default: CSV on stdout.")
    ] = None,
    set: Set = NONE,
    storage: Storage = None,
) -> None:
    """Evaluate a run's network at given points (-s backend=… and -s device=… may differ from the run's)."""
    from orchestrator.points_given import Table
    from orchestrator.points_given import grid as grid_of

    if (points is None) == (grid is None):
        raise UserError("say where: --points FILE.csv (or .npz), or --grid t=0:1:101,x=-1:1:201; one of them")
    if points is not None and points.suffix.lower() not in (".csv", ".npz"):
        raise UserError(f"--points {points}: the file must end in .csv or .npz")
    _check_out(out, points)
    wanted = None if outputs is None else [n.strip() for n in outputs.split(",") if n.strip()]
    if wanted is not None and (not wanted or len(dict.fromkeys(wanted)) < len(wanted)):
        raise UserError(f"--outputs {outputs!r}: name each output once, as in u,u_x")
    source = Table(points) if points is not None else grid_of(str(grid))

    from orchestrator.predictions import predictor
    from orchestrator.predictions_made import write

    ready = predictor(name, checkpoint, set, storage)
    report = write(ready, source, ready.outputs(wanted), out)
    for message in report.warnings:
        typer.echo(f"warning: {message}", err=True)
    if out is not None:
        typer.echo(f"wrote {report.file or out} ({report.points:,} points, step {ready.step})", err=True)


def _check_out(out: Path | None, points: Path | None) -> None:
    if out is None:
        return
    if out.suffix.lower() not in (".csv", ".npz", ".vtu", ".vtk"):
        raise UserError(f"--out {out}: the file must end in .csv or .npz, or .vtu or .vtk for ParaView")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if points is not None and out.exists() and points.exists() and out.samefile(points):
        raise UserError(f"--out {out} is the file of the points; name another one")


@app.command()
def delete(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Runs by folder, id, name or `latest`.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    keep_tracking: Annotated[bool, typer.Option("--keep-tracking", help="Leave the MLflow runs as they are.")] = False,
    storage: Storage = None,
    json_: Json = False,
) -> None:
    """Delete runs for good: their folders, and their MLflow runs are marked as deleted."""
    from orchestrator.deleting import carry_out, doomed, megabytes

    found = doomed(runs, storage)
    size, count = sum(d.bytes for d in found), f"{len(found)} run{'s' if len(found) > 1 else ''}"
    if dry_run:
        if json_:
            typer.echo(json.dumps({"would_delete": [str(d.folder.path) for d in found], "bytes": size}))
        else:
            typer.echo("\n".join(str(d) for d in found))
            typer.echo(f"nothing was deleted; without --dry-run: {count}, {megabytes(size)}", err=True)
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"deleting {count} needs --yes where nobody can be asked (or --dry-run to look first)")
        typer.echo("\n".join(str(d) for d in found), err=True)
        if not typer.confirm(f"Delete {count} for good?", err=True):
            typer.echo("nothing was deleted", err=True)
            return
    deleted = carry_out(found, keep_tracking=keep_tracking)
    for message in deleted.warnings:
        typer.echo(f"warning: {message}", err=True)
    if json_:
        typer.echo(json.dumps(deleted.as_dict()))
        return
    for path in deleted.folders:
        typer.echo(str(path))
    told = (
        f"; {len(deleted.forgotten)} marked as deleted in MLflow (mlflow gc removes them)" if deleted.forgotten else ""
    )
    typer.echo(f"deleted {count}, freed {megabytes(deleted.bytes)}{told}", err=True)
