"""Files of JSON lines that survive kill -9, and JSON files that are whole or not there.

All JSON is strict: what is not finite becomes null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends import files
from backends.errors import StorageFailed


class NotWritten(StorageFailed, OSError):
    """A file that could not be replaced: a StorageFailed that those who try again catch as an OSError."""


class Lines:
    """Appends records to a file, one write per line, so that a killed writer tears at most the last one.

    A full disk is counted in `dropped`, never raised: training goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.dropped = path, 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record. A torn line that a killed writer or a full disk left is ended first; readers skip it."""
        data = encode(record, separators=(",", ":"))
        try:
            # Opened for every line: nothing is left open, and the file may be moved or removed in between.
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) != b"\n":
                    data = b"\n" + data
                if os.write(handle, data) < len(data):
                    self.dropped += 1
            finally:
                os.close(handle)
        except OSError:
            self.dropped += 1


def read_jsonl(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Complete records from byte `offset` on, and the offset behind them. Lines that are no JSON are skipped.

    A last line without its end is still being written: it is read the next time. A file that became shorter is read
    from its beginning.
    """
    try:
        with path.open("rb") as file:
            if offset > file.seek(0, os.SEEK_END):
                offset = 0
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return [r for line in data[:end].split(b"\n") if (r := _record(line)) is not None], offset + end


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file in one piece: a reader sees the old one or the new one. Raises NotWritten."""
    try:
        files.replace(path, encode(data, indent=1))
    except OSError as error:
        raise NotWritten(f"{path} could not be written: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def encode(data: Any, **options: Any) -> bytes:
    """Strict JSON and a newline. NaN and infinities become null, numpy's numbers numbers, anything else text."""
    try:
        text = json.dumps(data, default=_plain, allow_nan=False, **options)
    except ValueError:
        text = json.dumps(_finite(data), default=str, allow_nan=False, **options)
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays, without importing numpy for it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(data: Any) -> Any:
    if hasattr(data, "tolist"):
        data = data.tolist()
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(k): _finite(v) for k, v in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return [_finite(v) for v in data]
    return data
