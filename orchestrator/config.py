"""The experiment file: one tree of frozen models, the only configuration there is.

YAML files (`orchestrator.reader`) and Python calls build the same `Experiment`. What a field means stands in
its docstring, which `orchestrator schema` turns into hover text. Checks that need the task (its terms, its
coordinates) are in `orchestrator.build`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends.data import DataSpec, Solution
from backends.derivatives.estimator import Derivatives
from backends.geometry.files import GeometryFile
from backends.gradients import Gradients
from backends.groups import Group
from backends.laplace import Laplace
from backends.laws.marks import Conserved
from backends.laws.multiscale import Multiscale
from backends.networks import NetworkSpec
from backends.networks.mlp import MLP
from backends.pde.parameters import Range
from backends.periods import Period
from backends.spec import Adapt, Clip, Leaf, Points, Precision
from backends.stages import DOUBLE, Stage
from backends.tasks import TaskUnion
from backends.weighting import FixedWeights, WeightsSpec
from orchestrator.callbacks import CallbackSpec
from orchestrator.loggers import LoggerSpec
from orchestrator.tracking import Tracking

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]


class PointSets(Leaf):
    """Collocation points, keyed by term: `pde: 4000` or `pde: {count: 4000, sampler: sobol}`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Points] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    adapt: Adapt | None = None
    """Resampling of every interior set that does not say its own."""

    def by_term(self) -> dict[str, Points]:
        """The sets as the file names them, without `adapt`."""
        return dict(self.__pydantic_extra__ or {})


class Scaling(Leaf):
    """Inputs and outputs of the network in units of order one; residuals stay in the user's units."""

    coords: bool = True
    """Map every coordinate to [-1, 1] before the network sees it."""
    fields: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Scale of each field: the network's output is multiplied by it. Default: what the problem declares, else 1."""


class Evaluate(Leaf):
    """The yardstick: unweighted terms on fixed held-out points, and the error against the reference."""

    every: Period = 500
    """Optimizer steps (or `1 epoch`) between evaluations; there is always one at step 0 and one at the end."""
    points: PositiveInt = 2000
    """Held-out points of the largest set (they do not depend on the seed)."""


class Checkpointing(Leaf):
    """What is kept of a run while it trains."""

    every: Period = 500
    """Optimizer steps (or `1 epoch`) between checkpoints; there is always one where the run ends or is stopped."""
    keep: PositiveInt = 3
    """The newest so many are kept, plus the best one."""
    best: str | None = "validation/total"
    """The metric whose lowest evaluation is kept as well; null: none."""


class Figures(Leaf):
    """Pictures of solution, residual, loss terms and weights."""

    every: Period | None = None
    """Optimizer steps (or `1 epoch`) between pictures; there is always one set at the end. null: only that."""
    formats: tuple[Literal["png", "pdf", "svg"], ...] = ("png",)
    """File formats; the data lies beside each picture as npz."""


class Resources(Leaf):
    """Where the training runs."""

    workers: NonNegativeInt = 1
    """Ray Train workers, which share the points of each step. 0: in this process, without Ray."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores (and threads) of each worker."""
    gpus_per_worker: NonNegativeFloat = 0
    """Accelerators of each worker."""


