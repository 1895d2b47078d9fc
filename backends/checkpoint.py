"""Checkpoints: a run's state as a folder of plain files, complete or absent, verified when opened.

    checkpoints/step-000005000/
        params.safetensors  optimizer.safetensors  aux.safetensors     the backend's arrays, by first part of the name
        points.safetensors                                             arrays of the feed
        loop.json                                                      callbacks, weighting, knobs
        meta.json                                                      what it is; sha256 of every file; written last

The only writer of state. There is no pickle and no pointer to "the latest": the newest folder whose hashes
are right is the latest. A folder is written under a temporary name, flushed, and renamed, so a process or a
machine may die at any moment. One process writes; any number may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from backends import files
from backends.errors import StorageFailed, UserError

FORMAT = 1
META, LOOP, POINTS = "meta.json", "loop.json", "points"
GROUPS = ("params", "optimizer", "aux")
"""Files that are always there; arrays of any other first part (`constants/kappa`) get a file of that name."""
_NAME = re.compile(r"step-(\d{9,})")
_REPLACED = re.compile(r"\.old-(step-(\d{9,}))-[0-9a-f]{8}")


@dataclass(frozen=True)
class Snapshot:
    """All state of a run after `step` optimizer steps."""

    step: int
    arrays: Mapping[str, NDArray[Any]]
    """`Backend.arrays`: `params/<name>`, `optimizer/<kind>/…`, `aux/<name>`, …"""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the run says about itself: stage, precision, backend, versions, metrics, …; JSON-able."""
    loop: Mapping[str, Any] = field(default_factory=dict)
    """State of callbacks, weighting and knobs; JSON-able, and NaN and infinities are kept."""
    points: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """`Feed.arrays`."""


# --- writing ---


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint into `folder` (`…/checkpoints`) and return its path once it is safely on the disk.

    A checkpoint of the same step is replaced. Raises StorageFailed where the disk is full or can't be written, and
    then older checkpoints are as they were; UserError for state that no checkpoint can hold.
    """
    target = folder / f"step-{snapshot.step:09d}"
    unique = f"{target.name}-{os.urandom(4).hex()}"
    temporary, replaced = folder / f".tmp-{unique}", folder / f".old-{unique}"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            files.sync_folder(folder.parent)
        clean(folder)
        _write(temporary, snapshot)
        if target.exists():  # a resumed run reaches a step again
            target.rename(replaced)
        temporary.rename(target)
        files.sync_folder(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            if replaced.exists() and not target.exists():
                replaced.rename(target)
        if isinstance(error, OSError):
            raise StorageFailed(_not_written(folder, snapshot, error)) from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def _write(folder: Path, snapshot: Snapshot) -> None:
    """Every file of the checkpoint, the one with the hashes last."""
    folder.mkdir()
    sums: dict[str, dict[str, Any]] = {}

    def put(name: str, data: bytes) -> None:
        files.write(folder / name, data)
        sums[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for group, arrays in {**_grouped(snapshot.arrays), POINTS: snapshot.points}.items():
        put(f"{group}.safetensors", _tensors(group, arrays))
    put(LOOP, _json(snapshot.loop, "the state of callbacks and weighting").encode())
    about = {"format": FORMAT, "step": snapshot.step, "saved": time.time(), "meta": snapshot.meta, "files": sums}
    about = json.loads(_json(about, "the description of the run"))
    files.write(folder / META, json.dumps({**about, "sha256": _sum(about)}, indent=1).encode())
    files.sync_folder(folder)


def _grouped(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """`{"params": {"net/w0": …}}` from `{"params/net/w0": …}`."""
    groups: dict[str, dict[str, NDArray[Any]]] = {group: {} for group in GROUPS}
    for name, array in arrays.items():
        group, slash, rest = name.partition("/")
        if not slash or not rest or group == POINTS or not group.isidentifier():
            raise ValueError(f"arrays of a backend are named params/…, optimizer/…, aux/…, not {name!r}")
        groups.setdefault(group, {})[rest] = array
    return groups


def _tensors(group: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    # safetensors writes the memory as it lies: a transposed array would come back wrong, without a word.
    # ascontiguousarray makes a 0-d array 1-d.
    plain = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in arrays.items()}
    try:
        return safetensors.numpy.save(plain)
    except safetensors.SafetensorError as error:
        kinds = ", ".join(sorted({str(a.dtype) for a in plain.values()}))
        raise UserError(f"arrays {group}/… can't be kept in a checkpoint ({kinds}): {error}") from error


def _json(data: Any, what: str) -> str:
    try:
        return json.dumps(data, default=_plain)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{what} can't be kept in a checkpoint: {error}; only numbers, text, lists and dicts can"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _sum(about: Mapping[str, Any]) -> str:
    """sha256 of a description in its canonical form."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _not_written(folder: Path, snapshot: Snapshot, error: OSError) -> str:
    room = ""
    with suppress(OSError):
        needed = sum(np.asarray(a).nbytes for a in (*snapshot.arrays.values(), *snapshot.points.values()))
        room = f" ({needed / 1e6:.3g} MB of arrays to write, {shutil.disk_usage(folder).free / 1e6:.3g} MB free)"
    return (
        f"the checkpoint of step {snapshot.step} could not be written to {folder}: {error.strerror or error}{room}; "
        "older checkpoints are untouched. Make room, or move the run folder to a larger disk, and resume it"
    )


