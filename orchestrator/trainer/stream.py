"""Batches from a user's loader as a feed: a function of the step alone, whatever the loader draws from.

An epoch has a fixed number of batches, of one shape. A last one that is short is filled up with samples of the epoch's
first batch, so that nothing is compiled for it and every sample is seen. While the loader runs, the global generators
of Python, numpy and torch (and the loader's own) are seeded by (seed, epoch), and the program's own numbers are left
alone: so a resumed training goes on with the very batches that it would have seen.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import told
from backends.errors import RunFailed, UserError
from backends.own.batches import BATCH, Arrays, Form, samples
from backends.randomness import digest
from backends.task import Draw

_END = object()
"""What a loader can't give."""
ALIGNED = 64
"""Bytes."""
COUNTED_BYTES, COUNTED = 256_000_000, 100_000
"""What is read ahead of a loader that does not say how long it is, to count its batches."""


class StreamFeed:
    """Batches of a loader (a `backends.task.Feed`)."""

    def __init__(
        self, make: Callable[[], Iterator[Any]], length: int | None, seed: int, *, once: bool, loader: Any = None
    ) -> None:
        """`make` starts an epoch; `length`: its batches; `once`: it can be started once only; `loader`: whose
        generators are seeded.

        Raises UserError where there is no batch, or no end of them and nobody said how many are an epoch.
        """
        self._make, self.seed, self.once = make, seed, once
        self._ahead: deque[Any] = deque()
        self._epoch, self._read, self._done = -1, 0, 0
        self._iterator: Iterator[Any] = iter(())
        self._generators = Generators(seed, 0, loader)
        self._start: Arrays | None = None
        self._last: dict[int, Arrays] = {}
        self._begin(0)
        if not self._pull():
            raise UserError("the data gives no batch", path="data")
        self.form = Form.of(self._ahead[0])
        columns = self.form.columns(self._ahead[0])
        self.first = columns
        self._shapes = {name: value.shape for name, value in columns.items()}
        self.batch = samples(columns)
        self.bytes = sum(value.nbytes for value in columns.values())
        self.steps_per_epoch = length if length is not None else self._counted()

    def take(self, step: int, n: int) -> Draw:
        """`stacked`: the columns of n batches, [n, samples, …]."""
        with self._generators:
            rows = [self._batch(s) for s in range(step, step + n)]
        self._last = dict(zip(range(step, step + n), rows, strict=True))
        stacked = {name: _stacked([row[name] for row in rows]) for name in self.form.names}
        return Draw(("stream", self.seed), dict, {BATCH: stacked})

    def batch_of(self, step: int) -> Arrays:
        """The columns of a step that was just taken."""
        return self._last[step]

    def arrays(self) -> Arrays:
        """Nothing: the batches follow from the seed and the step."""
        return {}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuses arrays: they are another task's."""
        if arrays:
            raise UserError(f"points of the checkpoint: {min(arrays)!r} is unknown; this data needs none")

    # --- the loader ---

    def _batch(self, step: int) -> Arrays:
        epoch, k = divmod(step, self.steps_per_epoch)
        if self.once:
            if step < self._done:
                raise UserError(
                    "the data is an iterator, which can't be read again; give a list, a loader or a function that "
                    "returns a new iterator",
                    path="data",
                )
            skipped = step - self._done
        else:
            if epoch != self._epoch or k < self._read:
                self._begin(epoch)
            skipped = k - self._read
        for _ in range(skipped):
            self._next(epoch)
        return self._next(epoch, last=k == self.steps_per_epoch - 1)

    def _begin(self, epoch: int) -> None:
        self._ahead.clear()
        self._epoch, self._read, self._start = epoch, 0, None
        self._generators.restart(epoch)
        with told("the data"), self._generators:
            self._iterator = self._make()

    def _pull(self) -> bool:
        """Read one batch more, behind those that were read ahead; False at the end."""
        with told("the data", self._where), self._generators:
            batch = next(self._iterator, _END)
        if batch is _END:
            return False
        self._ahead.append(batch)
        return True

    def _where(self) -> str:
        return f" in batch {self._read + len(self._ahead) + 1} of epoch {self._epoch + 1}"

    def _next(self, epoch: int, last: bool = False) -> Arrays:
        if not self._ahead and not self._pull():
            if self.once:
                raise RunFailed(f"the data ended after {self._done} batches, and more are needed; give fewer epochs or "
                                "steps, or data that can be read again")  # fmt: skip
            raise RunFailed(
                f"the data ended after {self._read} of {self.steps_per_epoch} batches in epoch {epoch + 1}; it must "
                "give as many in every epoch (`steps_per_epoch` says how many)"
            )
        batch = self._ahead.popleft()
        where = f"batch {self._read + 1} of epoch {epoch + 1}"
        try:
            columns = self.form.columns(batch)
        except UserError as error:
            raise RunFailed(f"{where}: {error}") from error
        rows = samples(columns)
        if rows < self.batch and last and rows > 0:
            columns = self._filled(columns, rows)
        for name, value in columns.items():
            if value.shape != self._shapes[name]:
                raise RunFailed(
                    f"{where}: the entry {name!r} has the shape {list(value.shape)}, it was {list(self._shapes[name])} "
                    "in the first batch; all batches but an epoch's last have one shape"
                )
        if self._read == 0:
            self._start = columns
        self._read += 1
        self._done += 1
        return columns

    def _filled(self, columns: Arrays, rows: int) -> Arrays:
        """A short batch with the first samples of the epoch behind it."""
        first = self._start or {}
        return {
            name: np.concatenate([value, first[name][: self.batch - rows]])
            if name in first and value.shape[1:] == first[name].shape[1:]
            else value
            for name, value in columns.items()
        }

    def _counted(self) -> int:
        """The batches of the first epoch, read ahead."""
        while self._pull():
            if len(self._ahead) * self.bytes > COUNTED_BYTES or len(self._ahead) > COUNTED:
                raise UserError(
                    f"the data does not say how many batches it has, and gave {len(self._ahead)} without an end; say "
                    "how many make an epoch: TrainingConfig(steps_per_epoch=…)",
                    path="data",
                )
        return len(self._ahead)


