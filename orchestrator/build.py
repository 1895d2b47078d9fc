"""From an experiment to its task, and the checks that need one: terms, coordinates, owners of knobs, workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends import pointwise
from backends.derivatives.estimator import EstimatedLaplacian
from backends.errors import UserError, nearest
from backends.groups import Grouping, check_stages, check_terms
from backends.networks.custom import CustomNetwork
from backends.networks.vae import VaeNetwork
from backends.own.code import load as load_own
from backends.pde.task import PdeTask
from backends.periods import in_epochs
from backends.points.feed import PointFeed
from backends.protocol import precision_of
from backends.randomness import generator
from backends.stages import FIRST_ORDER
from backends.stages.custom import CustomOptimizer
from backends.task import Parts, Task
from backends.weighting import check as check_weights
from orchestrator import levels, matrices, uncertainty
from orchestrator.callbacks import CustomCallback, EarlyStopping, Ramp, ReduceOnPlateau
from orchestrator.callbacks import check as check_callbacks
from orchestrator.config import Experiment
from orchestrator.epoch_hooks import epoch_of, needs_epochs, refuse_epochs
from orchestrator.knobs import owners
from orchestrator.loggers import check as check_loggers


def task_of(experiment: Experiment, folder: Path, network: Any = None) -> Task:
    """Build the task. `network` replaces the one of the file (a user's own, resolved for a backend).

    Raises UserError, with the path of the field to blame.
    """
    _fits(experiment)
    laplacian = experiment.derivatives.laplacian
    estimated = laplacian if isinstance(laplacian, EstimatedLaplacian) else None
    task = experiment.task.build(
        Parts(
            network=network or experiment.network,
            constraints=experiment.constraints,
            conserve=dict(experiment.conserve),
            multiscale=dict(experiment.multiscale),
            points=experiment.points.by_term(),
            coords=experiment.coords,
            geometry=experiment.geometry,
            adapt=experiment.points.adapt,
            data=experiment.data,
            reference=experiment.reference,
            scale_coords=experiment.scaling.coords,
            scale_fields=dict(experiment.scaling.fields),
            laplacian=estimated,
            folder=folder,
            workers=max(experiment.resources.workers, 1),
        )
    )
    for name in ("multiscale", "coords", "geometry"):
        if getattr(experiment, name) and not isinstance(task, PdeTask):
            kind = experiment.task.kind
            raise UserError(f"the task {kind!r} is no equation and has no {name}; remove this", path=name)
    if experiment.conserve and not isinstance(task, PdeTask):
        kind = experiment.task.kind
        raise UserError(f"laws are those of an equation, and the task {kind!r} has none; remove this", path="conserve")
    if estimated and not getattr(task, "estimated", {}):
        raise UserError("only the Laplacian of an equation can be estimated; remove this", path="derivatives.laplacian")
    return task


def check(experiment: Experiment, folder: Path) -> Task:
    """Every check that needs no framework, no tracker and no Ray. Returns the task. Raises UserError."""
    task = task_of(experiment, folder)
    trained = [t for t in task.terms if t.trained]
    check_weights(experiment.weights, [t.name for t in trained], [t.name for t in trained if t.kind == "loss"])
    if experiment.weights.trained(()) and not any(hasattr(stage, "lr") for stage in experiment.stages):
        raise UserError(
            f"{experiment.weights.kind!r} trains its weights in first-order stages, and there is none here: add one, "
            "or take gradient_norms, gram or fixed",
            path="weights.kind",
        )
    ramps = [(i, c) for i, c in enumerate(experiment.callbacks) if isinstance(c, Ramp)]
    for number, message in owners(task, experiment.weights.kind, [r for _, r in ramps]):
        raise UserError(message, path=f"callbacks.{ramps[number][0]}.knob")
    rates = any(hasattr(stage, "lr") for stage in experiment.stages)
    steps = experiment.total_steps if not in_epochs(experiment) else None
    check_loggers(experiment.loggers)
    check_callbacks(experiment.callbacks, folder, total_steps=steps, rates=rates)
    _refuse_epoch_hooks(experiment, task, folder)
    if isinstance(experiment.network, CustomNetwork):
        try:
            load_own(experiment.network.target, folder)
        except UserError as error:
            raise UserError(str(error), path="network.target") from error
    for i, stage in enumerate(experiment.stages):
        if isinstance(stage, CustomOptimizer):
            try:
                stage.load(folder, experiment.backend)
            except UserError as error:
                raise UserError(str(error), path=f"stages.{i}.target") from error
    if experiment.gradients.custom:
        try:
            experiment.gradients.custom.load(folder)
        except UserError as error:
            raise UserError(str(error), path="gradients.custom.target") from error
    levels.widths(experiment)
    uncertainty.check(experiment, task)
    if not isinstance(experiment.network, CustomNetwork):  # only its framework knows its parameters
        matrices.refuse_hopeless(experiment, task)
    _best_exists(experiment, task)
    _trains(experiment, task)
    return task


def _refuse_epoch_hooks(experiment: Experiment, task: Task, folder: Path) -> None:
    """A callback that waits for epochs needs a task that has them."""
    for i, callback in enumerate(experiment.callbacks):
        if isinstance(callback, CustomCallback):
            target = load_own(callback.target, folder)
            if needs_epochs(target) and epoch_of(task.feed(experiment.seed)) is None:
                refuse_epochs(target, f"callbacks.{i}.target")


def _fits(experiment: Experiment) -> None:
    """Parts of the file that only make sense together."""
    kind = experiment.task.kind
    is_vae_network = isinstance(experiment.network, VaeNetwork)
    if (kind == "vae") != is_vae_network and not isinstance(experiment.network, CustomNetwork):
        if is_vae_network:
            raise UserError(f"the network 'vae' belongs to the task 'vae', not to {kind!r}", path="network.kind")
        raise UserError("the task 'vae' needs `network: {kind: vae, …}`, an encoder and a decoder", path="network.kind")


def _trains(experiment: Experiment, task: Task) -> None:
    """How parameters are trained must suit stages, terms and samples."""
    check_stages(experiment.groups, experiment.stages, task.terms)
    if isinstance(experiment.network, CustomNetwork):  # only its framework knows its parameters
        check_terms(experiment.groups, task.terms)
    elif experiment.groups:
        own = experiment.weights.trained([t.name for t in task.terms if t.trained])
        Grouping.of(experiment.groups, {**task.init(generator(experiment.seed, "init")), **own}, task.terms)
    for i, stage in enumerate(experiment.stages):
        if isinstance(experiment.derivatives.laplacian, EstimatedLaplacian) and not isinstance(stage, FIRST_ORDER):
            raise UserError(
                f"the stage {stage.name!r} compares losses of many iterations, which an estimated Laplacian, with new "
                "directions at every step, does not allow: take a first-order optimizer such as adam, or "
                "`derivatives: {laplacian: {kind: exact}}`",
                path=f"stages.{i}.kind",
            )
        if getattr(stage, "compute", None) and precision_of(stage, experiment.precision) == "float64":
            raise UserError(
                "half precision keeps its parameters in float32, and the file says `precision: float64`; give this "
                "stage `precision: float32`, or remove `compute`",
                path=f"stages.{i}.compute",
            )
    if experiment.accumulate > 1:
        _accumulates(task.feed(experiment.seed), experiment)


def _accumulates(feed: Any, experiment: Experiment) -> None:
    """Only minibatches can be accumulated, and no more of them than there are rows."""
    if isinstance(feed, PointFeed):
        raise UserError(
            "point sets are not accumulated: a step reads all of a set, and `chunk` of a set (`points: {pde: {count: "
            "…, chunk: …}}`) cuts it into passes with the memory of one; remove `accumulate`",
            path="accumulate",
        )
    rows, batch = getattr(feed, "rows", None), getattr(feed, "batch", 0)
    if rows is not None and batch is None:
        raise UserError(
            f"every step reads all {rows} training rows, so there are no minibatches to accumulate; give `data.batch`",
            path="accumulate",
        )
    if rows is not None and batch * experiment.accumulate > rows:
        raise UserError(
            f"{experiment.accumulate} minibatches of {batch} are more than the {rows} training rows; take at most "
            f"{rows // batch}",
            path="accumulate",
        )


def _best_exists(experiment: Experiment, task: Task) -> None:
    """Metrics that the file names must be ones that evaluations report."""
    known = ["validation/total", *(f"validation/{t.name}" for t in task.terms)]
    if task.reference() is not None:
        known.append("error/l2")
        known += [f"error/l2/{o}" for o in task.outputs]
    known += list(task.readings(_initial(task)))
    known += pointwise.names(getattr(task, "pointwise", {}))
    asked = [("checkpoint.best", experiment.checkpoint.best)]
    asked += [
        (f"callbacks.{i}.metric", c.metric)
        for i, c in enumerate(experiment.callbacks)
        if isinstance(c, EarlyStopping | ReduceOnPlateau)
    ]
    for path, metric in asked:
        if metric is not None and metric not in known:
            raise UserError(f"{metric!r} is not a metric of this task's evaluations{nearest(metric, known)}", path=path)


def _initial(task: Task) -> dict[str, Any]:
    """Unknown constants at their first guess; enough for the names of readings."""
    guesses = getattr(task, "unknowns", {})
    return {f"unknown/{name}": value for name, value in guesses.items()}
