"""What a person sees: one progress line, a summary table, and the signals that stop a run.

Progress and summaries go to stderr, results to stdout.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from backends.checkpoint import listing
from backends.errors import OrchestratorError, RunFailed, StorageFailed
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder, read_jsonl, status
from orchestrator.result import RunResult

PLAIN_EVERY_S = 30.0
PIPE_WIDTH = 500
"""Nothing is folded or cut where nobody looks."""
EXIT_CODES = {"killed": 130, "preempted": 143, "failed": 3}


def console(*, stderr: bool = True) -> Console:
    """A console that knows terminals, NO_COLOR and CI."""
    force = False if os.environ.get("CI") or os.environ.get("TERM") == "dumb" else None
    made = Console(stderr=stderr, force_terminal=force, highlight=False, markup=False, soft_wrap=True)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def tabular(out: Console, *columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """A table: ruled on a terminal; elsewhere plain columns, one line per row, for `grep` and `awk`."""
    ruled = {} if out.is_terminal else {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    table = Table(title=title, title_justify="left", **ruled)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def configure_logging(verbose: int) -> None:
    """Our messages from WARNING (-v: INFO, -vv: DEBUG) to stderr; third parties from WARNING."""
    root = logging.getLogger("orchestrator")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    for name in ("ray", "mlflow", "jax", "torch", "matplotlib", "alembic", "urllib3", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)


# --- while it runs ---


@contextmanager
def watched(folder: RunFolder, experiment: Experiment, *, quiet: bool = False, signals: bool = True) -> Iterator[None]:
    """Show progress, and turn Ctrl-C and SIGTERM into a request to stop after the present dispatch."""
    ended = threading.Event()
    thread = threading.Thread(target=_progress, args=(folder, experiment, ended), daemon=True)
    if not quiet:
        thread.start()
    restore = _install(folder) if signals and threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, before in restore.items():
            signal.signal(number, before)
        ended.set()
        if not quiet:
            thread.join(timeout=5)


def _install(folder: RunFolder) -> dict[signal.Signals, Any]:
    """SIGINT once: stop after this dispatch; twice, or when nothing trains any more: now. SIGTERM: stop, preempted."""
    seen: list[float] = []

    def interrupt(number: int, frame: Any) -> None:
        seen.append(time.monotonic())
        if len(seen) > 1 or folder.result.exists():
            raise KeyboardInterrupt
        folder.request_stop("killed")
        os.write(2, b"\nstopping after this dispatch; a checkpoint will be saved (Ctrl-C again: stop now)\n")

    def terminate(number: int, frame: Any) -> None:
        folder.request_stop("preempted")

    return {s: signal.signal(s, h) for s, h in ((signal.SIGINT, interrupt), (signal.SIGTERM, terminate))}


def _progress(folder: RunFolder, experiment: Experiment, ended: threading.Event) -> None:
    """Follow `metrics.jsonl`: a live line on a terminal, a plain one every 30 s without."""
    err = console()
    began, said, offset = time.monotonic(), 0.0, 0
    offset = folder.metrics.stat().st_size if folder.metrics.exists() else 0
    first: tuple[float, int] | None = None
    latest: dict[str, Any] = {}
    step, phase = 0, "starting"
    shown_phase = ""
    while not ended.wait(0.25):
        records, offset = read_jsonl(folder.metrics, offset)
        for record in records:
            step = int(record["step"])
            latest.update({k: v for k, v in record["metrics"].items() if v is not None})
            first = first or (time.monotonic(), step)
        if not latest:
            phase = _phase(folder) or phase
        line = _line(folder, experiment, step, latest, first, phase)
        now = time.monotonic()
        if err.is_terminal:
            err.file.write("\r\x1b[2K" + line[: max(err.width - 1, 20)])
            err.file.flush()
        elif now - said > PLAIN_EVERY_S or (not latest and phase != shown_phase and now - began > 0.5):
            said, shown_phase = now, phase
            err.file.write(time.strftime("%H:%M:%S ") + line + "\n")
            err.file.flush()
    if err.is_terminal:
        err.file.write("\r\x1b[2K")
        err.file.flush()


def _phase(folder: RunFolder) -> str:
    events = [e for e in read_jsonl(folder.events)[0] if e.get("status") in ("waiting", "running") and e.get("message")]
    return str(events[-1]["message"]) if events else ""


def _line(
    folder: RunFolder,
    experiment: Experiment,
    step: int,
    latest: Mapping[str, Any],
    first: tuple[float, int] | None,
    phase: str,
) -> str:
    total = experiment.total_steps
    if not latest or first is None:
        return f"{folder.path.name}  {phase} …"
    spent, done = time.monotonic() - first[0], step - first[1]
    eta = f"  ETA {_duration(spent / done * (total - step))}" if done > 0 else ""
    shown = [f"{name} {latest[name]:.3e}" for name in ("loss", "validation/total", "error/l2") if name in latest]
    return f"{folder.path.name}  step {step}/{total} ({100 * step // max(total, 1)} %)  {'  '.join(shown)}{eta}"


def _duration(seconds: float) -> str:
    seconds = int(max(seconds, 0))
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02d}"
    )


# --- afterwards ---


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
    }
    if as_json:
        typer.echo(json.dumps(data))
        return
    out = console(stderr=False)
    out.print(f"{folder.path}: {data['status']} at step {result.step}")
    for name, value in result.metrics.items():
        out.print(f"  {name:<28} {_number(value)}")
    for title in ("checkpoints", "figures", "warnings"):
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