def _stacked(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """[n, …] in memory that begins where a CPU's device arrays do, so that it need not be copied once more."""
    kind = np.result_type(*rows)
    size = len(rows) * rows[0].size * kind.itemsize
    memory = np.empty(size + ALIGNED, np.uint8)
    start = -memory.ctypes.data % ALIGNED
    out = memory[start : start + size].view(kind).reshape(len(rows), *rows[0].shape)
    return np.stack(rows, out=out)


class Generators:
    """The global generators of Python, numpy and torch as one epoch of a loader sees them (a context manager, which
    may be entered within itself)."""

    def __init__(self, seed: int, epoch: int, loader: Any) -> None:
        self.seed, self.loader = seed, loader
        self._depth = 0
        self._inner: Any = None
        self._outer: Any = None
        self.epoch = epoch

    def restart(self, epoch: int) -> None:
        """Begin another epoch: its numbers follow from (seed, epoch)."""
        self.epoch, self._inner = epoch, None
        if self._depth:
            self._seed()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._outer = _states()
        if self._inner is None:
            self._seed()
        else:
            _restore(self._inner)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._inner = _states()
            _restore(self._outer)

    def _seed(self) -> None:
        number = digest("loader", self.seed, self.epoch, bits=32)
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002 (what a user's loader draws from)
        torch: Any = sys.modules.get("torch")
        if torch is None:
            return
        torch.manual_seed(number)
        sampler = getattr(self.loader, "sampler", None)
        for owner in (self.loader, sampler, getattr(self.loader, "batch_sampler", None)):
            own: Any = getattr(owner, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(number)
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self.epoch)


def _states() -> tuple[Any, Any, Any]:
    torch: Any = sys.modules.get("torch")
    return random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002


def _restore(states: tuple[Any, Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    if states[2] is not None:
        sys.modules["torch"].set_rng_state(states[2])
