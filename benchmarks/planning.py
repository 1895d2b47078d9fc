"""What `orchestrator plan` says, against what the run then takes: CPU seconds, and memory of the training process."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import COMMAND, ROOT, clean
from benchmarks.results import Section, page, table

FILES = ("experiments/burgers/burgers.yaml", "experiments/burgers/burgers_soft.yaml", "experiments/digits/vae.yaml")
BACKENDS = ("jax", "torch")
WITHIN = 0.30


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    text: str


def measure() -> Section:
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-") as scratch:
        for file in FILES:
            for backend in BACKENDS:
                settings = [f"backend={backend}", "resources.workers=0", "tracking.enabled=false"]
                words = [file, *(w for s in settings for w in ("-s", s))]
                planned = watched(["plan", *words, "--json"], Path(scratch, "cache"))
                told = json.loads(planned.text)
                out = Path(scratch, f"{Path(file).stem}-{backend}")
                ran = watched(["run", *words, "--out", str(out), "--json"], Path(scratch, "cache"))
                steps = json.loads(ran.text)["step"]
                for what, said, was in (
                    ("CPU s", told["eta"]["cpu_s"], ran.cpu_s),
                    ("memory, MB", told["memory"]["peak_bytes"] / 1e6, ran.peak_bytes / 1e6),
                ):
                    off = said / was - 1
                    worst = max(worst, abs(off))
                    rows.append([Path(file).name, backend, what, f"{said:.1f}", f"{was:.1f}", f"{off:+.0%}"])
                wall = f"{told['eta']['seconds']:.0f}", f"{ran.wall_s:.0f}"
                rows.append([Path(file).name, backend, f"wall s, {steps} steps", *wall, "–"])
                rows.append([Path(file).name, backend, "plan itself, CPU s", "–", f"{planned.cpu_s:.1f}", "–"])
    text = page(
        f"""Each experiment in process, planned first (with an empty cache of compiled programs, which the plan fills),
        then run to its end. `said` is the plan's, `was` the run's: CPU seconds of the command and all that it has
        waited for, and its largest resident memory. Wall times are those of this machine under its load, which is
        another one while it plans than while it runs. The largest error is {worst:.0%}.""",
        table(["file", "backend", "what", "said", "was", "off"], rows),
    )
    return Section(f"Time and memory within {WITHIN:.0%} of what then happens on three experiments.", text)


def watched(arguments: list[str], cache: Path) -> Ran:
    """Run a command of ours to its end. Raises CalledProcessError where it fails."""
    began = time.monotonic()
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, env=clean(cache), cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, text)
    return Ran(usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss * 1024, text)
