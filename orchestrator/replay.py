"""The replay of one run's folder to MLflow: what is not there yet is sent, in order, as often as needed, stored once.

Metrics keep the step and time that the worker gave them (together they are MLflow's primary key), artifacts have
fixed names, parameters and tags are sent again unchanged: so everything may be repeated after a crash at any point.
"""

from __future__ import annotations

import math
import posixpath
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator import artifacts
from orchestrator.jsonl import read_json, write_json
from orchestrator.mlflow_store import StoreRefused, experiment_id, first_contact, known_run, run_of
from orchestrator.spool import EVENTS, METRIC_STREAMS, Sent, complete_lines, points
from orchestrator.summary import note
from orchestrator.tracking import TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

BATCH = 900
"""Points per request; MLflow takes 1000 entities."""
MLFLOW_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "killed": "KILLED",
    "preempted": "KILLED",
    "failed": "FAILED",
}
"""Our words for a run that has ended, in MLflow's."""


class Replay:
    """A connection to the MLflow run of one run folder. `sent` is kept up to date; the caller saves it."""

    def __init__(self, folder: Path, sent: Sent) -> None:
        """Connect. Raises StoreRefused, MlflowException, OSError where the store can't be used now."""
        from mlflow import MlflowClient

        self.folder, self.sent, self.record = folder, sent, read_json(folder / "run.json")
        uri = self.record["uri"]
        if sent.store != uri:
            sent.forget(uri)
        with first_contact(uri):
            self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.run_id = known_run(self.client, folder, self.record) or self._found_or_made(uri)
        self._begin()

    def _found_or_made(self, uri: str) -> str:
        experiment = experiment_id(self.client, self.record["experiment"], uri)
        run, made = run_of(self.client, self.folder, self.record, experiment)
        if made:
            self.sent.forget(uri)
        known = {
            "run_id": run.info.run_id,
            "experiment_id": run.info.experiment_id,
            "experiment": self.record["experiment"],
            "uri": uri,
            "artifact_uri": run.info.artifact_uri,
        }
        write_json(self.folder / "mlflow.json", known)
        return str(run.info.run_id)

    def _begin(self) -> None:
        """Parameters, once; tags, where they changed; the files that describe the run."""
        tags = {k: v for k, v in self.record["tags"].items() if k != f"{TAG}status"}
        if not self.sent.params:
            self._parameters()
            self._tags({f"{TAG}status": "waiting", "mlflow.note.content": self._summary("waiting", {})})
            self.sent.params = True
        if tags != self.sent.tags:
            self._tags(tags)
            self.sent.tags = tags
        artifacts.send_files(self.client, self.run_id, self.folder, artifacts.AT_START, self.sent)

    def _parameters(self) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        wanted = [Param(k, _cut(str(v))) for k, v in self.record["params"].items()]
        try:
            self.client.log_batch(self.run_id, params=wanted, synchronous=True)
        except MlflowException as error:
            if not _refused(error):
                raise
            self._alive()
            there = self.client.get_run(self.run_id).data.params
            self.client.log_batch(self.run_id, params=[p for p in wanted if p.key not in there], synchronous=True)

    def _tags(self, tags: Any) -> None:
        from mlflow.entities import RunTag

        if isinstance(tags, dict) and tags:
            self.client.log_batch(self.run_id, tags=[RunTag(str(k), str(v)) for k, v in tags.items()], synchronous=True)

    def step(self) -> bool:
        """Send the next batch of each stream; whether there was anything. Raises like the constructor."""
        moved = False
        for name in METRIC_STREAMS:
            moved |= self._metrics(name)
        return self._events() | moved

    # --- metrics ---

    def _metrics(self, name: str) -> bool:
        from mlflow.entities import Metric

        start = end = self.sent.offsets.get(name, 0)
        steps = dict(self.sent.steps)
        batch: list[Metric] = []
        spoilt = {}
        for offset, record in complete_lines(self.folder / name, start):
            end = offset
            found = list(points(record, steps)) if record is not None else []
            self.sent.refused += record is None
            for key, value, milliseconds, step in found:
                steps[key] = step
                number = _number(value)
                if number is None:
                    spoilt.setdefault(key, step)
                else:
                    batch.append(Metric(metric_key(key), number, milliseconds, step))
            if len(batch) >= BATCH:
                break
        if end == start:
            return False
        self.sent.sent += self._accepted(batch)
        if spoilt.keys() - self.sent.nonfinite.keys():
            self.sent.nonfinite = {**spoilt, **self.sent.nonfinite}
            said = ", ".join(f"{key} from step {step}" for key, step in sorted(self.sent.nonfinite.items()))
            self._tags({f"{TAG}nonfinite": said})
        self.sent.offsets[name], self.sent.steps = end, steps
        return True

    def _accepted(self, batch: Sequence[Metric]) -> int:
        """How many points MLflow took; those that it refuses for good are found by halving and counted."""
        from mlflow.exceptions import MlflowException

        if not batch:
            return 0
        try:
            self.client.log_batch(self.run_id, metrics=batch, synchronous=True)
        except MlflowException as error:
            if not _refused(error):
                raise
            self._alive()
            if len(batch) == 1:
                self.sent.refused += 1
                return 0
            half = len(batch) // 2
            return self._accepted(batch[:half]) + self._accepted(batch[half:])
        return len(batch)

    def _alive(self) -> None:
        """MLflow also says "invalid" of a run that was deleted: that is no fault of the data."""
        info = self.client.get_run(self.run_id).info
        if info.lifecycle_stage != "active":
            raise StoreRefused(f"the MLflow run was deleted; restore it: mlflow runs restore --run-id {self.run_id}")

    # --- events ---

    def _events(self) -> bool:
        start = self.sent.offsets.get(EVENTS, 0)
        for end, record in complete_lines(self.folder / EVENTS, start):
            self._event(record or {}, end)
            self.sent.offsets[EVENTS] = end
        return self.sent.offsets.get(EVENTS, 0) != start

    def _event(self, event: dict[str, Any], end: int) -> None:
        kind = event.get("event")
        if kind == "status":
            self._status(str(event.get("status")), event, end)
        elif kind == "figure":
            artifacts.send_figure(self.client, self.run_id, self.folder, event, self.sent)
        elif kind == "tags":
            self._tags(event.get("tags"))
        elif kind == "resumed":
            self._tags({f"{TAG}resumed": str(event.get("message", ""))})
        elif kind == "artifact":
            artifacts.send_files(self.client, self.run_id, self.folder, [str(event.get("path"))], self.sent)
        elif kind == "checkpoint":
            path = str(event.get("path"))
            self.sent.checkpoints.append((path, bool(event.get("best"))))
            if self.record.get("checkpoints") == "all":
                artifacts.send_folder(self.client, self.run_id, self.folder, path, self.sent)

    def _status(self, status: str, event: dict[str, Any], end: int) -> None:
        if status != self.sent.status:
            self._tags({f"{TAG}status": status, "mlflow.note.content": self._summary(status, {})})
        if status not in MLFLOW_STATUS and self.sent.told in MLFLOW_STATUS:
            self.client.update_run(self.run_id, status="RUNNING")
            self.sent.told = status
        self.sent.status, self.sent.message = status, str(event.get("message") or "")
        self.sent.status_ms = int(float(event.get("time") or time.time()) * 1000)
        self.sent.final = end if status in MLFLOW_STATUS else 0

    # --- the end ---

    def close(self, status: str, reason: str = "") -> None:
        """Results, log, checkpoints, summary; then the run has ended for MLflow too."""
        artifacts.send_files(self.client, self.run_id, self.folder, artifacts.AT_END, self.sent)
        artifacts.send_checkpoints(
            self.client, self.run_id, self.folder, str(self.record.get("checkpoints", "best")), self.sent
        )
        result = read_json(self.folder / "result.json")
        if reason:
            result = {**result, "reason": reason}
        self._tags({f"{TAG}status": status, "mlflow.note.content": self._summary(status, result)})
        ended = self.sent.status_ms if status == self.sent.status else int(time.time() * 1000)
        self.client.set_terminated(self.run_id, MLFLOW_STATUS[status], ended)
        self.sent.told = status

    def _summary(self, status: str, result: dict[str, Any]) -> str:
        events = [e for _, e in complete_lines(self.folder / EVENTS, 0, 1 << 40) if e]
        warnings = [str(e.get("message")) for e in events if e.get("event") == "warning"]
        shown = artifacts.first_picture(self.run_id, self.sent)
        address = (
            f"get-artifact?path={quote(shown)}&run_uuid={self.run_id}" if shown else ""
        )  # relative to MLflow's page
        return _cut(note(self.record, result, status, self.folder, warnings, address), 7900)


def metric_key(name: str) -> str:
    """`name` as MLflow takes it: letters, digits, `_ - . : /` and spaces, a plain relative path, at most 250."""
    key = posixpath.normpath(re.sub(r"[^\w.\- :/]", "_", name).strip("/") or "_")
    return ("_" if key in (".", "..") or key.startswith("../") else key)[:250]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _cut(text: str, limit: int = 5900) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … (whole in the run folder)"


def _refused(error: Any) -> bool:
    return error.error_code == "INVALID_PARAMETER_VALUE"
