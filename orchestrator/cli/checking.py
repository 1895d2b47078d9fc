"""Verbs that look at an experiment file before it is run: check, agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from backends.errors import ConfigError, UserError
from orchestrator.cli.app import NONE, File, Json, Set, app


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Experiment files.", show_default=False)],
    set: Set = NONE,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try every part too: steps, evaluation, figure, checkpoint, tracker.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw the geometry with its points and normals.")
    ] = None,
    json_: Json = False,
) -> None:
    """Validate experiment files; nothing is run. All mistakes at once, with file, line and column."""
    from orchestrator.printing import show_checks
    from orchestrator.smoke import Part
    from orchestrator.smoke import check as tried

    problems: list[Any] = []
    parts: dict[str, list[Part]] = {}
    for file in files:
        try:
            parts[str(file)] = tried(file, list(set), smoke=smoke)
            if not json_ and not smoke:
                typer.echo(f"{file}: ok")
        except ConfigError as error:
            problems += error.problems
    failed = any(part.state == "failed" for found in parts.values() for part in found)
    show_checks(problems, parts, smoke=smoke, as_json=json_)
    if problems and not json_:
        raise ConfigError(problems)
    if figure is not None and not problems:
        _draw_domain(files, list(set), figure)
    if problems or failed:
        raise typer.Exit(2 if problems else 3)


def _draw_domain(files: list[Path], overrides: list[str], out: Path) -> None:
    from orchestrator.domain_figure import write

    if len(files) != 1:
        raise UserError("--figure draws the domain of one experiment file")
    typer.echo(f"{out}: {write(files[0], overrides, out)}", err=True)


@app.command()
def agree(
    file: File,
    set: Set = NONE,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the first stage to compare.")] = 100,
    precision: Annotated[str, typer.Option("--precision", help="float64 or float32.")] = "float64",
    json_: Json = False,
) -> None:
    """Run both backends side by side: gradients at step 0, then the loss terms of the first steps."""
    from orchestrator.agree import compare
    from orchestrator.printing import show_agreement

    if precision not in ("float32", "float64"):
        raise UserError(f"--precision must be float32 or float64 (got {precision!r})")
    show_agreement(compare(file, list(set), steps=steps, precision=precision), as_json=json_)
