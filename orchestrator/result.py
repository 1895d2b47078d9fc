"""What a run gives back: the same data in Python, in `result.json` and with `--json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import OrchestratorError
from orchestrator.folder import RunFolder, read_jsonl
from orchestrator.hooks import Status

if TYPE_CHECKING:
    from orchestrator.uploader import Report


@dataclass(frozen=True)
class RunResult:
    """A run that has ended."""

    folder: RunFolder
    status: Status
    step: int
    metrics: dict[str, float]
    """The last recorded value of each metric."""
    checkpoint: str | None = None
    """Path of the newest checkpoint, relative to the run folder."""
    train_s: float = 0.0
    reason: str = ""
    run_id: str | None = None
    """The MLflow run; None where the tracking server was never reached."""
    unsent: int = 0
    """Records that MLflow does not have yet (`orchestrator sync RUN` sends them)."""
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, folder: RunFolder, outcome: Mapping[str, Any], error: Exception | None) -> RunResult:
        """From what the worker returned; after a failure from what it had recorded."""
        if error is None and outcome.get("step") is not None:
            return cls(
                folder,
                outcome["status"],
                int(outcome["step"]),
                _finite(outcome["metrics"]),
                f"checkpoints/{outcome['checkpoint']}" if outcome["checkpoint"] else None,
                float(outcome["train_s"]),
                outcome["reason"],
                warnings=tuple(_warnings(folder)),
            )
        records, _ = read_jsonl(folder.metrics)
        latest: dict[str, float] = {}
        for record in records:
            latest.update(record["metrics"])
        from backends.checkpoint import listing

        saved = listing(folder.checkpoints)
        return cls(
            folder,
            "failed" if error else outcome.get("status", "killed"),
            int(records[-1]["step"]) if records else 0,
            _finite(latest),
            f"checkpoints/{saved[-1].name}" if saved else None,
            float(latest.get("time/train_s", 0.0)),
            _said(error) if error else outcome.get("reason", ""),
            warnings=tuple(_warnings(folder)),
        )

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    def tracked(self, report: Report) -> RunResult:
        """The same result with what the uploader says."""
        return replace(self, run_id=report.run_id, unsent=0 if report.complete else max(report.unsent, 1))

    def as_dict(self) -> dict[str, Any]:
        """What `result.json` and `--json` hold."""
        return {
            "run_id": self.run_id,
            "folder": str(self.path),
            "status": self.status,
            "step": self.step,
            "metrics": self.metrics,
            "checkpoint": self.checkpoint,
            "train_s": self.train_s,
            "reason": self.reason,
            "unsent": self.unsent,
        }

    @property
    def history(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """{metric: (steps, values)} of everything that was recorded."""
        return history(self.folder)

    @property
    def figures(self) -> list[Path]:
        """The pictures, newest last."""
        return sorted(
            (p for p in self.folder.figures.rglob("*") if p.suffix in (".png", ".pdf", ".svg")),
            key=lambda p: (p.stem.rpartition("-")[2], p.name),
        )

    def predict(
        self, points: Mapping[str, Any], names: Sequence[str] | None = None, *, checkpoint: str = "last"
    ) -> dict[str, NDArray[np.float64]]:
        """Outputs of the trained network at points.

        `points`: one array per coordinate (or input column), all of one length. `names`: outputs, derivatives such as
        `u_x` and terms such as `residual/pde` included; default: all fields. `checkpoint`: `last`, `best` or a name.
        It is loaded on the run's backend, in this process.
        """
        from orchestrator.predictions import predict

        return predict(self.folder, points, names, checkpoint=checkpoint)

    def __repr__(self) -> str:
        error = self.metrics.get("error/l2", self.metrics.get("validation/total", math.nan))
        name = "error/l2" if "error/l2" in self.metrics else "validation/total"
        return f"<RunResult {self.path.name}: {self.status} at step {self.step}, {name} {error:.3g}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(k)}</td><td>{v:.6g}</td></tr>" for k, v in sorted(self.metrics.items()))
        return f"<b>{escape(self.path.name)}</b>: {self.status} at step {self.step}<table>{rows}</table>"


def history(folder: RunFolder) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """{metric: (steps, values)} from `metrics.jsonl`."""
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for record in read_jsonl(folder.metrics)[0]:
        for name, value in record["metrics"].items():
            steps.setdefault(name, []).append(int(record["step"]))
            values.setdefault(name, []).append(math.nan if value is None else float(value))
    return {name: (np.array(steps[name]), np.array(values[name])) for name in steps}


def _warnings(folder: RunFolder) -> list[str]:
    return [r["message"] for r in read_jsonl(folder.events)[0] if r.get("event") == "warning"]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {error}"


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in sorted(metrics.items()) if v is not None and math.isfinite(float(v))}
