"""The uncertainty of what an inverse problem found: checked before a run, measured at its end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from backends.errors import UserError, nearest
from backends.laplace import DAMPING, LARGEST, Measured, deviations
from backends.networks.custom import CustomNetwork
from backends.pde.field import UNKNOWN
from backends.pde.task import PdeTask
from backends.protocol import CURVATURE, ROWS
from backends.task import Feed, Task
from orchestrator.config import Experiment
from orchestrator.matrices import trained_parameters

if TYPE_CHECKING:
    from orchestrator.assemble import Assembled
    from orchestrator.knobs import Knobs
    from orchestrator.loop import Live


def check(experiment: Experiment, task: Task) -> None:
    """Raises UserError where nothing is unknown, no term is measured, or the matrices would be too large."""
    spec = experiment.uncertainty
    if spec is None:
        return
    if not isinstance(task, PdeTask) or not task.unknowns:
        raise UserError(f"the task {experiment.task.kind!r} has no unknown constants; remove this", path="uncertainty")
    trained = [t.name for t in task.terms if t.trained and t.kind == "residual"]
    for i, name in enumerate(spec.terms):
        if name not in trained:
            raise UserError(f"{name!r} is no trained residual{nearest(name, trained)}", path=f"uncertainty.terms.{i}")
    if not measured_terms(experiment, task):
        raise UserError(
            "no term has points of its own (at=…, or `data: {kind: observations}`), so nothing tells the noise; name "
            "the terms of measurements, `terms: […]`",
            path="uncertainty.terms",
        )
    if not isinstance(experiment.network, CustomNetwork):
        count = trained_parameters(experiment, task)
        if count > LARGEST:
            raise UserError(
                f"{count} parameters need matrices of {8 * count**2 / 2**30:.1f} GiB; up to {LARGEST} are taken. The "
                "spread over several seeds is the alternative: orchestrator.ensemble",
                path="uncertainty",
            )


def measured_terms(experiment: Experiment, task: PdeTask) -> tuple[str, ...]:
    """The terms whose noise counts: those that the file names, else those at given points."""
    if experiment.uncertainty and experiment.uncertainty.terms:
        return experiment.uncertainty.terms
    given = {batch for batch, recording in task.recordings.items() if recording.region.at}
    return tuple(t.name for t in task.terms if t.trained and t.kind == "residual" and t.batch in given)


def concluded(made: Assembled, knobs: Knobs, feed: Feed, live: Live) -> dict[str, float]:
    """`unknown/<name>/std` and `noise/<term>` at the end of a run; empty where the file does not ask."""
    spec, task = made.experiment.uncertainty, made.task
    if spec is None or not isinstance(task, PdeTask):
        return {}
    at, stage = live.at, made.stages[live.at.stage]
    names = [t.name for t in task.terms if t.trained]
    squares = [t.name for t in task.terms if t.trained and t.kind == "residual"]
    row = knobs.table(stage, at.step, at.within, 1)[0]
    values = knobs.named(stage, row)
    wanted = frozenset({"losses", *(CURVATURE + n for n in squares), *(ROWS + n for n in squares)})
    seen = made.backend.probe(live.state, wanted, feed, at.step, row)
    losses = dict(zip(names, seen["losses"].tolist(), strict=True))
    batches = {t.name: t.batch for t in task.terms}
    fixed = feed.take(at.step, 1).fixed()
    terms = {
        n: Measured(
            curvature=seen[CURVATURE + n],
            rows=int(seen[ROWS + n]),
            mean_square=losses[n],
            samples=len(next(iter(fixed[batches[n]].values()))),
            weight=values[f"weight/{n}"],
        )
        for n in squares
    }
    places = _places(made.backend.layout(live.state))
    damping = DAMPING[stage.precision or "float64"]
    noisy = measured_terms(made.experiment, task)
    return deviations(terms, noisy, places, covariance=spec.covariance, damping=damping)


def _places(layout: list[tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Unknown -> its place in the flat vector of trained parameters."""
    places: dict[str, Any] = {}
    at = 0
    for name, shape in layout:
        if name.startswith(UNKNOWN):
            places[name.removeprefix(UNKNOWN)] = at
        at += math.prod(shape)
    return places
