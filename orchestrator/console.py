"""What a person sees while a run trains: one progress line; and the signals that stop it.

Everything here goes to stderr.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from orchestrator.config import Experiment
from orchestrator.folder import RunFolder, read_jsonl

PLAIN_EVERY_S = 30.0
PIPE_WIDTH = 500
"""Nothing is folded or cut where nobody looks."""


def console(*, stderr: bool = True) -> Console:
    """A console that knows terminals, NO_COLOR and CI."""
    force = False if os.environ.get("CI") or os.environ.get("TERM") == "dumb" else None
    made = Console(stderr=stderr, force_terminal=force, highlight=False, markup=False, soft_wrap=True)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


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
    if folder.stop.exists() or step >= total:
        ahead = "  ending …"  # last checkpoint, figures, MLflow
    else:
        ahead = f"  ETA {_duration(spent / done * (total - step))}" if done > 0 else ""
    shown = [f"{name} {latest[name]:.3e}" for name in ("loss", "validation/total", "error/l2") if name in latest]
    return f"{folder.path.name}  step {step}/{total} ({100 * step // max(total, 1)} %)  {'  '.join(shown)}{ahead}"


def _duration(seconds: float) -> str:
    seconds = int(max(seconds, 0))
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02d}"
    )
