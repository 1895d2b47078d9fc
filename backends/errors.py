"""Every error that this project raises on purpose.

OrchestratorError
├── UserError                the user's mistake: exit code 2, nothing was started
│   ├── ConfigError          problems in an experiment file, all of them at once
│   └── MissingBackend       a backend's packages are not installed
└── RunFailed                the run could not go on: exit code 3, what was saved stays valid
    ├── NonFinite            a loss or a gradient is NaN or infinite
    ├── OwnCodeFailed        code that the user brought raised
    └── StorageFailed        a file could not be written or read

The tree lives on the ground floor because backends raise some of them; `orchestrator.errors`
re-exports it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class OrchestratorError(Exception):
    """Root of the tree."""

    exit_code = 1


class UserError(OrchestratorError):
    """Something the user wrote can't be done as it stands.

    `path` is the dotted path of the field to blame (`points.pde`), where there is one: the reader turns it
    into file, line and column.
    """

    exit_code = 2

    def __init__(self, message: str, *, path: str = "") -> None:
        self.path = path
        super().__init__(message)


class MissingBackend(UserError):
    """The packages of a backend are not installed."""


class RunFailed(OrchestratorError):
    """The run started and could not go on."""

    exit_code = 3


class NonFinite(RunFailed):
    """A loss or a gradient became NaN or infinite; parameters are those of the step before."""

    def __init__(self, step: int, terms: Sequence[str], what: str = "loss") -> None:
        self.step, self.terms, self.what = step, tuple(terms), what
        named = ", ".join(terms) if terms else "the gradient (every term is finite)"
        super().__init__(
            f"step {step}: the {what} is not finite in {named}. The parameters of the last finite step were kept; "
            "lower the learning rate, clip gradients (clip: {norm: 1}), or look at the points of that term"
        )

    def __reduce__(self) -> tuple[type, tuple[int, tuple[str, ...], str]]:
        return (type(self), (self.step, self.terms, self.what))


class OwnCodeFailed(RunFailed):
    """Code that the experiment file names by `target` raised an exception."""


class StorageFailed(RunFailed):
    """A file of the run could not be written or read."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where it stands and what to do about it."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ConfigError(UserError):
    """All problems found in the files and overrides of one experiment."""

    SHOWN = 20

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        count = len(self.problems)
        lines = [str(p) for p in self.problems[: self.SHOWN]]
        if count > self.SHOWN:
            lines.append(f"… and {count - self.SHOWN} more")
        lines.append(f"{count} problem{'s' if count != 1 else ''}; nothing was started.")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type, tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message: `; did you mean 'x'?`, or the list of what is allowed."""
    names = sorted({str(k) for k in known})
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed here: {', '.join(names)}" if names else ""
