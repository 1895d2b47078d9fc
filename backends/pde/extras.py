"""What a file adds to a problem's own terms: its laws, and bands of its residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.laws.conservation import law_sets, law_terms
from backends.laws.marks import chosen, numbers
from backends.laws.multiscale import band_sets
from backends.laws.projection import Projection
from backends.laws.reductions import Reduction
from backends.pde.recorder import Recording
from backends.task import Parts, Term

if TYPE_CHECKING:
    from backends.pde.problem import Problem


@dataclass(frozen=True)
class Extended:
    """Recordings and terms of a task, all of them, and what goes with the added ones."""

    recordings: dict[str, Recording]
    terms: tuple[Term, ...]
    constants: Mapping[str, float]
    """Tolerances and values of laws."""
    reductions: Mapping[str, Reduction]
    """Of the added batches, whose samples stand for many points."""
    projection: Projection | None


def extended(problem: Problem, parts: Parts, found: Mapping[str, Recording], terms: Sequence[Term]) -> Extended:
    """The task's parts with what the file adds. Raises UserError."""
    laws, projected = chosen(problem, parts.conserve)
    integrals, law_reductions = law_sets(problem, laws)
    whole = (*terms, *law_terms(problem, laws, integrals))
    lines, bands, whole = band_sets(problem, parts.multiscale, found, whole)
    return Extended(
        {**found, **integrals, **lines},
        whole,
        numbers(laws),
        {**law_reductions, **bands},
        Projection.of(problem, projected),
    )
