"""The contract of a backend: compiled functions for one task, all state passed in and out.

A backend folder (`backends.jax`, `backends.torch`) exports

    build(task, stages, settings) -> Backend
    adapt(target, fields) -> Network      a user's own module as a network (backends.networks)
    resolve_device(name) -> str           "auto" -> "cpu" or "cuda:0", raises UserError where there is none
    versions() -> dict[str, str]          package versions for provenance
    join(address, rank, size, *, gpu, timeout_s) -> int   join the process group at "host:port"; how many are in it
    leave() -> None                       leave it
    agree(value, world) -> int            the largest `value` of all ranks (a stop request that one rank saw)
    memory(device) -> dict                bytes of an accelerator: `in_use`, `peak`; empty where there is nothing to say
    profile(folder) -> stop               start the framework's profiler; stop() writes the trace into the folder

and `backends.testing` holds the suite that any backend must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends import groups as parameter_groups
from backends import pointwise
from backends.errors import UserError
from backends.gradients import Noise, Process, limits
from backends.groups import Groups
from backends.randomness import digest
from backends.spec import Clip, Precision
from backends.stages import Stage
from backends.stages.custom import OwnOptimizer
from backends.task import Batches, Columns, Draw, Feed, Task, Term, trained_terms

S = TypeVar("S")


@dataclass(frozen=True)
class World:
    """The processes that train together. With size > 1 the framework's own process group is already initialised."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Settings:
    """How to run, as opposed to what to compute."""

    seed: int = 0
    device: str = "cpu"
    """Resolved: "cpu", "cuda:0", …"""
    compile: Literal["auto", "always", "never"] = "auto"
    clip: Clip | None = None
    noise: Noise | None = None
    """Added to gradients in first-order stages."""
    process: Process | None = None
    """The user's function of the gradients (`backends.gradients`)."""
    optimizers: Mapping[str, OwnOptimizer] = field(default_factory=dict)
    """The user's own optimizers, by the name of the stage."""
    capacity: int = 1000
    """Most steps per dispatch: the length of the output buffer."""
    world: World = World()
    groups: Groups = field(default_factory=dict)
    """Parameter groups by name."""
    trained_weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Parameters of a weighting, beside the task's own (`backends.weighting.uncertainty`)."""
    accumulate: int = 1
    """Draws of the feed per optimizer step, each a pass of its own over the network (see `drawn`)."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them all."""
    warn: Callable[[str], None] = field(default=lambda message: None)
    """Called with one line where something was changed or is slower than it could be."""


NO_GROUPS: Groups = MappingProxyType({})


def columns_of(
    stage: Stage, task: Task, clip: Clip | None, groups: Groups = NO_GROUPS, noise: Noise | None = None
) -> tuple[str, ...]:
    """Names of the columns of the knob table of a stage, in order.

    `lr` (first-order stages only), the stage's own floats, those of clipping and noise
    (`backends.gradients.limits`), those of groups (`backends.groups.columns`),
    `weight/<term>` (trained terms), `task/<constant>`, in first-order stages `pointwise/<term>/<number>`
    (`backends.pointwise`).
    """
    rate = ("lr",) if hasattr(stage, "lr") else ()
    cut = tuple(limits(clip, noise)) if rate else ()
    weights = tuple(f"weight/{t.name}" for t in trained_terms(task.terms))
    own = parameter_groups.columns(groups) if rate else ()
    points = tuple(pointwise.knobs(task)) if rate else ()
    return rate + stage.knob_fields + cut + own + weights + tuple(f"task/{c}" for c in task.constants) + points


