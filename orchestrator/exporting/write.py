"""An export on the disk: a folder that is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from backends import files
from backends.errors import StorageFailed, UserError

SUFFIXES = (".safetensors", ".stablehlo", ".pt2", ".onnx")


def refuse(target: Path | None, force: bool) -> None:
    """Raise UserError where a folder can't become `target`, before any work is done for it."""
    if target is None:
        return
    if target.suffix in SUFFIXES:
        raise UserError(f"--out {target}: an export is a folder (model{target.suffix}, config.json, load.py); name one")
    if target.exists() and not force:
        raise UserError(f"{target} exists already; --force replaces it, --out PATH makes another")
    if target.exists() and not (target / "config.json").is_file():
        raise UserError(f"{target} is no export, so --force does not replace it; name another with --out PATH")


def folder(target: Path, contents: Mapping[str, bytes], *, force: bool) -> Path:
    """Write all files into a temporary folder beside `target`, then rename it. Raises StorageFailed."""
    unique = os.urandom(4).hex()
    temporary, replaced = (target.with_name(f".{target.name}.{unique}.{end}") for end in ("tmp", "old"))
    try:
        for name, data in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, data)
        files.sync_folder(temporary)
        if target.exists():
            if not force:
                raise UserError(f"{target} exists already; --force replaces it, --out PATH makes another")
            target.rename(replaced)
        temporary.rename(target)
        files.sync_folder(target.parent)
    except OSError as error:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise StorageFailed(f"the export could not be written to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return target
