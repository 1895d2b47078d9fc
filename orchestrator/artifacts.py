"""Files of a run folder as MLflow artifacts under fixed names, so that sending one again replaces it."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.spool import Sent

if TYPE_CHECKING:
    from mlflow import MlflowClient

AT_START = ("experiment.yaml", "original.yaml", "resolved.json", "provenance.json", "code")
AT_END = (*AT_START, "result.json", "log.txt")
PREVIEW = 900
"""Longest side of the small copy that MLflow's pages show before a click, in pixels."""


def send_files(client: MlflowClient, run_id: str, folder: Path, names: Sequence[str], sent: Sent) -> None:
    """Upload files and folders of the run folder at the same paths; what has not changed since is left out."""
    for name in names:
        path = folder / name
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            _send(client, run_id, folder, file, sent)


def send_folder(client: MlflowClient, run_id: str, folder: Path, name: str, sent: Sent) -> None:
    """Upload one checkpoint; one that has been removed meanwhile is left out."""
    send_files(client, run_id, folder, [name], sent)


def send_checkpoints(client: MlflowClient, run_id: str, folder: Path, policy: str, sent: Sent) -> None:
    """Upload what `tracking.checkpoints` asks for, as far as it still exists."""
    there = [(path, best) for path, best in sent.checkpoints if (folder / path).is_dir()]
    if policy == "best":
        there = [c for c in there if c[1]][-1:] + there[-1:]
    for path, _ in there if policy != "none" else ():
        send_folder(client, run_id, folder, path, sent)


def _send(client: MlflowClient, run_id: str, folder: Path, file: Path, sent: Sent) -> None:
    name = file.relative_to(folder).as_posix()
    try:
        state = file.stat()
    except FileNotFoundError:
        return
    fingerprint = f"{state.st_size}:{state.st_mtime_ns}"
    if sent.files.get(name) == fingerprint:
        return
    parent = file.parent.relative_to(folder).as_posix()
    client.log_artifact(run_id, str(file), None if parent == "." else parent)
    sent.files[name] = fingerprint


def send_figure(client: MlflowClient, run_id: str, folder: Path, event: Mapping[str, Any], sent: Sent) -> None:
    """Upload a figure: its newest form as `figures/<name>.png`, and each step as an image with a slider.

    MLflow's chart pages show an image at step 0 until the slider is moved, so the newest form is also the only step of
    a key of its own, `current/<name>`. A resumed run draws the same figure again: the first one stays.
    """
    path, step = folder / str(event.get("path")), int(event.get("step") or 0)
    key = str(event.get("key") or path.stem)
    if not path.is_relative_to(folder) or not path.is_file() or sent.steps.get(f"image:{key}", -1) >= step:
        return
    name = re.sub(r"-\d+$", "", path.stem)
    for file in sorted(p for p in path.parent.glob(f"{path.stem}.*") if p.suffix != ".npz"):
        _send_as(client, run_id, file, f"{path.parent.name}/{name}{file.suffix}")
    if path.suffix == ".png":
        milliseconds = int(float(event.get("time") or 0) * 1000)
        with tempfile.TemporaryDirectory() as temporary:
            small = Path(temporary) / "small.webp"
            _preview(path, small)
            for stem in (_stem(run_id, key, step, milliseconds), _newest(run_id, key)):
                _send_as(client, run_id, path, f"{stem}.png")
                _send_as(client, run_id, small, f"{stem}+compressed.webp")
        client.set_tag(run_id, "mlflow.loggedImages", "True")
    sent.steps[f"image:{key}"] = step


def first_picture(run_id: str, sent: Sent) -> str:
    """The artifact that shows the newest form of the first figure (the task's own); "" without figures."""
    key = next((k.removeprefix("image:") for k in sent.steps if k.startswith("image:")), None)
    return f"{_newest(run_id, key)}+compressed.webp" if key else ""


def _newest(run_id: str, key: str) -> str:
    return _stem(run_id, f"current/{key.removeprefix('figures/')}", 0, 1)


def _stem(run_id: str, key: str, step: int, milliseconds: int) -> str:
    """Where an image goes: the names of MLflow 3.17, with an id that follows from key and step.

    `MlflowClient.log_image` draws the id at random, so that an image which is sent twice appears twice.
    """
    same = uuid.uuid5(uuid.UUID(run_id), f"{key}/{step}")
    return f"images/{key.replace('/', '~')}+step+{step}+timestamp+{milliseconds}+{same}"


def _send_as(client: MlflowClient, run_id: str, file: Path, name: str) -> None:
    """Upload a file under another name (MLflow takes the name from the file)."""
    parent, _, last = name.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / last
        shutil.copyfile(file, copy)
        client.log_artifact(run_id, str(copy), parent or None)


def _preview(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        small = image.convert("RGB")
        small.thumbnail((PREVIEW, PREVIEW))
        small.save(target, quality=85)
