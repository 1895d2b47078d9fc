"""What is known of one run, whatever has become of it: settings, last metrics, curves, where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from orchestrator.folder import RunFolder, read_json, read_jsonl, status
from orchestrator.result import history
from orchestrator.tracking import params

Setting = str | int | float
Series = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
ENDED_WELL = ("finished", "stopped")
"""Runs whose last metrics are results, so that they may be averaged."""


@dataclass(frozen=True)
class Facts:
    """One run as its folder tells it; nothing of it is changed or locked."""

    folder: RunFolder
    name: str
    """The experiment's name."""
    status: str
    step: int
    """The last recorded step."""
    settings: Mapping[str, Setting]
    """The resolved experiment by dotted path; `code/<file>` is the sha256 of the user's own files."""
    metrics: Mapping[str, float]
    """The last recorded value of each metric; what is not finite is left out."""
    reason: str = ""
    """Why it failed or stopped."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """`provenance.json`"""

    @property
    def label(self) -> str:
        """The folder's name: short, and different for each run of a storage folder."""
        return self.folder.path.name

    @property
    def ended_well(self) -> bool:
        """Whether the run reached its end (or one that was asked for), so that its metrics are results."""
        return self.status in ENDED_WELL

    @property
    def task(self) -> tuple[Setting, Setting]:
        """What it trains: errors of different tasks can't be compared."""
        return self.settings.get("task.kind", ""), self.settings.get("task.target", "")

    @cached_property
    def series(self) -> Series:
        """{metric: (steps, values)} of everything recorded."""
        return history(self.folder)

    @cached_property
    def picture(self) -> Path | None:
        """The last picture of what the task computes, as png or svg; None where none was drawn."""
        events = [e for e in read_jsonl(self.folder.events)[0] if e.get("event") == "figure"]
        own = [e for e in events if str(e.get("key", "")).partition("/")[2] not in HISTORIES]
        wanted = [e for e in own if e.get("key") == "figures/solution"] or own
        last = max((int(e.get("step", 0)) for e in wanted), default=0)
        for event in wanted:
            file = self.folder.path / str(event.get("path", ""))
            if int(event.get("step", 0)) == last and file.resolve().is_relative_to(self.folder.path.resolve()):
                for suffix in (".png", ".svg"):
                    if file.with_suffix(suffix).is_file():
                        return file.with_suffix(suffix)
        return None


HISTORIES = ("losses", "validation", "weights", "rate", "unknowns")
"""Pictures that every run has, of metrics over steps."""


def facts_of(folder: RunFolder) -> Facts:
    """Read a run folder; what is missing or damaged in it is left out."""
    about, result = read_json(folder.run), read_json(folder.result)
    metrics: dict[str, Any] = dict(result.get("metrics") or {})
    step = result.get("step")
    if not result:
        for record in read_jsonl(folder.metrics)[0]:
            metrics.update(record.get("metrics") or {})
            step = record.get("step", step)
    return Facts(
        folder,
        str(about.get("name") or folder.path.name.rpartition("-")[0] or folder.path.name),
        status(folder),
        int(step or 0),
        _settings(folder, about),
        {k: float(v) for k, v in sorted(metrics.items()) if _finite(v)},
        str(result.get("reason") or ""),
        read_json(folder.provenance),
    )


def _settings(folder: RunFolder, about: Mapping[str, Any]) -> dict[str, Setting]:
    """The resolved experiment, flat; from whichever file of the run can be read."""
    kept = read_json(folder.resolved)
    tree = kept.get("experiment") or _yaml(folder.experiment)
    flat = params(tree) if tree else dict(about.get("params") or {})
    return {**flat, **{str(k): str(v) for k, v in (kept.get("files") or {}).items()}}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
