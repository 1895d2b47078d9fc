"""What works on this machine, and the one thing to do about each that does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    state: Literal["ok", "missing", "warning"]
    detail: str


def examine() -> list[Finding]:
    """Look at everything; loads no framework."""
    return [
        _python(),
        *(_package(name, extra) for name, extra in (("jax", "jax"), ("optax", "jax"), ("torch", "torch"))),
        *(_package(name, None) for name in ("ray", "mlflow", "pydantic")),
        _optional("onnx", "onnx", "export --format onnx"),
        _compiler(),
        _gpu(),
        _browser(),
        _ray_token(),
        _disk(),
        _cache(),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "missing", f"{version} (3.11 or newer is needed)")


def _package(name: str, extra: str | None) -> Finding:
    if importlib.util.find_spec(name) is None:
        install = f'pip install "orchestrator[{extra}]"' if extra else f"pip install {name}"
        return Finding(name, "missing", f"not installed: {install}")
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "warning", "importable, but without package metadata")


def _optional(name: str, extra: str, purpose: str) -> Finding:
    """A package that one command needs: nothing is wrong without it."""
    found = _package(name, extra)
    return found if found.state == "ok" else Finding(name, "ok", f"{found.detail} (for {purpose})")


def _compiler() -> Finding:
    found = next((c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None)
    if found:
        return Finding("C++ compiler", "ok", found)
    return Finding("C++ compiler", "warning", "none: torch steps run uncompiled, about 3 times slower; install g++")


def _gpu() -> Finding:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return Finding("accelerator", "ok", "an NVIDIA driver is loaded")
    return Finding("accelerator", "ok", "none found; runs use the CPU")


def _browser() -> Finding:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Finding("browser tests", "ok" if found else "warning", found or "no chromium: those tests are skipped")


def _ray_token() -> Finding:
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        return Finding("ray token", "warning", "readable by other users: chmod 600 ~/.ray/auth_token")
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        return Finding("ray token", "warning", "RAY_AUTH_MODE=disabled: anybody who reaches a Ray port can run code")
    return Finding("ray token", "ok", "private" if token.exists() else "none yet; Ray makes one")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("disk", "ok" if free > 2 else "warning", f"{free:.0f} GB free here")


def _cache() -> Finding:
    from backends.environment import environment

    folder = environment("jax", 1, "cpu").get("JAX_COMPILATION_CACHE_DIR", "")
    return Finding("compilation cache", "ok", folder)


def show_findings(findings: list[Finding], *, as_json: bool) -> int:
    """Print the report; exit code 0 where something can train, else 2."""
    from orchestrator.console import console
    from orchestrator.printing import tabular

    backends = [f for f in findings if f.what in ("jax", "torch") and f.state == "ok"]
    code = (
        0
        if backends and not any(f.state == "missing" and f.what in ("python", "ray", "mlflow") for f in findings)
        else 2
    )
    if as_json:
        print(json.dumps([asdict(f) for f in findings]))
        return code
    out = console(stderr=False)
    table = tabular(out, "what", "state", "detail")
    for finding in findings:
        table.add_row(finding.what, finding.state, finding.detail)
    out.print(table)
    return code
