"""Fresh processes: a function of a benchmark with the environment of a backend, and the command line under watch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backends.environment import environment
from orchestrator.folder import RunFolder, read_jsonl

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "orchestrator")


def clean(cache: Path | None = None) -> dict[str, str]:
    """This process's environment without what a backend sets; compiled programs in `cache`, where one is given."""
    own = {**environment("jax", 1, "cpu"), **environment("torch", 1, "cpu")}
    kept = {k: v for k, v in os.environ.items() if k not in own}
    return kept | {"MPLBACKEND": "agg"} | ({"ORCHESTRATOR_CACHE": str(cache)} if cache else {})


def call(
    function: str, backend: str | None, arguments: Mapping[str, Any], variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`function` ("module:name") of plain data to plain data, in a process of its own, set up for `backend` (None: for
    none) and with these `variables` in its environment."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        order, answer = Path(folder, "order.json"), Path(folder, "answer.json")
        order.write_text(json.dumps({"function": function, "arguments": dict(arguments)}), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "benchmarks.processes", str(order), str(answer)],
            env=clean() | (environment(backend, 1, "cpu") if backend else {}) | dict(variables or {}),
            cwd=ROOT,
            check=True,
        )
        return json.loads(answer.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Ended:
    """A command that has ended, in seconds since its start."""

    wall_s: float
    cpu_s: float
    """Of the process and all that it has waited for."""
    text: str
    """Its standard output."""


def command(arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Ended:
    """Run a command to its end. Raises CalledProcessError where it fails."""
    began = time.monotonic()
    with subprocess.Popen(arguments, env=env or clean(), cwd=cwd, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(arguments), text)
    return Ended(time.monotonic() - began, usage.ru_utime + usage.ru_stime, text)


def cpu_of_tree(pid: int, *, without: str) -> float:
    """CPU seconds of a running process and its living descendants, with what they have waited for.

    Descendants that have the text `without` in their command are left out.
    """
    try:
        parent = psutil.Process(pid)
        everybody = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for process in everybody:
        try:
            if not any(without in word for word in process.cmdline()):
                total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def first_record(folder: RunFolder, step: int) -> dict[str, Any] | None:
    """The first record of a run at or after `step`."""
    return next((r for r in read_jsonl(folder.metrics)[0] if r["step"] >= step), None)


def _answer(order: Path, answer: Path) -> None:
    asked = json.loads(order.read_text(encoding="utf-8"))
    module, _, name = asked["function"].partition(":")
    found = getattr(importlib.import_module(module), name)(**asked["arguments"])
    answer.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))
