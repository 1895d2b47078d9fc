"""`python -m benchmarks [NAME…]`: run these benchmarks, or all, and write their sections of RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import os

from benchmarks import NAMES
from benchmarks.results import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    names = parser.parse_args().names or list(NAMES)
    if unknown := [n for n in names if n not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")
    for name in names:
        before = os.getloadavg()[0]
        section = importlib.import_module(f"benchmarks.{name}").measure()
        write(RESULTS, name, section, (before, os.getloadavg()[0]))
        print(f"## {name}\n\n{section.text}\n", flush=True)


main()
