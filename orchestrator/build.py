"""From an experiment to its task, and the checks that need one: terms, coordinates, owners of knobs, workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.errors import UserError, nearest
from backends.networks.custom import CustomNetwork
from backends.networks.vae import VaeNetwork
from backends.own_code import load as load_own
from backends.task import Parts, Task
from backends.weighting import check as check_weights
from orchestrator.callbacks import CustomCallback, Ramp
from orchestrator.config import Experiment
from orchestrator.knobs import owners


def task_of(experiment: Experiment, folder: Path, network: Any = None) -> Task:
    """Build the task. `network` replaces the one of the file (a user's own, resolved for a backend).

    Raises UserError, with the path of the field to blame.
    """
    _fits(experiment)
    return experiment.task.build(
        Parts(
            network=network or experiment.network,
            constraints=experiment.constraints,
            points=experiment.points.by_term(),
            adapt=experiment.points.adapt,
            data=experiment.data,
            scale_coords=experiment.scaling.coords,
            scale_fields=dict(experiment.scaling.fields),
            folder=folder,
            workers=max(experiment.resources.workers, 1),
        )
    )


def check(experiment: Experiment, folder: Path) -> Task:
    """Every check that needs no framework, no tracker and no Ray. Returns the task. Raises UserError."""
    task = task_of(experiment, folder)
    check_weights(experiment.weights, [t.name for t in task.terms if t.trained])
    ramps = [(i, c) for i, c in enumerate(experiment.callbacks) if isinstance(c, Ramp)]
    for number, message in owners(task, experiment.weights.kind, [r for _, r in ramps]):
        raise UserError(message, path=f"callbacks.{ramps[number][0]}.knob")
    for i, callback in enumerate(experiment.callbacks):
        if isinstance(callback, CustomCallback):
            try:
                callback.check(folder)
            except UserError as error:
                raise UserError(str(error), path=f"callbacks.{i}.target") from error
    if isinstance(experiment.network, CustomNetwork):
        try:
            load_own(experiment.network.target, folder)
        except UserError as error:
            raise UserError(str(error), path="network.target") from error
    _best_exists(experiment, task)
    return task


def _fits(experiment: Experiment) -> None:
    """Parts of the file that only make sense together."""
    kind = experiment.task.kind
    is_vae_network = isinstance(experiment.network, VaeNetwork)
    if (kind == "vae") != is_vae_network and not isinstance(experiment.network, CustomNetwork):
        if is_vae_network:
            raise UserError(f"the network 'vae' belongs to the task 'vae', not to {kind!r}", path="network.kind")
        raise UserError("the task 'vae' needs `network: {kind: vae, …}`, an encoder and a decoder", path="network.kind")


def _best_exists(experiment: Experiment, task: Task) -> None:
    """Metrics that the file names must be ones that evaluations report."""
    known = ["validation/total", *(f"validation/{t.name}" for t in task.terms)]
    if task.reference() is not None:
        known.append("error/l2")
        known += [f"error/l2/{o}" for o in task.outputs]
    known += list(task.readings(_initial(task)))
    asked = [("checkpoint.best", experiment.checkpoint.best)]
    asked += [
        (f"callbacks.{i}.metric", c.metric) for i, c in enumerate(experiment.callbacks) if c.kind == "early_stopping"
    ]
    for path, metric in asked:
        if metric is not None and metric not in known:
            raise UserError(f"{metric!r} is not a metric of this task's evaluations{nearest(metric, known)}", path=path)


def _initial(task: Task) -> dict[str, Any]:
    """Unknown constants at their first guess; enough for the names of readings."""
    guesses = getattr(task, "unknowns", {})
    return {f"unknown/{name}": value for name, value in guesses.items()}