@dataclass(frozen=True)
class Steps:
    """What n steps report, one row per step. Rows are host arrays; a backend may fetch them lazily."""

    losses: NDArray[np.float64]
    """[n, trained terms]: mean of each term over all workers' samples, before weighting, at the parameters BEFORE the
    step (quasi-Newton: after it)."""
    ok: NDArray[np.bool_]
    """[n]: False where loss or gradient was not finite; such a step left the parameters as they were."""
    evaluations: NDArray[np.int64]
    """[n]: evaluations of loss and gradient."""
    ended: str = ""
    """Why a quasi-Newton stage can't go on ("gradient below tolerance", "line search stalled"), else empty."""
    readings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """[n] each: further numbers of the steps, by metric (`loss_scale` and `skipped_steps` of float16 stages)."""

    def bad(self) -> int | None:
        """Index of the first step that was not finite, or None."""
        return None if bool(self.ok.all()) else int(np.argmin(self.ok))


class Backend(Protocol[S]):
    """Compiled functions for one (task, stages, settings). A state passed to `step` is spent: use the one returned."""

    name: str

    def init(self, seed: int) -> S:
        """The state before step 0, in the first stage: parameters from the stream (seed, "init"), the same bits on
        every backend."""
        ...

    def enter(self, state: S, stage: int) -> S:
        """The same parameters with a fresh optimizer of stage number `stage`, in its precision."""
        ...

    def step(self, state: S, n: int, knobs: NDArray[np.float64], feed: Feed, step: int) -> tuple[S, Steps]:
        """n <= capacity optimizer steps, starting at global step `step`, in one dispatch.

        `knobs`: [n, columns] with the columns of `columns_of`; compiled once for every n, knob and point.
        """
        ...

    def evaluate(self, state: S, batches: Batches) -> dict[str, float]:
        """Mean of every term, trained or not, over the batches, at the present constants (no weights).

        Computed by every rank for itself, without communication. One compilation per set of shapes.
        """
        ...

    def candidates(self, state: S, batch: str, columns: Columns) -> dict[str, NDArray[np.float64]]:
        """|value| per sample of each term of one batch: what residual-based sampling needs."""
        ...

    def predict(self, state: S, names: Sequence[str], columns: Columns) -> dict[str, NDArray[np.float64]]:
        """Outputs at the samples, as float64 host arrays."""
        ...

    def probe(
        self, state: S, what: frozenset[str], feed: Feed, step: int, knobs: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Any of `losses` [terms], `grad_norms`, `grad_max`, `grad_mean_abs`, `grad_std` [terms] (of each unweighted
        term's gradient, see `of_gradients`), `gram` [terms, terms] (their products), `gradient` [parameters] (of the
        weighted loss, flat in the order of `layout`), and `ntk/<n>` [terms]: the mean over at most n samples per
        batch (`evenly`) of |gradient of the residual|^2, NaN for terms that are no residuals; `curvature/<term>`
        [parameters, parameters]: J'J / samples of one unweighted residual, `rows/<term>`: how many numbers it has. All
        on the samples of `step`, over all workers. `knobs`: one row [columns]. Shares the compiled function of loss and
        gradient."""
        ...

    def aux(self, state: S) -> dict[str, NDArray[Any]]:
        """Host copies of the state that changes without a gradient (`Task.aux`), by name."""
        ...

    def with_aux(self, state: S, new: Mapping[str, NDArray[Any]]) -> S:
        """The state, which is spent, with other values of some of that."""
        ...

    def parameters(self, state: S) -> dict[str, NDArray[Any]]:
        """Host copies of all parameters by name (without the prefix `params/`): what `Task.readings` reads."""
        ...

    def layout(self, state: S) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the trained parameters in the order of flat vectors: sorted by name."""
        ...

    def arrays(self, state: S) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All state as host arrays plus JSON-able meta, in names that both backends share.

        `params/<name>`, `aux/<name>`, `optimizer/<kind>/<part>/<name>` (`adam/mu/…`, `adam/nu/…`, `adam/count`,
        `sgd/trace/…`, `ssbroyden/H`, …), `constants/<name>` (the knobs `task/<name>` of the last step, float64).
        Meta: `stage` (index), `precision`.
        """
        ...

    def load(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> S:
        """The opposite of `arrays`, also for arrays that the other backend wrote. Strict: a missing, unknown or
        misshapen array is refused by name with a UserError."""
        ...

    def compilations(self) -> dict[str, int]:
        """How often each function was compiled: {"step/warm": 1, "evaluate": 1, …}."""
        ...


def precision_of(stage: Stage, default: Precision | None) -> Precision:
    """The precision of a stage: its own, else the file's, else what its kind needs."""
    return stage.precision or default or stage.default_precision


def samples_key(draw: Draw, step: int) -> float:
    """A number that changes with the samples that `step` reads, the same in every process and on every backend.

    The `key` of a quasi-Newton state is (samples_key, weights, constants): [1 + trained terms + constants]. Below 2^24,
    so that float32 holds it.
    """
    return float(digest(repr(draw.version), *((step,) if draw.stacked else ()), bits=24))


def drawn(feed: Feed, step: int, n: int, accumulate: int) -> Draw:
    """What the optimizer steps `step` … `step + n - 1` read, where each takes `accumulate` draws of the feed.

    The rows of a step are those of its draws one after the other, so minibatches grow; samples that stay do not.
    Raises UserError where nothing is drawn per step.
    """
    if accumulate == 1:
        return feed.take(step, n)
    draw = feed.take(step * accumulate, n * accumulate)
    if not draw.stacked:
        raise UserError(
            "every step reads the same samples, so there are no minibatches to accumulate; give a batch size, or cut "
            "the samples into passes (`chunk` of a point set)",
            path="accumulate",
        )
    joined = {
        batch: {name: np.asarray(v).reshape(n, -1, *np.shape(v)[2:]) for name, v in columns.items()}
        for batch, columns in draw.stacked.items()
    }
    return Draw(draw.version, draw.fixed, joined)


def share(count: int, world: World) -> slice:
    """The rows of `count` samples that belong to this rank; `count` must divide by the world's size."""
    each = count // world.size
    return slice(world.rank * each, (world.rank + 1) * each)


def of_gradients(slopes: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Statistics of each term's gradient, [terms] each, from `slopes` [terms, parameters].

    `grad_norms`: 2-norm; `grad_max`: largest |component|; `grad_mean_abs`: mean |component|; `grad_std`: standard
    deviation of the components (divided by their number); `gram` [terms, terms]: products of two gradients.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            "grad_norms": np.linalg.norm(slopes, axis=1),
            "grad_max": np.abs(slopes).max(axis=1),
            "grad_mean_abs": np.abs(slopes).mean(axis=1),
            "grad_std": slopes.std(axis=1),
            "gram": slopes @ slopes.T,
        }


CURVATURE, ROWS = "curvature/", "rows/"
"""`curvature/<term>` of `Backend.probe`, and how many residuals it was made of."""
KERNEL = "ntk/"
"""`ntk/<n>` of `Backend.probe`."""
KERNEL_ROWS = 16
"""Samples whose single gradients are taken at a time."""


def kernel_samples(what: Collection[str]) -> dict[str, int]:
    """The statistics `ntk/<n>` among `what`, each with its n."""
    return {name: int(name.removeprefix(KERNEL)) for name in sorted(what) if name.startswith(KERNEL)}


def curved(what: Collection[str]) -> tuple[str, ...]:
    """The terms whose curvature is among `what`."""
    return tuple(sorted({name.partition("/")[2] for name in what if name.startswith((CURVATURE, ROWS))}))


def evenly(count: int, wanted: int) -> NDArray[np.intp]:
    """`wanted` of `count` rows, evenly spaced; all where there are fewer. Shares of several workers are those of one
    where both numbers divide by the workers."""
    return np.arange(min(wanted, count), dtype=np.intp) * count // min(wanted, count)


def finite_terms(terms: Sequence[Term], losses: NDArray[np.float64]) -> list[str]:
    """Names of the terms whose loss is not finite."""
    return [t.name for t, value in zip(terms, losses, strict=True) if not np.isfinite(value)]
