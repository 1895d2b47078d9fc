"""The same experiment from several seeds: its results as mean and spread, its predictions likewise.

    found = orchestrator.ensemble("inverse.yaml", seeds=5)
    found.means["unknown/kappa"], found.spreads["unknown/kappa"]
    found.predict({"t": t, "x": x})["u"].std

Seeds decide initial parameters, points and batches, not the measurements: the spread says what training leaves open.
What their noise leaves open is `uncertainty: {kind: laplace}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from orchestrator.config import Experiment
from orchestrator.result import RunResult
from orchestrator.runs import run


@dataclass(frozen=True)
class Spread:
    """Values of all members at each sample: their mean and sample standard deviation, [samples] each."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Runs that differ in nothing but their seed."""

    results: tuple[RunResult, ...]

    @property
    def means(self) -> dict[str, float]:
        """Metric -> its mean over the members, of those that all have."""
        return {name: float(np.mean(values)) for name, values in self._metrics().items()}

    @property
    def spreads(self) -> dict[str, float]:
        """Metric -> its sample standard deviation over the members."""
        return {name: float(np.std(values, ddof=1)) for name, values in self._metrics().items()}

    def predict(self, columns: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Spread]:
        """Every output (or those of `names`) at the given points."""
        found = [result.predict(columns, names) for result in self.results]
        values = {name: np.stack([np.asarray(f[name], np.float64) for f in found]) for name in found[0]}
        return {name: Spread(v.mean(0), v.std(0, ddof=1)) for name, v in values.items()}

    def _metrics(self) -> dict[str, list[float]]:
        names = set.intersection(*(set(r.metrics) for r in self.results))
        return {name: [float(r.metrics[name]) for r in self.results] for name in sorted(names)}


def ensemble(
    experiment: str | Path | Mapping[str, Any] | Experiment,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: int | Sequence[int] = 5,
    out: str | Path | None = None,
) -> Ensemble:
    """Train one after the other, seed by seed, and return all of them. `out`: the folder of their run folders.

    `orchestrator compare` groups the same runs by itself. Raises UserError for fewer than two different seeds, and what
    `run` raises.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
        raise UserError(f"a spread needs at least two seeds, all different, not {list(chosen)}")
    results = []
    for seed in chosen:
        place = None if out is None else Path(out) / f"seed-{seed}"
        results.append(run(experiment, {**(overrides or {}), "seed": seed}, out=place))
    return Ensemble(tuple(results))
