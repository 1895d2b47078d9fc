"""What is read off a state without changing it: means of terms, their sizes, predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.errors import UserError
from backends.task import Batches, Columns, Context, Task, trained_terms
from backends.torch.device import fetch, put
from backends.torch.layout import Layout
from backends.torch.objective import sizes, term_means
from backends.torch.ops import OPS
from backends.torch.samples import whole
from backends.torch.state import State
from backends.torch.tracing import Functions

Tensor = torch.Tensor
Tree = Any
SLAB_NUMBERS = 2**25
"""Most numbers of one layer at a time: more samples are taken one part after the other."""


@dataclass(frozen=True)
class Readings:
    """The recorded functions that evaluate."""

    task: Task
    layout: Layout
    functions: Functions
    device: str
    seed: int
    compiled: bool

    def evaluate(self, state: State, batches: Batches) -> dict[str, float]:
        """Mean of every term of these batches, residuals squared."""
        terms = [t for t in self.task.terms if t.batch in batches]

        def means(model: Tree, batches: Tree) -> list[Tensor]:
            params, context = self._model(*model)
            found: dict[str, Tensor] = {}
            for batch, columns in batches.items():
                count = next(iter(columns.values())).shape[0]
                found |= term_means(self.task, terms, params, batch, columns, context, count)
            return [found[t.name] for t in terms]

        values = self._call("evaluate", means, state, whole(batches, state.dtype, self.device))
        return {t.name: float(value) for t, value in zip(terms, values, strict=True)}

    def candidates(self, state: State, batch: str, columns: Columns) -> dict[str, NDArray[np.float64]]:
        """|value| per sample of each trained term of one batch."""
        names = [t.name for t in trained_terms(self.task.terms) if t.batch == batch]

        def values(model: Tree, columns: Tree) -> dict[str, Tensor]:
            params, context = self._model(*model)
            found = self.task.per_sample(OPS, params, batch, columns, context)
            return {name: sizes(found[name]) for name in names}

        return self._by_sample(f"candidates/{batch}", values, state, columns)

    def predict(self, state: State, names: Sequence[str], columns: Columns) -> dict[str, NDArray[np.float64]]:
        """The named outputs at the samples."""
        wanted = tuple(names)

        def values(model: Tree, columns: Tree) -> dict[str, Tensor]:
            params, context = self._model(*model)
            found = self.task.predict(OPS, params, wanted, columns, context)
            return {name: found[name] for name in wanted}

        return self._by_sample("predict", values, state, columns, wanted)

    def _by_sample(
        self, name: str, fn: Callable[..., Tree], state: State, columns: Columns, key: Any = ()
    ) -> dict[str, NDArray[np.float64]]:
        if not columns:
            raise UserError(f"{name}: no columns were given, so there are no samples")
        samples = len(next(iter(columns.values())))
        widest = max((self.task.width(b) for b in dict.fromkeys(t.batch for t in self.task.terms)), default=1)
        slab = max(SLAB_NUMBERS // max(widest, 1), 1)
        parts = []
        for start in range(0, max(samples, 1), slab):
            some = {k: put(np.asarray(v)[start : start + slab], state.dtype, self.device) for k, v in columns.items()}
            found = self._call(name, fn, state, some, key)
            parts.append({k: fetch(v).astype(np.float64) for k, v in found.items()})
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    def _call(self, name: str, fn: Callable[..., Tree], state: State, samples: Tree, key: Any = ()) -> Tree:
        seed = torch.tensor([self.seed, 0], device=self.device)
        model = (state.x, state.frozen, state.aux, state.constants, seed)
        compiled = self.compiled and name != "predict"  # predictions are few, and each has shapes of its own
        traced = self.functions.get(name, (name, key), fn, (model, samples), state.dtype, compiled)
        return traced(model, samples)

    def _model(
        self, x: Tensor, frozen: Mapping[str, Tensor], aux: Mapping[str, Tensor], constants: Tensor, seed: Tensor
    ) -> tuple[dict[str, Tensor], Context]:
        values = zip(self.task.constants, torch.unbind(constants.to(x.dtype)), strict=True)
        seed_, step = torch.unbind(seed)
        return {**frozen, **self.layout.views(x)}, Context(dict(values), aux, (seed_, step), training=False)
