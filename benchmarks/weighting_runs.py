"""One update of a weighting outside the product's loop: what the benchmarks of weightings share."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from backends.task import Feed
from backends.weighting import Weighting
from backends.weighting.uncertainty import log_variances
from orchestrator.assemble import Assembled
from orchestrator.knobs import Knobs


def reweighed(
    weighting: Weighting, knobs: Knobs, made: Assembled, state: Any, feed: Feed, step: int, losses: NDArray[Any]
) -> None:
    """Show the weighting what it needs after `step` steps, and write its weights into the table; as the loop does."""
    if weighting.every is None:
        return
    seen: dict[str, Any] = {"losses": losses}
    if "log_variances" in weighting.needs:
        seen["log_variances"] = log_variances(made.backend.parameters(state), weighting.terms)
    if wanted := weighting.needs - seen.keys():
        row = knobs.table(made.stages[0], step, step, 1)[0]
        seen |= made.backend.probe(state, wanted, feed, step, row)
    knobs.values.update({f"weight/{k}": v for k, v in weighting.update(step, seen).items()})
