"""Periods and lengths that a file gives in steps or in epochs: `every: 500`, `every: 2 epochs`, `warmup: 0.5 epochs`.

A field of the type `Period` holds a number of steps, or an `Epochs` until the experiment is resolved
(`orchestrator.epochs`), which happens as soon as the data's length is known. Code that trains sees numbers of steps
only, so for the type checker a period is an int. What looks at periods before that (validators of models) skips the
ones that are not `known`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, NonNegativeInt, PlainSerializer, PositiveInt, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*epochs?\s*")


class Epochs(str):
    """A number of passes over the data, as the file writes it ("2 epochs")."""

    @classmethod
    def of(cls, count: float) -> Epochs:
        """So many epochs."""
        return cls(f"{count:.15g} epoch" + ("" if count == 1 else "s"))

    @property
    def number(self) -> float:
        """How many."""
        return float(self.split()[0])

    def steps(self, per_epoch: float) -> int:
        """The nearest number of steps, at least one where it is more than no epoch."""
        return max(round(self.number * per_epoch), 1 if self.number else 0)


class InEpochs:
    """Mark of a type that may be given in epochs, too."""


def known(*periods: Any) -> bool:
    """Whether all of these are numbers of steps already (or None)."""
    return not any(isinstance(p, Epochs) for p in periods)


def _read(value: Any, handler: Any) -> Any:
    if not isinstance(value, str):
        return handler(value)
    found = _TEXT.fullmatch(value)
    if found is None:
        raise PydanticCustomError(
            "number", "must be a number, not text (write it without quotes), or a number of epochs: `2 epochs`"
        )
    count = float(found[1])
    return Epochs.of(count) if count else handler(0)  # which says so where zero is not allowed


def _schema(least: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?|\.\d+)\s*epochs?\s*$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": least}, text]})


_ANY = PlainSerializer(lambda value: value)
Period = Annotated[PositiveInt, WrapValidator(_read), _ANY, _schema(1), InEpochs()]
"""Steps (1 or more) or epochs."""
Length = Annotated[NonNegativeInt, WrapValidator(_read), _ANY, _schema(0), InEpochs()]
"""Steps or epochs; may be none."""


def in_epochs(value: Any, path: str = "") -> dict[str, Epochs]:
    """Every period below `value` (a model, list or mapping) that is still in epochs, by its dotted path."""
    if isinstance(value, Epochs):
        return {path: value}
    found: dict[str, Epochs] = {}
    for name, child in _children(value):
        found |= in_epochs(child, f"{path}.{name}" if path else str(name))
    return found


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, BaseModel):
        return list(value)
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []
