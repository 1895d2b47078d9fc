"""What commands print when something is done: results on stdout, tables, and how to go on on stderr."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from backends.checkpoint import listing
from backends.errors import OrchestratorError, RunFailed, StorageFailed
from orchestrator.console import console
from orchestrator.folder import RunFolder, read_jsonl, status
from orchestrator.result import RunResult

EXIT_CODES = {"killed": 130, "preempted": 143, "failed": 3}


def tabular(out: Console, *columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """A table: ruled on a terminal; elsewhere plain columns, one line per row, for `grep` and `awk`."""
    ruled = {} if out.is_terminal else {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    table = Table(title=title, title_justify="left", **ruled)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def finish(result: RunResult, *, as_json: bool, quiet: bool) -> None:
    """Print the result and leave with the exit code of its status."""
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    elif not quiet:
        summarize(result)
    if result.unsent:
        warn(f"MLflow does not have everything yet; it is kept in {result.path}: run `orchestrator sync {result.path}`")
    if result.status in EXIT_CODES:
        if not quiet:
            console().print(f"go on with: orchestrator resume {result.path}")
        raise typer.Exit(EXIT_CODES[result.status])


def failed(folder: RunFolder, error: OrchestratorError, *, as_json: bool) -> None:
    """Say why a run failed, and what is left of it."""
    if as_json:
        typer.echo(json.dumps(_ended(folder).as_dict()))
    err = console()
    err.print(str(error))
    if not isinstance(error, RunFailed):
        return
    err.print(f"run folder: {folder.path}")
    saved = listing(folder.checkpoints)
    if isinstance(error, StorageFailed):
        err.print(f"go on with: orchestrator resume {folder.path}")
    elif saved:
        err.print(
            f"saved:      {saved[-1]}\n"
            f"start from it with: orchestrator run {folder.experiment} -s PATH=VALUE --start-from {folder.path}"
        )


def warn(message: str) -> None:
    """One warning on stderr."""
    console().print(f"warning: {message}")


SUMMARY = ("loss", "loss/", "validation/", "error/", "unknown/", "time/")


def summarize(result: RunResult) -> None:
    """The summary table, the figure's path and how to open the MLflow UI."""
    out = console(stderr=True)
    title = f"{result.path.name}: {result.status} at step {result.step}"
    table = tabular(out, "metric", "value", title=title, right=("value",))
    for name in sorted(
        result.metrics, key=lambda n: ([i for i, p in enumerate(SUMMARY) if n == p or n.startswith(p)] or [9], n)
    ):
        if name.startswith(SUMMARY):
            table.add_row(name, _number(result.metrics[name]))
    out.print(table)
    if result.reason:
        out.print(f"stopped:    {result.reason}")
    for message in result.warnings:
        out.print(f"warning:    {message}")
    out.print(f"run folder: {result.path}")
    pictures = [p for p in result.figures if "solution" in p.name] or result.figures
    if pictures:
        out.print(f"figure:     {pictures[-1]}")
    if result.run_id:
        out.print(f"MLflow run: {result.run_id}  (open the UI with: orchestrator ui)")


def _number(value: float) -> str:
    return f"{value:.6g}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def show_agreement(outcome: Mapping[str, Any], *, as_json: bool) -> None:
    """The differences between the backends."""
    if as_json:
        typer.echo(json.dumps(outcome))
        return
    out = console(stderr=False)
    title, value = (
        f"jax and torch over {outcome['steps']} steps in {outcome['precision']}",
        "largest relative difference",
    )
    table = tabular(out, "what", value, title=title, right=(value,))
    table.add_row("gradient at step 0", f"{outcome['gradients']:.1e}")
    for name, value in outcome["terms"].items():
        table.add_row(f"loss/{name}", f"{value:.1e}")
    out.print(table)


def show_checks(problems: Sequence[Any], parts: Mapping[str, Sequence[Any]], *, smoke: bool, as_json: bool) -> None:
    """What `check` found: problems (told by the error that ends it) and, after `--smoke`, each file's parts."""
    if as_json:
        found = {"ok": not problems, "problems": [p.__dict__ for p in problems]}
        if smoke:
            found["smoke"] = {file: [p.__dict__ for p in tried] for file, tried in parts.items()}
            found["ok"] = found["ok"] and all(p.state != "failed" for tried in parts.values() for p in tried)
        typer.echo(json.dumps(found))
        return
    out = console(stderr=False)
    for file, tried in parts.items() if smoke else ():
        table = tabular(out, "part", "state", "s", "message", title=str(file), right=("s",))
        for part in tried:
            table.add_row(part.part, part.state, f"{part.seconds:.1f}", part.message)
        out.print(table)


def show_runs(runs: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """A line per run."""
    if as_json:
        typer.echo(json.dumps(list(runs)))
        return
    out, numbers = console(stderr=False), ("step", "error/l2", "validation/total")
    table = tabular(out, "run", "status", *numbers, "started", right=numbers)
    for entry in runs:
        metrics = entry.get("metrics") or {}
        cells = [_number(metrics[k]) if _is_number(metrics.get(k)) else "" for k in ("error/l2", "validation/total")]
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["started"])) if entry.get("started") else ""
        table.add_row(str(entry["folder_name"]), str(entry["status"]), str(entry.get("step", "")), *cells, started)
    out.print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def show_run(folder: RunFolder, *, as_json: bool) -> None:
    """Status, metrics, pictures and checkpoints of one run."""
    result = _ended(folder)
    data = {
        **result.as_dict(),
        "status": status(folder),
        "figures": [str(p) for p in result.figures],
        "checkpoints": [str(p) for p in listing(folder.checkpoints)],
        "warnings": list(result.warnings),
        "notes": [e["message"] for e in read_jsonl(folder.events)[0] if e.get("event") == "stage"],
    }
    if as_json:
        typer.echo(json.dumps(data))
        return
    out = console(stderr=False)
    out.print(f"{folder.path}: {data['status']} at step {result.step}")
    for name, value in result.metrics.items():
        out.print(f"  {name:<28} {_number(value)}")
    for title in ("checkpoints", "figures", "notes", "warnings"):
        for entry in data[title]:
            out.print(f"{title[:-1]}: {entry}")
    if data["status"] != "finished":
        out.print(f"go on with: orchestrator resume {folder.path}")


def _ended(folder: RunFolder) -> RunResult:
    """The result as recorded, or what can be said of a run without one."""
    if not folder.result.exists():
        return RunResult.of(folder, {"status": status(folder)}, None)
    data = json.loads(folder.result.read_text(encoding="utf-8"))
    known = {k: data[k] for k in ("status", "step", "metrics", "checkpoint", "train_s", "reason", "run_id", "unsent")}
    warnings = tuple(e["message"] for e in read_jsonl(folder.events)[0] if e.get("event") == "warning")
    return RunResult(folder, **known, warnings=warnings)


def show_tasks(*, as_json: bool) -> None:
    """The tasks that ship: kind, what it is, its terms and settings."""
    from orchestrator.catalogue import catalogue

    entries = catalogue()
    if as_json:
        typer.echo(json.dumps(entries))
        return
    out = console(stderr=False)
    table = tabular(out, "kind", "what", "terms", "settings", "reference")
    for entry in entries:
        settings = ", ".join(f"{k}={_setting(v)}" for k, v in entry["settings"].items())
        table.add_row(
            entry["kind"], entry["what"], ", ".join(entry["terms"]), settings, "yes" if entry["reference"] else ""
        )
    out.print(table)


def _setting(value: Any) -> str:
    return "…" if value is None else _number(value) if isinstance(value, float) else str(value)
