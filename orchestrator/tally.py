"""What a second-order stage did, in a sentence: iterations, evaluations, and how often it fell back."""

from __future__ import annotations

from backends.protocol import Steps
from backends.quasi import COUNTS


def of(steps: Steps, done: int) -> str:
    """From the counts after `done` steps of a dispatch; empty for stages that do not count.

    "4000 iterations, 9123 evaluations, fell back 3 times (1 direction without descent, 2 without a lower loss)".
    """
    if not done or any(name not in steps.readings for name in COUNTS):
        return ""
    iterations, evaluations, resets, failures = (int(steps.readings[name][done - 1]) for name in COUNTS)
    told = f"{_number(iterations, 'iteration')}, {_number(evaluations, 'evaluation')}"
    reasons = [
        *([f"{_number(resets, 'direction')} without descent"] if resets else []),
        *([f"{failures} without a lower loss"] if failures else []),
    ]
    fell = f", fell back {_number(resets + failures, 'time')} ({', '.join(reasons)})" if reasons else ""
    return told + fell


def ending(steps: Steps, done: int, *, over: bool) -> str:
    """Why a stage ended with this dispatch and what it did; empty where it goes on or has nothing to tell."""
    told = of(steps, done)
    why = steps.ended or ("all its steps are done" if over and told else "")
    return "; ".join(filter(None, (why, told))) if why else ""


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
