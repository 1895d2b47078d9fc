"""What `ray job submit --working-dir .` would upload from here, found by Ray's own rules: size and largest entries."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LARGEST = 10
MOST_FILES = 200_000
"""A walk through more files ends there: nobody uploads that."""


@dataclass(frozen=True)
class Upload:
    """The upload of a job whose working directory is `folder`."""

    folder: str
    bytes: int
    files: int
    largest: tuple[tuple[str, int], ...]
    """The ten largest entries of the folder, each with all that lies below it, in bytes."""
    limit: int
    """Ray refuses packages that are larger."""
    complete: bool = True
    """False: there are more files than were counted."""

    @property
    def problem(self) -> str:
        """Why the upload would be refused; empty where it would not."""
        if self.bytes < self.limit and self.complete:
            return ""
        first = ", ".join(name for name, _ in self.largest[:3])
        return (
            f"a job's upload from {self.folder} has {'' if self.complete else 'over '}{self.bytes / 1e6:.0f} MB in "
            f"{self.files} files, and Ray takes {self.limit / 1e6:.0f} MB; list {first} in .rayignore, or submit from "
            "another folder"
        )


class _TooMany(Exception):
    pass


def upload(folder: Path) -> Upload:
    """Walk through the folder as Ray would: .gitignore, .rayignore and its own exclusions (.git, .venv, …)."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    folder = folder.absolute()
    sizes: Counter[str] = Counter()
    files = 0

    def count(path: Path) -> None:
        nonlocal files
        if not path.is_file():
            return
        files += 1
        sizes[path.relative_to(folder).parts[0]] += path.stat().st_size
        if files > MOST_FILES:
            raise _TooMany

    ignored = ray_constants.get_runtime_env_default_excludes()
    quiet = logging.getLogger("orchestrator.upload")
    quiet.propagate = False  # Ray logs a path where its handler raises
    complete = True
    try:
        packaging._dir_travel(
            folder,
            [packaging._get_excludes(folder, ignored)],
            count,
            include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
            logger=quiet,
        )
    except (_TooMany, OSError):
        complete = False
    return Upload(
        str(folder),
        sum(sizes.values()),
        files,
        tuple(sizes.most_common(LARGEST)),
        packaging.GCS_STORAGE_MAX_SIZE,
        complete,
    )
