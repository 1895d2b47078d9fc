"""Stages of different widths: which network each one trains, and the backend that goes from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backends.errors import UserError
from backends.multilevel.levels import Levels
from backends.networks.mlp import MLP, ModifiedMLP
from backends.protocol import Backend
from backends.stages import FIRST_ORDER
from orchestrator.config import Experiment


def widths(experiment: Experiment) -> tuple[int, ...]:
    """Units of the hidden layers in every stage; empty where no stage says any.

    Raises UserError where the network has no width that could change.
    """
    asked = [i for i, stage in enumerate(experiment.stages) if stage.width is not None]
    keeping = [i for i, stage in enumerate(experiment.stages) if getattr(stage, "moments", "fresh") == "kept"]
    for i in keeping:
        _keeps(experiment, i)
    network = experiment.network
    if not asked:
        return (getattr(network, "width", 1),) * len(experiment.stages) if keeping else ()
    if not isinstance(network, MLP | ModifiedMLP):
        raise UserError(
            f"the network {network.kind!r} keeps its width; a stage's width is for `mlp` and `modified_mlp`",
            path=f"stages.{asked[0]}.width",
        )
    return tuple(stage.width or network.width for stage in experiment.stages)


def _keeps(experiment: Experiment, i: int) -> None:
    """Raises UserError where there are no moments that stage number i could go on with."""
    before, stage = experiment.stages[i - 1] if i else None, experiment.stages[i]
    path = f"stages.{i}.moments"
    if not isinstance(stage, FIRST_ORDER):
        raise UserError("an optimizer of your own begins afresh in every stage; remove this", path=path)
    same = isinstance(before, FIRST_ORDER) and before.method == stage.method and before.compute == stage.compute
    if not same:
        what = "there is no stage before it" if before is None else f"the stage before is {before.method!r}"
        raise UserError(f"moments are kept from a stage with the same optimizer, {stage.method!r}; {what}", path=path)


def of_width(experiment: Experiment, width: int) -> Experiment:
    """The experiment with that many units in every hidden layer."""
    if getattr(experiment.network, "width", width) == width:
        return experiment
    return experiment.model_copy(update={"network": experiment.network.model_copy(update={"width": width})})


def saved(experiment: Experiment, meta: Mapping[str, Any]) -> Experiment:
    """The experiment with the network that a checkpoint holds. `meta`: of the checkpoint."""
    return of_width(experiment, int(meta["width"])) if "width" in meta else experiment


def first(experiment: Experiment) -> Experiment:
    """The experiment as its first stage sees it."""
    found = widths(experiment)
    return of_width(experiment, found[0]) if found else experiment


def backend_of(experiment: Experiment, make: Callable[[Experiment], Backend[Any]]) -> Backend[Any]:
    """The backend of all stages; `make` builds that of an experiment with one width."""
    found = widths(experiment)
    if not found:
        return make(experiment)
    stages = experiment.stages
    return Levels(lambda w: make(of_width(experiment, w)), found, stages, experiment.network, experiment.seed)
