"""Where a run comes from: commit and diff, packages, machine, command.

Captured once, on the client, before anything starts; it never fails, imports no framework, reads no variable of the
environment, and repeats no password.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    "orchestrator", "jax", "jaxlib", "optax", "torch", "ray", "mlflow", "numpy", "scipy", "pydantic", "safetensors",
    "scikit-learn",
)  # fmt: skip
DIFF_BYTES = 1_000_000
GIT_S = 10.0
_KEPT_WHERE = ("storage", "tracking", "extends")
"""Parts of an experiment that say where a run is kept, not what it computes."""


def capture(experiment: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything about the origin of a run; git is asked in `folder`.

    `git` is empty outside a repository; `accelerators` are those of this machine, workers elsewhere report their own.
    """
    return {
        "time": time.time(),
        "command": _command(sys.argv),
        "config_sha256": config_hash(experiment),
        "git": _git(folder),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "user": _user(),
        "cpu_count": os.cpu_count(),
        "accelerators": _accelerators(),
        "packages": packages(),
    }


def config_hash(experiment: Mapping[str, Any]) -> str:
    """sha256 of what is computed: the same on every machine, and for runs that differ only in where they are kept."""
    kept = {k: v for k, v in experiment.items() if k not in _KEPT_WHERE}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def packages() -> dict[str, str]:
    """Versions from the packages' metadata; nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# --- what must not be written down ---

# `https://name:password@host`, `https://token@host`; a password may hold slashes, but a port is no password.
_USERINFO = re.compile(r"(\w[\w+.-]*://)(?:[^\s/@:]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s\"']*@|[^\s/@\"']*@)")
_NAMED = re.compile(
    r"(?i)((?:password|passwd|secret|token|api[-_]?key|access[-_]?key|signature|credential)s?[\"']?\s*[=:]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s&,;\"']+)"
)


def redact(text: str) -> str:
    """Text without user names and passwords in addresses, and without what is called password, token, secret, key."""
    return _NAMED.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def _command(words: list[str]) -> list[str]:
    """The command line; `--password x` hides x as `--password=x` does."""
    said = [Path(words[0]).name if words else "python"]
    hide = False
    for word in words[1:]:
        said.append("***" if hide else redact(word))
        hide = word.startswith("-") and "=" not in word and _NAMED.search(f"{word}=x") is not None
    return said


# --- who and where ---


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no entry for this uid, as in many containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _accelerators() -> list[str]:
    """Names of the NVIDIA GPUs as their driver tells them; loading a framework for it would take seconds."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found


def _git(folder: Path) -> dict[str, Any]:
    """Commit, branch, remote and diff; empty outside a repository or without git."""
    commit = _ask(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    diff = _ask(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    remote = _ask(folder, "config", "--get", "remote.origin.url")
    return {
        "commit": commit.strip(),
        "branch": (_ask(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "remote": redact(remote.strip()) if remote else None,
        "dirty": diff != "",  # also where git could not say
        # Only addresses: `token = …` is code, and the diff must still apply.
        "diff": _USERINFO.sub(r"\1***@", diff or ""),
    }


def _ask(folder: Path, *words: str) -> str | None:
    """What git says, at most DIFF_BYTES of it; None where it can't say. No hook or program of the repository runs."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words]
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing, env=environ)
    except OSError:
        return None
    with process:
        deadline = threading.Timer(GIT_S, process.kill)
        deadline.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read(DIFF_BYTES + 1)
            if len(said) > DIFF_BYTES:
                process.kill()
                return said[:DIFF_BYTES].decode(errors="replace") + "\n… cut here\n"
            return said.decode(errors="replace") if process.wait() == 0 else None
        finally:
            deadline.cancel()
