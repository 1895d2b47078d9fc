"""Where a run comes from: commit and diff, packages, machine, command. Captured once, on the client; never fails."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("orchestrator", "jax", "jaxlib", "optax", "torch", "ray", "mlflow", "numpy", "scipy", "pydantic", "safetensors")
DIFF_BYTES = 1_000_000


def capture(experiment: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything about the origin of a run; `folder` is where git is asked."""
    return {
        "time": time.time(),
        "command": [Path(sys.argv[0]).name, *(redact(a) for a in sys.argv[1:])],
        "config_sha256": config_hash(experiment),
        "git": _git(folder),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": packages(),
    }


def config_hash(experiment: Mapping[str, Any]) -> str:
    """sha256 of what is computed: the same for two runs that differ only in where they are kept."""
    kept = {k: v for k, v in experiment.items() if k not in ("storage", "tracking", "extends")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def packages() -> dict[str, str]:
    """Versions from the packages' metadata; nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def redact(text: str) -> str:
    """Text without the passwords of URIs."""
    return re.sub(r"(\w+://)[^/\s@]*@", r"\1***@", text)


def _git(folder: Path) -> dict[str, Any]:
    """Commit, branch, remote and diff; empty outside a repository or without git."""
    commit = _ask(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    diff = _ask(folder, "diff", "HEAD") or ""
    remote = _ask(folder, "config", "--get", "remote.origin.url")
    return {
        "commit": commit.strip(),
        "branch": (_ask(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "remote": redact(remote.strip()) if remote else None,
        "dirty": bool((_ask(folder, "status", "--porcelain", "--untracked-files=no") or "").strip()),
        "diff": diff[:DIFF_BYTES] + ("\n… cut here\n" if len(diff) > DIFF_BYTES else ""),
    }


def _ask(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
