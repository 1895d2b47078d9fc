"""What a backend can train: a task is named terms over named batches, never reduced.

`loss = sum_k weight_k * mean(term_k)`. A task returns ONE VALUE PER SAMPLE of each term (residuals
raw and signed); the backend squares residuals, weights, sums over chunks and workers and divides by
the global number of samples. That one rule gives chunking, gradient accumulation, data parallelism
and per-sample weights, and leaves Gauss-Newton and NTK methods the residual vector.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.spec import Adapt, Leaf, Points

if TYPE_CHECKING:
    from backends.laws.marks import Conserve
    from backends.laws.multiscale import Bands

Array = Any
"""An array of whichever framework runs: numpy.ndarray, torch.Tensor, jax.Array (or a Jet of them)."""
Columns = Mapping[str, NDArray[Any]]
"""Named columns of one batch; the first axis counts samples. Integer columns stay integers on a device."""
Batches = Mapping[str, Columns]

FROZEN = "frozen/"
"""Parameters whose name contains this are not trained (random Fourier frequencies, for example)."""


def trainable(name: str) -> bool:
    """Whether the parameter called `name` is trained."""
    return FROZEN not in name


@dataclass(frozen=True)
class Term:
    """One named loss term."""

    name: str
    kind: Literal["residual", "loss"]
    """A residual enters the loss by its mean square, a loss enters as its mean."""
    batch: str
    """The batch (region, data set) whose samples it is computed from."""
    scale: float = 1.0
    """What `validation/total` divides it by: declared by the problem, never by network, seed or weights."""
    trained: bool = True
    """False: the network fulfils it by construction (hard constraints). It has no weight and no place in the loss;
    only `Backend.evaluate` computes it. A batch without a trained term never appears in the feed."""
    groups: tuple[str, ...] = ()
    """The parameter groups of the file that its gradient reaches (`rest`: those in no group); empty: all."""
    counted: bool = True
    """Whether it is part of `validation/total`: not a law that the other terms imply, so that runs with and without it
    can be compared."""


def trained_terms(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms that enter the loss, in order: the columns of `Steps.losses` and of every per-term array of `probe`."""
    return tuple(t for t in terms if t.trained)


def parts_of(value: Any) -> tuple[Any, ...]:
    """The residuals of a term's value: those of a vector residual, or the one."""
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class Context:
    """What `per_sample` may read besides parameters and columns. All values are traced, none a compiled constant."""

    constants: Mapping[str, Array]
    """Physical constants by name (the knobs `task/*`), 0-d arrays."""
    aux: Mapping[str, Array] = field(default_factory=dict)
    """State that changes without a gradient (buffers of a user's module)."""
    key: tuple[Array, Array] = (0, 0)
    """(seed, step) as integers: the key of noise drawn inside the step (`backends.randomness.normal`)."""
    training: bool = True
    """False in evaluations and predictions."""
    updates: dict[str, Array] = field(default_factory=dict)
    """Written by the task: new values of `aux`, which the backend stores after the step."""
    shared: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    """Batch -> its terms, where `per_sample_together` of the task has computed them already."""


@dataclass(frozen=True)
class Draw:
    """What n steps read. Arrays in `fixed` stay on the device until `version` changes."""

    version: Hashable
    fixed: Callable[[], Batches]
    """Full arrays, batch by batch; called only where the version changed."""
    stacked: Batches = field(default_factory=dict)
    """[n, ...] per column: one row per step. A column called `index` ([n, samples]) picks rows of `fixed`."""


