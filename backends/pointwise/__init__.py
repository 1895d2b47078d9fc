"""Weights of single points, inside the step: causal in time, residual-based attention, self-adaptive.

A set of points with `pointwise:` has, besides its points, a small state in `aux` (so it lies in every checkpoint, under
`aux/pointwise/<set>/<part>`, and both backends read it):

    factors    a pass over some of the points multiplies their squared residuals by the weights of the last step
    noted      and adds what it saw of them to the part `seen`, which passes and workers sum up
    advanced   after the step, one update of the state from all that was seen

So the weights of a step follow from the residuals of the step before it, which costs no further evaluation, and every
cut into passes and workers gives the same numbers. Quasi-Newton stages keep the weights, for a line search must see
one function; every so many iterations `renewed` sets them from the residuals then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.names import PLACE, SHARE
from backends.ops import NumpyOps
from backends.pointwise import attention, causal, self_adaptive
from backends.spec import Attention, Causal, SelfAdaptive
from backends.task import parts_of

__all__ = [
    "PREFIX",
    "Weighted",
    "advanced",
    "factors",
    "initial",
    "knobs",
    "moved",
    "names",
    "noted",
    "of_points",
    "readings",
    "renewed",
]

Array = Any
State = dict[str, Any]
PREFIX = "pointwise/"
"""Of names in `aux`, of knobs and of metrics."""
SEEN = "seen"
"""The part of a state that is zero between two steps."""


class Rule(Protocol):
    """What each of the modules `causal`, `attention` and `self_adaptive` gives: pure functions over `ops`."""

    @property
    def KNOBS(self) -> tuple[str, ...]:
        """The numbers of its leaf that `advanced` reads."""
        ...

    @property
    def SETTLES(self) -> bool:
        """Whether the residuals before the first step set it."""
        ...

    def initial(self, spec: Any, size: int) -> dict[str, NDArray[np.float64]]:
        """The state of `size` points before the first step, `seen` (zero) among its parts."""
        ...

    def factor(self, ops: Any, spec: Any, state: State, place: Array) -> Array:
        """The weights of the points at these places, [samples]."""
        ...

    def saw(self, ops: Any, spec: Any, state: State, place: Array, share: Array, size: Array) -> Array:
        """What points of these places, shares and squared residuals add to `seen`."""
        ...

    def advanced(self, ops: Any, spec: Any, state: State, numbers: Mapping[str, Array], steps: int) -> State:
        """The state after an update (`steps` of them with the same residuals) from what was seen."""
        ...

    def moved(self, state: State, kept: NDArray[np.int64]) -> State:
        """The state (numpy) after points changed: per place the one before, or -1 for a new point."""
        ...

    def readings(self, spec: Any, state: State) -> dict[str, float]:
        """Metrics of a state (numpy)."""
        ...


RULES: Mapping[type, Rule] = {Causal: causal, Attention: attention, SelfAdaptive: self_adaptive}


@dataclass(frozen=True)
class Weighted:
    """One set of points that have weights."""

    batch: str
    name: str
    """The term under which knobs and metrics of the set are known."""
    spec: Causal | Attention | SelfAdaptive
    scales: tuple[tuple[str, float], ...]
    """(residual, what its square is divided by): their sum is what decides."""
    size: int
    """Points of the set."""

    @property
    def rule(self) -> Rule:
        return RULES[type(self.spec)]

    @property
    def every(self) -> int:
        """Iterations between updates in quasi-Newton stages; 0: never."""
        return getattr(self.spec, "every", 0)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What shapes a program; the numbers are knobs."""
        shape = {name: getattr(self.spec, name) for name in ("windows", "mask") if hasattr(self.spec, name)}
        return self.batch, self.name, self.spec.kind, tuple(shape.items()), self.scales

    def part(self, name: str) -> str:
        """The name in `aux` of a part of the state."""
        return f"{PREFIX}{self.batch}/{name}"

    def of(self, aux: Mapping[str, Array]) -> State:
        """The state by part."""
        start = self.part("")
        return {name.removeprefix(start): value for name, value in aux.items() if name.startswith(start)}

    def named(self, state: State) -> State:
        """The opposite of `of`."""
        return {self.part(name): value for name, value in state.items()}

    def numbers(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """The values of its knobs by field."""
        return {name: knobs[f"{PREFIX}{self.name}/{name}"] for name in self.rule.KNOBS}

    def squares(self, sizes: Mapping[str, Any]) -> Any:
        """The sum of squared residuals that decides, from |residual| by term (0-d parts of vectors joined)."""
        return reduce(add, [sizes[name] * sizes[name] / scale for name, scale in self.scales])


def _sets(task: Any) -> Mapping[str, Weighted]:
    return getattr(task, "pointwise", {})


# --- while a step is compiled ---


def factors(ops: Any, task: Any, batch: str, aux: Mapping[str, Array], columns: Mapping[str, Array]) -> tuple[Any, Any]:
    """(share, share times weight) of each sample: factors of loss values and of squared residuals. None: 1."""
    share, weighted = columns.get(SHARE), _sets(task).get(batch)
    if weighted is None or PLACE not in columns:
        return share, share
    weight = weighted.rule.factor(ops, weighted.spec, weighted.of(aux), columns[PLACE])
    return share, weight if share is None else share * weight


def noted(
    ops: Any,
    task: Any,
    batch: str,
    aux: Mapping[str, Array],
    columns: Mapping[str, Array],
    values: Mapping[str, Any],
    like: Callable[[Array], Array] = lambda x: x,
) -> dict[str, Array]:
    """New `aux` after a pass that gave these `values` of the batch's terms. `like`: into the precision of the state."""
    weighted = _sets(task).get(batch)
    if weighted is None or PLACE not in columns:
        return {}
    state = weighted.of(aux)
    squares = [_square(ops, values[name], like) / scale for name, scale in weighted.scales]
    total = reduce(add, squares)
    share = columns[SHARE] if SHARE in columns else ops.ones(total.shape, like=total)
    seen = weighted.rule.saw(ops, weighted.spec, state, columns[PLACE], share, total)
    return {weighted.part(SEEN): state[SEEN] + seen}


def advanced(
    ops: Any, task: Any, aux: Mapping[str, Array], knobs: Mapping[str, Array], workers: int
) -> dict[str, Array]:
    """New `aux` after a step, in which `seen` is the mean over the workers of what each of them saw."""
    out = dict(aux)
    for weighted in _sets(task).values():
        state = weighted.of(aux)
        state[SEEN] = state[SEEN] * workers
        new = weighted.rule.advanced(ops, weighted.spec, state, weighted.numbers(knobs), 1)
        out |= weighted.named({**new, SEEN: ops.zeros(state[SEEN].shape, like=state[SEEN])})
    return out


def _square(ops: Any, value: Any, like: Callable[[Array], Array]) -> Array:
    parts = [like(ops.stop_gradient(p)) for p in parts_of(value)]
    return reduce(add, [p * p for p in parts])


# --- on the host ---


def initial(task_sets: Mapping[str, Weighted]) -> dict[str, NDArray[np.float64]]:
    """The entries of `aux` before the first step."""
    found: dict[str, Any] = {}
    for weighted in task_sets.values():
        found |= weighted.named(weighted.rule.initial(weighted.spec, weighted.size))
    return found


def knobs(task: Any) -> dict[str, float]:
    """`pointwise/<term>/<field>` with the file's values."""
    return {
        f"{PREFIX}{w.name}/{field}": float(getattr(w.spec, field))
        for w in _sets(task).values()
        for field in w.rule.KNOBS
    }


def renewed(
    weighted: Weighted,
    aux: Mapping[str, NDArray[Any]],
    columns: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, NDArray[np.float64]],
    knobs: Mapping[str, float],
    steps: int,
) -> dict[str, NDArray[Any]]:
    """The state after `steps` updates from |residual| by term of all points of the set (their `columns`)."""
    ops, state = NumpyOps(), {name: np.asarray(v, np.float64) for name, v in weighted.of(aux).items()}
    squares = weighted.squares(sizes)
    share = columns.get(SHARE, np.ones_like(squares))
    state[SEEN] = weighted.rule.saw(ops, weighted.spec, state, columns[PLACE], share, squares)
    new = weighted.rule.advanced(ops, weighted.spec, state, weighted.numbers(knobs), steps)
    return weighted.named({**new, SEEN: np.zeros_like(state[SEEN])})


def moved(weighted: Weighted, aux: Mapping[str, NDArray[Any]], kept: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The state after the points of the set changed (`PointFeed.adopt`)."""
    return weighted.named(weighted.rule.moved(weighted.of(aux), kept))


def of_points(
    weighted: Weighted, aux: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """The weight of each point of the set, [samples]."""
    state = {name: np.asarray(v, np.float64) for name, v in weighted.of(aux).items()}
    return weighted.rule.factor(NumpyOps(), weighted.spec, state, columns[PLACE])


def names(sets: Mapping[str, Weighted]) -> list[str]:
    """The metrics that `readings` gives."""
    return list(readings(sets, initial(sets)))


def readings(sets: Mapping[str, Weighted], aux: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Metrics: `pointwise/pde/min`, …"""
    found: dict[str, float] = {}
    for weighted in sets.values():
        said = weighted.rule.readings(weighted.spec, weighted.of(aux))
        found |= {f"{PREFIX}{weighted.name}/{name}": value for name, value in said.items()}
    return found
