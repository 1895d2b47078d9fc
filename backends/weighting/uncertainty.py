"""Weights by homoscedastic uncertainty: every term has a variance of its own, trained beside the network.

    loss = sum_k 1/2 exp(-s_k) L_k + 1/2 s_k            s_k = log sigma_k^2            (Kendall, Gal, Cipolla, eq. 7)

The log-variances are parameters (`weighting/log_variance/<term>`): in first-order stages the compiled step weighs with
them and gives them their gradient, which is known in closed form,

    d loss / d s_k = 1/2 (1 - exp(-s_k) L_k),

so that the stage's own optimizer trains them, at every step, from the losses of that step over all workers. They are
saved, resumed and taken to the other backend like all parameters. A weight is 1/2 exp(-s_k), within [low, high]: at a
bound the gradient that would lead further out is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from backends.task import Array, Task
from backends.weighting.strategy import Adaptive, Seen, State, kept

PREFIX = "weighting/"
"""Parameters that a weighting has beside those of the task."""
LOG_VARIANCE = f"{PREFIX}log_variance/"
BOUNDS = f"{PREFIX}frozen/log_variance_bounds"
"""[lowest, highest] log-variance: an array that is not trained, so that other bounds compile nothing."""


class Uncertainty(Adaptive):
    """Homoscedastic uncertainty (Kendall, Gal, Cipolla, arXiv 1705.07115, section 3.2).

    Trained by the stage's optimizer at every step of first-order stages; second-order stages keep the weights as they
    are, for a line search needs one loss. With Adam a log-variance moves by about the learning rate per step. The
    weights begin at `values` (the paper's s = 0 is the weight 1/2). At the optimum s_k = log L_k: every term then has
    the same share 1/2 of the loss, whatever its unit.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_variances"})
    kind: Literal["uncertainty"] = "uncertainty"

    def trained(self, terms: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Each term's log-variance at its first weight, and their bounds."""
        first = self.init(terms)["weights"]
        found = {LOG_VARIANCE + term: np.array(-math.log(2 * weight)) for term, weight in first.items()}
        return {**found, BOUNDS: np.array([-math.log(2 * self.high), -math.log(2 * self.low)])}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """Read the weights off the parameters: what is recorded, and what second-order stages use.
        `seen["log_variances"]`: [terms]."""
        found = np.asarray(seen["log_variances"], dtype=np.float64)
        if not np.isfinite(found).all():
            return kept(state)
        return self.settled(state, 0.5 * np.exp(-np.clip(found, -700.0, 700.0)))


def log_variances(params: Mapping[str, NDArray[Any]], terms: Sequence[str]) -> NDArray[np.float64]:
    """Those of the terms, in order."""
    return np.array([params[LOG_VARIANCE + term] for term in terms], dtype=np.float64)


def has(params: Mapping[str, Any]) -> bool:
    """Whether there are log-variances among the parameters."""
    return BOUNDS in params


def weighed(ops: Any, params: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights of a first-order step: 1/2 exp(-s) of terms that have a log-variance, else those given."""
    return {
        term: 0.5 * ops.exp(-_bounded(ops, params, LOG_VARIANCE + term)) if LOG_VARIANCE + term in params else weight
        for term, weight in weights.items()
    }


def slopes(ops: Any, params: Mapping[str, Array], losses: Mapping[str, Array]) -> dict[str, Array]:
    """The gradient of the loss by each log-variance, by parameter, from the unweighted losses by term."""
    found = {}
    for term, loss in losses.items():
        name = LOG_VARIANCE + term
        if name in params:
            s = _bounded(ops, params, name)
            slope = 0.5 * (1 - ops.exp(-s) * loss)
            outwards = ((params[name] <= params[BOUNDS][0]) & (slope > 0)) | (
                (params[name] >= params[BOUNDS][1]) & (slope < 0)
            )
            found[name] = ops.where(outwards, 0.0 * s, slope)
    return found


def _bounded(ops: Any, params: Mapping[str, Array], name: str) -> Array:
    low, high = params[BOUNDS][0], params[BOUNDS][1]
    return ops.minimum(ops.maximum(params[name], low), high)


def without(params: Mapping[str, Any]) -> dict[str, Any]:
    """The task's own parameters."""
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}


def beside(task: Task, parameters: Mapping[str, NDArray[Any]]) -> Task:
    """The task with a weighting's parameters; the task itself where there are none."""
    return cast("Task", Weighed(task, parameters)) if parameters else task


@dataclass(frozen=True, eq=False)
class Weighed:
    """A task that has parameters of a weighting, which its own functions never see."""

    task: Task
    parameters: Mapping[str, NDArray[Any]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    @property
    def signature(self) -> Any:
        """The task's own, with the names of what it has besides."""
        own = getattr(self.task, "signature", None)
        return None if own is None else (type(self.task), own, tuple(self.parameters))

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """The task's parameters and the weighting's."""
        return {**self.task.init(rng), **self.parameters}

    def per_sample(self, ops: Any, params: Mapping[str, Array], *rest: Any) -> Mapping[str, Array]:
        """As the task has it."""
        return self.task.per_sample(ops, without(params), *rest)

    def predict(self, ops: Any, params: Mapping[str, Array], *rest: Any) -> Mapping[str, Array]:
        """As the task has it."""
        return self.task.predict(ops, without(params), *rest)