class Experiment(Leaf):
    """One experiment: what is trained, how, where, and what is kept of it."""

    version: Literal[1] = 1
    """Version of the file format."""
    extends: str | None = None
    """Another experiment file, relative to this one, that this file changes (stages are merged by name)."""
    name: Name
    """Name of the run's folder and of the run in MLflow."""
    backend: Literal["jax", "torch"] = "jax"
    """The framework that trains; the numbers are the same."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|gpu|cuda|tpu|mps)(:\d+)?$")] = "auto"
    """`auto` takes an accelerator where the worker has one, else the CPU."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Decides initial parameters, points, batches and noise."""
    precision: Precision | None = None
    """For stages that do not say their own; default: float64 for quasi-Newton stages, float32 for the others."""
    task: TaskUnion
    """The equation or workload that is trained."""
    network: NetworkSpec = MLP()
    """The network, written once for both backends, or the user's own."""
    constraints: Literal["soft", "hard"] = "soft"
    """hard: initial and boundary conditions are built into the network's output (the problem's ansatz);
    soft: they are loss terms."""
    conserve: Conserved = Field(default_factory=dict)
    """Laws of the problem (its methods marked @conserved or @symmetric) that the run upholds: `[mass, energy]`, or
    `{mass: {tolerance: 1e-3}, energy: projection}`."""
    points: PointSets = PointSets()
    """Collocation points per term of a PDE problem."""
    multiscale: Multiscale = Field(default_factory=dict)
    """Residuals inside the domain that are taken apart by scale: `{pde: {bands: 4}}` puts the terms `pde/band0` (the
    largest scales) … `pde/band3` in the place of `pde`, each with a weight of its own."""
    coords: dict[str, Range] = Field(default_factory=dict)
    """Float settings of a PDE problem that become inputs of the network, so that one network stands for the whole
    family: `{nu: {range: [0.001, 0.1], scale: log}}`. Nothing is derived by them."""
    geometry: GeometryFile | None = None
    """The domain of a PDE problem as a mesh in a file, in place of the problem's own."""
    data: DataSpec | None = None
    """The data set of a task that learns from one, or what was measured of a PDE problem's fields."""
    reference: Solution | None = None
    """The solution of a PDE problem in a file, to measure the error with."""
    scaling: Scaling = Scaling()
    """Scaling of coordinates and fields."""
    derivatives: Derivatives = Derivatives()
    """How derivatives of a PDE problem are computed where there is a choice: Laplacians in many dimensions."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Optimizers, run in this order."""
    weights: WeightsSpec = FixedWeights()
    """Weights of the loss terms."""
    clip: Clip | None = None
    """Gradient clipping in first-order stages."""
    gradients: Gradients = Gradients()
    """Noise on the gradient and the user's own function of it, in first-order stages."""
    groups: dict[GroupName, Group] = Field(default_factory=dict)
    """Parameters with a rate, rhythm or sign of their own, or not trained at all, by a name of your choice."""
    accumulate: PositiveInt = 1
    """Minibatches per optimizer step, one after the other: the numbers of a batch so many times larger."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch: whether steps are compiled. auto: where the run is long enough to pay for it."""
    uncertainty: Laplace | None = None
    """How sure the unknown constants of an inverse problem are, measured at the end of the run."""
    evaluate: Evaluate = Evaluate()
    """When and on how many points the run is measured."""
    checkpoint: Checkpointing = Checkpointing()
    """When state is saved and what is kept."""
    callbacks: tuple[CallbackSpec, ...] = ()
    """What happens besides: early stopping, ramps of knobs, the user's own."""
    figures: Figures = Figures()
    """When pictures are drawn."""
    start_from: str | None = None
    """A run (folder, id or name) whose weights this run starts from."""
    resources: Resources = Resources()
    """Workers, CPU cores, accelerators."""
    tracking: Tracking = Tracking()
    """MLflow."""
    loggers: tuple[LoggerSpec, ...] = ()
    """TensorBoard, Weights & Biases, a CSV table: beside MLflow or in its place."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the run folders; default: ORCHESTRATOR_RUNS, else `runs`."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Experiment:
        seen: set[str] = set()
        for i, stage in enumerate(self.stages):
            if stage.name in seen:
                raise PydanticCustomError(
                    "stage",
                    "two stages are called '{name}'; give each its own name",
                    {"name": stage.name, "path": f"stages.{i}.name"},
                )
            seen.add(stage.name)
            if isinstance(stage, DOUBLE) and stage.precision is None and self.precision == "float32":
                raise PydanticCustomError(
                    "stage",
                    "float32 does not suit stage '{name}', which needs float64; give that stage `precision: float64`",
                    {"name": stage.name, "path": "precision"},
                )
        return self

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(s.steps for s in self.stages)

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Experiment:
        """Read an experiment file. `overrides` maps dotted paths to values (`{"stages.warm.lr": 1e-3}`).

        Raises ConfigError with every problem found.
        """
        from orchestrator.reader import read_experiment

        return read_experiment(Path(path), overrides or {}).experiment

    def tree(self) -> dict[str, Any]:
        """The plain data of this experiment, every default filled in, as `experiment.yaml` holds it."""
        return self.model_dump(mode="json")

    def changed(self, **changes: Any) -> Experiment:
        """A validated copy with other top-level values."""
        return type(self).model_validate({**self.tree(), **changes})
