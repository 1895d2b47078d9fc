"""The verb that puts runs side by side: compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from backends import files
from backends.errors import UserError, nearest
from orchestrator.cli.app import NONE, Json, Storage, app

FORMATS = ("table", "markdown", "html")
_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown"}
SEED = ["seed"]


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs, storage folders, names of experiments or patterns.", show_default=False
        ),
    ],
    metric: Annotated[
        list[str], typer.Option("--metric", metavar="METRIC", help="Metric to show; repeatable.", show_default=False)
    ] = NONE,
    group: Annotated[
        list[str],
        typer.Option("--group", metavar="SETTING", help="Runs that differ in these alone are averaged; none: no runs."),
    ] = SEED,
    format: Annotated[str | None, typer.Option("--format", help="table, markdown or html; default: by --out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write instead of stdout.")] = None,
    storage: Storage = None,
    json_: Json = False,
) -> None:
    """Put runs side by side: what differs in their settings, what came out, mean and spread over seeds."""
    from orchestrator.comparison import compare as put
    from orchestrator.comparison.text import show

    kind = _format(format, out, json_)
    comparison = put(runs, metrics=metric, group=group, storage=storage)
    if json_:
        text = json.dumps(comparison.as_dict()) + "\n"
    elif kind == "table":
        show(comparison)
        return
    else:
        text = comparison.markdown if kind == "markdown" else comparison.html
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text)


def _format(format: str | None, out: Path | None, as_json: bool) -> str:
    """The format that is meant; all mistakes before any work."""
    if format is not None and format not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)} (got {format!r}){nearest(format, FORMATS)}")
    if format is not None and as_json:
        raise UserError("--json is a format of its own; leave out --format")
    ending = "" if out is None else out.suffix.lower()
    kind = format or _ENDINGS.get(ending, "table")
    if out is not None:
        if kind == "table" and not as_json:
            raise UserError(f"--out {out}: end it in .html or .md, or say --format markdown or html")
        if not out.absolute().parent.is_dir():
            raise UserError(f"--out {out}: there is no folder {out.parent}")
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; name a file in it")
    elif kind == "html" and sys.stdout.isatty():
        raise UserError("a page does not belong on a terminal: name a file by --out FILE.html")
    return kind


def _write(out: Path, text: str) -> None:
    try:
        files.replace(out, text.encode())
    except OSError as error:
        raise UserError(f"--out {out}: can't be written ({error.strerror or error})") from error
    typer.echo(f"wrote {out} ({len(text.encode()) / 1e6:.2f} MB)", err=True)
