"""The command line: `orchestrator VERB …` = `python -m orchestrator VERB …`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 our bug, 2 the user's mistake, 3 the run
failed, 130 interrupted, 143 preempted with a checkpoint saved.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backends.errors import ConfigError, OrchestratorError, UserError

if TYPE_CHECKING:
    from orchestrator.runs import Prepared

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
# typer brings its own click, or uses the one that is installed: the class is the same by its exported subclass.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


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


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Experiment files.", show_default=False)],
    set: Set = NONE,
    json_: Json = False,
) -> None:
    """Validate experiment files; nothing is run. All mistakes at once, with file, line and column."""
    from orchestrator.runs import checked

    problems: list[Any] = []
    for file in files:
        try:
            checked(file, list(set))
            if not json_:
                typer.echo(f"{file}: ok")
        except ConfigError as error:
            problems += error.problems
    if json_:
        typer.echo(json.dumps({"ok": not problems, "problems": [p.__dict__ for p in problems]}))
        if problems:
            raise typer.Exit(2)
    elif problems:
        raise ConfigError(problems)


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


@app.command("list")
def list_(storage: Storage = None, json_: Json = False) -> None:
    """List the runs of a storage folder."""
    from orchestrator.folder import list_runs, storage_of
    from orchestrator.printing import show_runs

    show_runs(list_runs(storage_of(storage)), as_json=json_)


@app.command()
def show(name: Run, storage: Storage = None, json_: Json = False) -> None:
    """Show one run: status, metrics, figures, checkpoints, how to go on."""
    from orchestrator import folder
    from orchestrator.printing import show_run

    show_run(folder.find(name, storage), as_json=json_)


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(_guarded(arguments if arguments is not None else sys.argv[1:]))


def _guarded(arguments: list[str]) -> int:
    """The exit code of one call; no exception gets out."""
    try:
        answer = app(arguments, prog_name="orchestrator", standalone_mode=False)
        return answer if isinstance(answer, int) else 0
    except typer.Exit as error:
        return error.exit_code
    except _UsageError as error:
        error.show()
        return 2
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OrchestratorError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    except Exception:
        return _our_bug()


def _our_bug() -> int:
    """One line, and the traceback in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="orchestrator-bug-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    print(f"orchestrator has a bug here; the traceback is in {file.name}", file=sys.stderr)
    if logging.getLogger("orchestrator").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    return 1
