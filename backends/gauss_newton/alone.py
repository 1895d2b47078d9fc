"""What a task may not do where every residual is differentiated by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from backends.errors import UserError


def refuse(what: str) -> NoReturn:
    """Raises UserError for a task that `what` ("draws noise inside the step")."""
    raise UserError(
        f"a Gauss-Newton stage differentiates every residual by itself, and this task {what}; use `solver: cg`, or "
        "another kind of stage"
    )


class NoNoise(tuple[Any, ...]):
    """Stands for the key of noise; whoever reads it is refused."""

    def __getitem__(self, index: Any) -> NoReturn:
        refuse("draws noise inside the step")

    def __iter__(self) -> Iterator[Any]:
        refuse("draws noise inside the step")
