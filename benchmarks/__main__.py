"""`python -m benchmarks [NAME [WHAT…]…]`: run these benchmarks, or all, and write their sections of RESULTS.md.

WHAT: parts of a benchmark, where it has any (`accuracy heat kdv`).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os

from benchmarks import NAMES
from benchmarks.results import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    words = parser.parse_args().names or list(NAMES)
    if words[0] not in NAMES:
        parser.error(f"there is no benchmark {words[0]!r}; choose from {', '.join(NAMES)}")
    asked: list[tuple[str, list[str]]] = []
    for word in words:
        if word in NAMES:
            asked.append((word, []))
        else:
            asked[-1][1].append(word)
    for name, parts in asked:
        measure = importlib.import_module(f"benchmarks.{name}").measure
        if parts and not inspect.signature(measure).parameters:
            parser.error(f"there is no benchmark {parts[0]!r}, and {name} has no parts; choose from {', '.join(NAMES)}")
        before = os.getloadavg()[0]
        section = measure(*parts)
        write(RESULTS, name, section, (before, os.getloadavg()[0]))
        print(f"## {name}\n\n{section.text}\n", flush=True)


main()
