"""What a user hands over as data, as a feed of training batches or as batches to evaluate on.

Arrays (a dict or tuple of them, a TensorDataset) stay on the device and are cut into batches here. A DataLoader, a
list of batches, an iterator, a generator function or a function `loader(batch_size)` gives batches itself.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backends.errors import UserError
from backends.own.batches import BATCH, ArrayFeed, Arrays, Form, described, samples
from backends.task import Draw
from orchestrator.trainer.stream import Generators, StreamFeed

TrainFeed = ArrayFeed | StreamFeed


@dataclass(frozen=True)
class Loader:
    """Batches that come one after the other."""

    make: Callable[[], Iterator[Any]]
    length: int | None
    once: bool
    owner: Any = None
    """The loader, whose generators are seeded."""


def feed_of(
    data: Any, *, batch_size: int, seed: int, shuffle: bool, steps_per_epoch: int | None
) -> tuple[TrainFeed, Form]:
    """The feed of training data and the form of its batches. Raises UserError where it is none."""
    found = opened(data, batch_size, shuffle)
    if isinstance(found, Loader):
        stream = StreamFeed(found.make, steps_per_epoch or found.length, seed, once=found.once, loader=found.owner)
        return stream, stream.form
    form = Form.of(found)
    columns = form.columns(found)
    if not samples(columns):
        raise UserError("the data has no samples", path="data")
    return ArrayFeed(columns, batch_size, seed, shuffle=shuffle), form


def opened(data: Any, batch_size: int, shuffle: bool = False) -> Any:
    """A Loader, or a batch of all samples. Raises UserError where it is neither."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.utils.data.TensorDataset):
        return data.tensors
    if torch is not None and isinstance(data, torch.utils.data.Dataset):
        moving = shuffle and not isinstance(data, torch.utils.data.IterableDataset)
        data = torch.utils.data.DataLoader(data, batch_size, shuffle=moving)
    if isinstance(data, Mapping | tuple) or hasattr(data, "shape"):
        return data
    if isinstance(data, Iterator):
        return Loader(lambda: data, None, True)
    if hasattr(data, "__iter__"):
        return Loader(lambda: iter(data), _length(data), False, data)
    if callable(data):
        return Loader(_called(data, batch_size), None, False)
    raise UserError(
        f"the data is {described(data)}; give a dict or tuple of arrays, a DataLoader, an iterable of batches, or a "
        "function that returns one",
        path="data",
    )


def evaluated(data: Any, form: Form, batch_size: int, seed: int) -> Iterator[Arrays]:
    """The batches to evaluate on, in order; the last one may be short. Raises UserError for another form."""
    found = opened(data, batch_size)
    if not isinstance(found, Loader):
        columns = _fitting(form, found)
        for start in range(0, samples(columns), batch_size):
            yield {name: value[start : start + batch_size] for name, value in columns.items()}
        return
    generators = Generators(seed, -1, found.owner)
    with generators:
        iterator = found.make()
    while True:
        with generators:
            batch = next(iterator, None)
        if batch is None:
            return
        yield _fitting(form, batch)


def _fitting(form: Form, batch: Any) -> Arrays:
    try:
        return form.columns(batch)
    except UserError as error:
        raise UserError(
            f"the data to evaluate on does not look like the training data: {error}", path="data"
        ) from error


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a loader over an iterable data set
        return None


def _called(make: Callable[..., Any], batch_size: int) -> Callable[[], Iterator[Any]]:
    """`loader(batch_size)` or a function without arguments."""
    asked = [
        p
        for p in inspect.signature(make).parameters.values()
        if p.name == "batch_size" or (p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    ]
    if len(asked) > 1:
        names = ", ".join(p.name for p in asked)
        raise UserError(f"the data is a function of ({names}); it may take one argument, batch_size", path="data")

    def begin() -> Iterator[Any]:
        found = make(batch_size) if asked else make()
        if not hasattr(found, "__iter__"):
            raise UserError(f"the function that gives the data returned {described(found)}, no batches", path="data")
        return iter(found)

    return begin


class OneBatch:
    """A feed of one batch."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def take(self, step: int, n: int) -> Draw:
        return Draw(("one",), dict, {BATCH: {name: value[None] for name, value in self.columns.items()}})

    def arrays(self) -> dict[str, Any]:
        return {}

    def load(self, arrays: Mapping[str, Any]) -> None: ...
