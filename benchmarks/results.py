"""RESULTS.md: one section per benchmark with all that is needed to repeat it, replaced in place by its name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PREFACE = """# Results

Written by `python -m benchmarks` (`make bench` runs all of it). Times are CPU seconds unless they are called wall
times: the machine runs other work meanwhile, and its load is noted with every section.
"""
PACKAGES = ("jax", "torch", "ray", "numpy")


@dataclass(frozen=True)
class Section:
    """What one benchmark found."""

    target: str
    """What it should reach, in one sentence."""
    text: str
    """Markdown."""


def write(path: Path, name: str, section: Section, load: Sequence[float]) -> None:
    """Put the section into its place, or behind the others where it is new."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = sections(text)
    parts[name] = _written(name, section, load)
    path.write_text("\n".join([PREFACE, *parts.values()]), encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The sections of a results file by name, headings included."""
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## ").strip(): part.rstrip() + "\n" for part in found}


def page(*parts: str) -> str:
    """Paragraphs and tables, one below the other; the line breaks of a paragraph are those of the program text."""
    return "\n\n".join(part if part.startswith("|") else " ".join(part.split()) for part in parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def table_rows(text: str, head: Sequence[str]) -> list[list[str]]:
    """The cells of the markdown table with this head; empty where there is none."""
    lines = text.splitlines()
    first = table(head, []).splitlines()[0]
    rows = []
    for line in lines[lines.index(first) + 2 :] if first in lines else []:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def _written(name: str, section: Section, load: Sequence[float]) -> str:
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    return f"""## {name}

`python -m benchmarks {name}`, {time.strftime("%Y-%m-%d")}, {_processor()}, {len(os.sched_getaffinity(0))} cores, \
load {load[0]:.1f} before and {load[-1]:.1f} after, Python {platform.python_version()}, {versions}.

Target: {section.target}

{section.text}
"""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in found:
        return platform.machine()
    return f"{found['model name']} (family {found.get('cpu family')}, model {found.get('model')})"