# --- reading ---


def load(path: Path) -> Snapshot:
    """Read a checkpoint and verify every byte of it.

    Raises StorageFailed where a file is missing or damaged, UserError where a newer version wrote it.
    """
    about = _about(path)
    data = {name: _verified(path / name, sums) for name, sums in about["files"].items()}
    arrays: dict[str, NDArray[Any]] = {}
    points: dict[str, NDArray[Any]] = {}
    for name, content in data.items():
        group, dot, kind = name.rpartition(".")
        if dot and kind == "safetensors":
            tensors = dict(sorted(safetensors.numpy.load(content).items()))  # its own order is another one each time
            if group == POINTS:
                points = tensors
            else:
                arrays.update({f"{group}/{key}": array for key, array in tensors.items()})
    return Snapshot(about["step"], arrays, about["meta"], json.loads(data[LOOP]), points)


def verify(path: Path) -> None:
    """Raise what `load` would raise."""
    for name, sums in _about(path)["files"].items():
        _verified(path / name, sums)


def _about(path: Path) -> dict[str, Any]:
    """`meta.json`, which vouches for itself by a hash over everything else that it says."""
    file = path / META
    try:
        about = json.loads(file.read_bytes())
        written = about.pop("sha256")
    except FileNotFoundError as error:
        raise StorageFailed(f"{file} is missing: this is no complete checkpoint") from error
    except OSError as error:
        raise StorageFailed(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise StorageFailed(f"{file} is damaged: it is not the JSON that was written") from error
    if _sum(about) != written:
        raise StorageFailed(f"{file} is damaged: sha256 of its content is {_sum(about)}, {written} was written")
    if about["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {about['format']}, which a newer version of orchestrator wrote; "
            f"this one reads formats up to {FORMAT}: upgrade orchestrator"
        )
    return about


def _verified(file: Path, sums: Mapping[str, Any]) -> bytes:
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise StorageFailed(f"{file} is missing") from error
    except OSError as error:
        raise StorageFailed(f"{file} can't be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sums["sha256"]:
        sizes = f" ({len(data)} of {sums['bytes']} bytes)" if len(data) != sums["bytes"] else ""
        raise StorageFailed(f"{file} is damaged{sizes}: its sha256 is {found}, {sums['sha256']} was written")
    return data


def newest(folder: Path, warn: Callable[[str], None]) -> Snapshot | None:
    """The newest sound checkpoint in `folder`; None where there is none. Damaged ones are named through `warn`.

    Raises UserError where a newer version of orchestrator wrote the newest one.
    """
    for _, path in sorted(_candidates(folder).items(), reverse=True):
        try:
            return load(path)
        except StorageFailed as error:
            warn(f"a checkpoint is skipped: {error}")
    return None


def listing(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest step first, not verified."""
    return [path for _, path in sorted(_steps(folder).items())]


def _steps(folder: Path) -> dict[int, Path]:
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {int(found[1]): path for path in entries if (found := _NAME.fullmatch(path.name))}


def _candidates(folder: Path) -> dict[int, Path]:
    """Checkpoints, and those that were being replaced when the process died between two renames."""
    found = {int(m[2]): p for p in folder.glob(".old-*") if (m := _REPLACED.fullmatch(p.name))}
    return {**found, **_steps(folder)}


# --- removing ---


def prune(folder: Path, keep: int, protect: Collection[int] = ()) -> list[Path]:
    """Remove all but the newest `keep` checkpoints and those of the steps `protect`; returns what was removed.

    The last sound checkpoint is never removed, however old. Raises StorageFailed.
    """
    steps = _steps(folder)
    kept = {*sorted(steps, reverse=True)[: max(keep, 1)], *protect} & set(steps)
    doomed = sorted(set(steps) - kept, reverse=True)
    if doomed and not any(_sound(steps[s]) for s in sorted(kept, reverse=True)):
        spared = next((s for s in doomed if _sound(steps[s])), None)
        doomed = [s for s in doomed if s != spared]
    for step in reversed(doomed):
        trash = folder / f".trash-{steps[step].name}-{os.urandom(4).hex()}"
        try:
            steps[step].rename(trash)
        except OSError as error:
            raise StorageFailed(f"the old checkpoint {steps[step]} can't be removed: {error.strerror}") from error
        shutil.rmtree(trash, ignore_errors=True)
    return [steps[s] for s in reversed(doomed)]


def _sound(path: Path) -> bool:
    try:
        verify(path)
    except (StorageFailed, UserError):
        return False
    return True


def clean(folder: Path) -> None:
    """Clear away what a killed process left behind: half-written, half-removed and half-replaced checkpoints.

    For the process that owns the run only: it would remove what another one is writing.
    """
    for path in list(folder.glob(".*")):
        replaced = _REPLACED.fullmatch(path.name)
        if replaced and not (folder / replaced[1]).exists():
            with suppress(OSError):
                path.rename(folder / replaced[1])
        elif replaced or path.name.startswith((".tmp-step-", ".trash-step-")):
            shutil.rmtree(path, ignore_errors=True)