class Feed(Protocol):
    """Where points or batches come from. A function of (seed, stream, step) and of its own saved arrays only."""

    def take(self, step: int, n: int) -> Draw:
        """What the steps `step` … `step + n - 1` read."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint must keep (adapted points); empty where everything follows from the seed."""
        ...

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The opposite of `arrays`."""
        ...


@dataclass(frozen=True)
class Reference:
    """A known solution on a fixed grid: where `error/l2` comes from."""

    points: Columns
    values: Mapping[str, NDArray[np.float64]]
    """Field by field, one value per point."""
    shape: tuple[int, ...] = ()
    """Shape of the grid that the points enumerate in C order; empty where they are scattered."""
    axes: tuple[str, ...] = ()
    """The coordinate along each axis of the grid."""


@dataclass(frozen=True)
class Picture:
    """Data of one figure; `orchestrator.plots` draws it.

    `field`: `axes` = {coordinate: 1-d array} (one or two of them), `panels` = {title: array of that shape};
    the panels called `prediction` and `reference` share their colours, `error` has its own, diverging ones.
    `images`: `panels` = {row title: [count, height, width]}.
    `scatter`: `panels` = {title: [n, 3]} with x, y, colour; `axes` gives the two names.
    `geometry`: `panels` = {name: [n, d] points or [n, 2 d] points and normals}; `axes` gives the d names.
    `lines`: `axes` has one entry, `panels` = {label: 1-d array}.
    """

    name: str
    kind: Literal["field", "images", "scatter", "lines", "geometry"]
    panels: Mapping[str, NDArray[Any]]
    axes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    title: str = ""


Predict = Callable[[Sequence[str], Columns], Mapping[str, NDArray[np.float64]]]
"""`predict(names, columns)`: values of the named outputs at each sample (bound to a backend's state)."""


class Task(Protocol):
    """What the backends train. Built on every worker from the same file, so it must be deterministic.

    A task may have `together`, the batches that a single pass can serve, and `per_sample_together(ops, params, batches,
    context)`, which gives their terms by batch; backends hand the answer to `per_sample` as `context.shared`.

    A task may have an attribute `signature`: a hashable value of which equal ones promise that `per_sample` and
    `predict` are the same functions of their arrays (constants are arrays too). Backends of one process then share
    compiled functions; without it, tasks are told apart by identity.
    """

    @property
    def terms(self) -> tuple[Term, ...]: ...

    @property
    def constants(self) -> Mapping[str, float]:
        """Physical constants that are knobs, with the file's values."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names that `predict` knows without being told (fields, reconstructions)."""
        ...

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Initial parameters, the same bits for both backends."""
        ...

    def aux(self) -> dict[str, NDArray[Any]]:
        """Initial state that changes without a gradient; empty for most tasks."""
        ...

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Mapping[str, Array]:
        """Every term of `batch`, one value per sample: [samples] each. NEVER reduced.

        A term that is a tuple of residuals (a vector residual) is returned as a tuple; its squares are added.
        A term of shape () reduces itself (its batch can't be chunked; see `reduced`).
        """
        ...

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> Mapping[str, Array]:
        """Values of the named outputs, [samples, ...] each. Names may be derivatives (`u_x`) where there are fields."""
        ...

    def width(self, batch: str) -> int:
        """Numbers per sample in the widest layer (channels times units): what the rule for chunks needs."""
        ...

    def reduced(self, batch: str) -> bool:
        """Whether a term of this batch reduces itself: such a batch is neither chunked nor split over workers."""
        ...

    def chunk(self, batch: str) -> int | Literal["auto"] | None:
        """Samples per pass as the file asks for it; None: never chunked."""
        ...

    def feed(self, seed: int) -> Feed:
        """Where the training samples come from."""
        ...

    def held_out(self, count: int) -> Batches:
        """Fixed held-out samples of every batch, about `count` of the largest; they do not depend on the seed."""
        ...

    def reference(self) -> Reference | None:
        """The known solution, where there is one. Raises RunFailed where its file is missing."""
        ...

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Metrics read off the parameters: `unknown/kappa` and, where the truth is known, `error/kappa`."""
        ...

    def pictures(self, predict: Predict, samples: Batches | None = None) -> list[Picture]:
        """Figures of the present state; `samples`: the present training samples (`Draw.fixed()`), to be drawn too."""
        ...


@dataclass(frozen=True)
class Parts:
    """The parts of an experiment file that a task is built from."""

    network: Any
    """A `backends.networks.Network`, ready to use."""
    constraints: Literal["soft", "hard"] = "soft"
    points: Mapping[str, Points] = field(default_factory=dict)
    """Keyed by term."""
    adapt: Adapt | None = None
    """Resampling of every interior set (a region of full dimension) that does not say its own."""
    conserve: Mapping[str, Conserve] = field(default_factory=dict)
    """The laws of the problem that the run upholds (`backends.laws.marks`)."""
    multiscale: Mapping[str, Bands] = field(default_factory=dict)
    """Residuals that are taken apart by scale (`backends.laws.multiscale`)."""
    data: Leaf | None = None
    reference: Leaf | None = None
    """The file of the solution, where the experiment names one (`backends.data.Solution`)."""
    coords: Mapping[str, Any] = field(default_factory=dict)
    """Float fields that are inputs of the network: name -> `backends.pde.parameters.Range`."""
    geometry: Any = None
    """The file of the domain's shape, where the experiment names one (`backends.geometry.files.GeometryFile`)."""
    scale_coords: bool = True
    scale_fields: Mapping[str, float] = field(default_factory=dict)
    laplacian: Leaf | None = None
    """How Laplacians are estimated in training (an `EstimatedLaplacian`); None: not at all."""
    folder: Path = Path()
    """Relative paths in the file are relative to this."""
    workers: int = 1


class TaskSpec(Leaf):
    """A task as the file describes it (`task: {kind: …}`); problems derive from it."""

    term_names: ClassVar[tuple[str, ...]] = ()
    """The terms of a task that is no Problem."""

    def build(self, parts: Parts) -> Task:
        """The task itself. Raises UserError where the parts do not fit together."""
        raise TypeError(f"{type(self).__name__} does not say how it is built: give it a method build(parts)")
