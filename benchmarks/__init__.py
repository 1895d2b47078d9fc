"""Measurements of the project by itself, each with its target: `python -m benchmarks [NAME…]` writes RESULTS.md.

The machine is rarely idle, so what is compared runs side by side: alternating in one process, in CPU seconds.
"""

from __future__ import annotations

NAMES = (
    "overhead",
    "trainer",
    "steps",
    "compilations",
    "startup",
    "weightings",
    "optimizers",
    "agreement",
    "accuracy",
    "planning",
    "seconds",
)
"""The benchmarks, shortest first; each is a module of this package with `measure() -> Section`."""
