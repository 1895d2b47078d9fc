"""The application that verbs register with, and the arguments that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="orchestrator",
    help="Describe a training experiment in one YAML file; run it on PyTorch or JAX, here or on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (YAML).", show_default=False)]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Folder, MLflow id, name, `latest`, or a beginning of any of them.", show_default=False
    ),
]
Set = Annotated[list[str], typer.Option("-s", "--set", metavar="PATH=VALUE", help="Override one setting; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Storage = Annotated[
    str | None, typer.Option("--storage", help="Folder of run folders; default ORCHESTRATOR_RUNS or `runs`.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")]
NONE: list[str] = []


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="More messages; repeatable.")] = 0,
) -> None:
    from orchestrator.console import configure_logging

    configure_logging(verbose)
    if version:
        from orchestrator import __version__

        typer.echo(__version__)
        raise typer.Exit
