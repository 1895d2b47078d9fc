"""The Markdown summary that heads a run's page in MLflow: outcome, metrics, folder, how to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEADS = ("error", "validation", "unknown", "loss")
"""Metrics that are shown, in this order."""
_FIRST = ("error/l2", "validation/total", "loss")
"""Each ahead of its kind."""


def note(
    run: Mapping[str, Any],
    result: Mapping[str, Any],
    status: str,
    folder: Path,
    warnings: Sequence[str] = (),
    picture: str = "",
) -> str:
    """The summary of a run that has ended with `status` (or is still `running`).

    `run`: the content of `run.json`; `result`: of `result.json`, {} where there is none; `picture`: the address of an
    image that the page can show.
    """
    step, reason = result.get("step"), str(result.get("reason") or result.get("message") or "").strip()
    metrics = sorted(((k, v) for k, v in (result.get("metrics") or {}).items() if k.startswith(_HEADS)), key=_rank)
    at = f" at step {step:,}" if isinstance(step, int) else ""
    why = f" ({reason})" if reason else ""
    first = "".join(f", {name} = {value:.3g}" for name, value in metrics[:2])
    lines = [f"**{run['name']}**: {status}{at}{why}{first}", "", f"Folder: `{folder}`"]
    if status not in ("finished", "running", "waiting"):
        lines += ["", f"Go on with: `orchestrator resume {folder}`"]
    if picture:
        lines += ["", f"![current figure]({picture})"]
    if metrics:
        lines += ["", "| metric | last value |", "|:--|--:|", *(f"| {k} | {v:.6g} |" for k, v in metrics)]
    if result.get("train_s"):
        lines += ["", f"Trained for {result['train_s']:.1f} s."]
    if warnings:
        lines += ["", "Warnings:", "", *(f"- {w}" for w in list(dict.fromkeys(warnings))[:10])]
    return "\n".join(lines)


def _rank(item: tuple[str, Any]) -> tuple[int, bool, str]:
    name = item[0]
    return next(i for i, head in enumerate(_HEADS) if name.startswith(head)), name not in _FIRST, name
