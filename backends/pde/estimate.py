"""Terms with a Laplacian from random directions: their values in training, and the variance of the estimate.

Plain: the residual of one estimate, which the backend squares; E[r²] = E[r]² + Var[r]. Unbiased: the product of two
residuals with independent directions, which enters as a loss; its mean is E[r]² where r is linear in the Laplacian (Hu
et al., arXiv 2312.14499, section 3.3). Evaluations and predictions are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends.derivatives.channels import Plan
from backends.derivatives.estimator import SAMPLE, EstimatedLaplacian, directions, names
from backends.errors import UserError
from backends.pde.recorder import Recording
from backends.points.feed import Sampling
from backends.randomness import integers
from backends.task import Columns, Context, Term, parts_of

Array = Any
Values = Mapping[str, Any]
Look = Callable[[Plan, Array | None], Values]
"""The terms of a region for a plan, and the directions that its Laplacian runs along (None: the coordinates)."""
PATH = "derivatives.laplacian"
VARIANCE = "variance/"
"""`predict` also knows `variance/pde`: the variance of a term's residual in training, estimated without bias."""


@dataclass(frozen=True)
class Estimator:
    """The estimated terms of a task."""

    spec: EstimatedLaplacian
    terms: tuple[str, ...]
    """Terms that read a Laplacian, in order."""
    products: frozenset[str]
    """Of these the ones whose square is a product of two estimates: they enter the loss as they are."""
    coords: tuple[str, ...]
    """The coordinates of a Laplacian."""

    def values(
        self, ops: Any, look: Look, columns: Mapping[str, Array], recording: Recording, context: Context
    ) -> Values:
        """Every term of a region, as `Task.per_sample` gives them."""
        if not context.training:
            first = second = look(recording.plan, None)
        else:
            first = self._residuals(ops, look, columns, recording, context, 0)
            twice = self.products & recording.laplacians
            second = self._residuals(ops, look, columns, recording, context, 1) if twice else first
        return {k: _product(v, second[k]) if k in self.products else v for k, v in first.items()}

    def variance(
        self, ops: Any, look: Look, columns: Mapping[str, Array], recording: Recording, context: Context
    ) -> Values:
        """(r - r')² / 2 of two independent estimates at each sample; a vector residual's parts are added.

        The directions are always the same ones, so that evaluations can be compared.
        """
        still = replace(context, key=(0, 0))
        one, other = (self._residuals(ops, look, columns, recording, still, which) for which in (0, 1))
        pairs = {k: zip(parts_of(one[k]), parts_of(other[k]), strict=True) for k in recording.laplacians}
        return {k: 0.5 * sum((a - b) ** 2 for a, b in parts) for k, parts in pairs.items()}

    def plan(self, recording: Recording) -> Plan:
        """The channels of a pass in training."""
        return recording.along(names(self.spec.samples)) if recording.laplacians else recording.plan

    def _residuals(
        self, ops: Any, look: Look, columns: Mapping[str, Array], recording: Recording, context: Context, which: int
    ) -> Values:
        like = columns[self.coords[0]]
        rows = columns[SAMPLE] if SAMPLE in columns else integers(ops, like.shape[0], ops.to_int64(like[:1]) * 0)
        stream = f"laplacian/{recording.region.name}/{which}"
        along = directions(self.spec, ops, context.key, stream, rows, len(self.coords), like)
        return look(self.plan(recording), along)


def estimator(
    spec: EstimatedLaplacian, found: Mapping[str, Recording], terms: Sequence[Term], coords: tuple[str, ...]
) -> Estimator:
    """Which terms are estimated, and how. Raises UserError where there are none, or nothing is saved."""
    readers = frozenset().union(*(r.laplacians for r in found.values()))
    estimated = tuple(t for t in terms if t.name in readers and t.trained)
    if not estimated:
        raise UserError(
            "no term of this task reads a Laplacian in a channel of its own (f.laplacian over two coordinates or "
            "more), so there is nothing to estimate; remove this",
            path=PATH,
        )
    if spec.kind == "sparse" and spec.samples >= len(coords):
        raise UserError(
            f"{spec.samples} of {len(coords)} coordinates are all of them: take fewer, or `kind: exact`",
            path=f"{PATH}.samples",
        )
    products = frozenset(t.name for t in estimated if t.kind == "residual" and spec.unbiased)
    return Estimator(spec, tuple(t.name for t in estimated), products, coords)


def kinds(terms: Sequence[Term], found: Estimator) -> tuple[Term, ...]:
    """The terms as the loss takes them: a product of two estimates is no residual any more."""
    return tuple(replace(t, kind="loss") if t.name in found.products else t for t in terms)


def with_numbers(sampling: Sampling) -> Sampling:
    """The set with a column that numbers its samples, from which each takes its directions."""
    candidates = sampling.candidates
    return replace(
        sampling,
        draw=lambda count, rng: _numbered(sampling.draw(count, rng)),
        candidates=(lambda count, rng: _numbered(candidates(count, rng))) if candidates else None,
    )


def _numbered(columns: Columns) -> Columns:
    return {**columns, SAMPLE: np.arange(len(next(iter(columns.values()))))}


def _product(one: Any, other: Any) -> Any:
    """r r', added up over the parts of a vector residual."""
    return sum(a * b for a, b in zip(parts_of(one), parts_of(other), strict=True))
