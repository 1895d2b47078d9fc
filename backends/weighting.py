"""Weights of the loss terms: fixed, or set anew every so many steps from what the run has seen.

A strategy is a pair of pure functions on the host, `init(terms) -> state` and `update(state, *, step, seen, seed) ->
(state, weights)`; the state is plain JSON and goes into the checkpoint. Weights are live values: a new one is
compiled nowhere. No weight runs away: each stays within [low, high], and where something seen is not finite all
weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends import randomness
from backends.errors import UserError, nearest
from backends.spec import Fraction, Leaf

State = dict[str, Any]
Seen = Mapping[str, NDArray[np.float64]]
"""What a strategy needs, by name, one value per trained term in order: `losses`, `grad_norms`."""
# strict: a dict's values are not seen by the Leaf's own check, and `true` is no weight.
Weight = Annotated[float, Field(ge=0, strict=True)]


class FixedWeights(Leaf):
    """The weights of the file."""

    needs: ClassVar[frozenset[str]] = frozenset()
    kind: Literal["fixed"] = "fixed"
    values: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each term; 1 for terms that are not named. 0 leaves a term out of the loss."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step."""
        return _start(self.values, terms)

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """The same weights."""
        return state, dict(state["weights"])


class _Adaptive(Leaf):
    """What the strategies that move weights have in common."""

    values: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each term before the first update; 1 for terms that are not named."""
    every: PositiveInt = 100
    """Optimizer steps between updates."""
    low: PositiveFloat = 1e-3
    """No weight falls below this."""
    high: PositiveFloat = 1e3
    """No weight rises above this."""

    @model_validator(mode="after")
    def _bounded(self) -> _Adaptive:
        if self.low >= self.high:
            raise PydanticCustomError(
                "bounds",
                "low ({low}) must be below high ({high})",
                {"low": self.low, "high": self.high, "path": "weights.low"},
            )
        for name, value in self.values.items():
            if not self.low <= value <= self.high:
                raise PydanticCustomError(
                    "bounds",
                    "'{name}' starts at {value}, not between `low` ({low}) and `high` ({high}); change one of them",
                    {
                        "name": name,
                        "value": value,
                        "low": self.low,
                        "high": self.high,
                        "path": f"weights.values.{name}",
                    },
                )
        return self

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step."""
        return _start(self.values, terms)


class GradientNorms(_Adaptive):
    """Weights that make the gradients of all terms equally long (Wang et al., arXiv 2308.08468, algorithm 1).

    lambda_i = mean_j |grad L_j| / |grad L_i|, smoothed by a moving average. The paper has the sum in place of the
    mean; with the mean (as in the authors' code) equal gradients have the weight 1, and the lengths of the weighted
    gradients add up to those of the unweighted ones. A term whose gradient is exactly 0 keeps its weight and does
    not count in the mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_norms"})
    kind: Literal["gradient_norms"] = "gradient_norms"
    alpha: Fraction = 0.9
    """Share of the old weight in the new one."""

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average towards the balanced weights. `seen["grad_norms"]`: [terms]."""
        old = _vector(state["weights"])
        norms = np.asarray(seen["grad_norms"], dtype=np.float64)
        alive = norms > 0
        if not np.isfinite(norms).all() or not alive.any():
            return state, dict(state["weights"])
        with np.errstate(over="ignore", divide="ignore"):
            balanced = np.where(alive, norms[alive].mean() / norms, old)
        return _settled(state, self.alpha * old + (1 - self.alpha) * np.clip(balanced, self.low, self.high), self)


class ReLoBRaLo(_Adaptive):
    """Relative loss balancing with random lookback (Bischof and Kraus, arXiv 2110.09813, section 3.3).

    A term that has fallen less than the others gets more weight:

        balanced(t, s) = K * softmax_i( L_i(t) / (temperature * L_i(s)) )              K terms, so they add up to K
        lambda(t) = alpha * (rho * lambda(t-1) + (1 - rho) * balanced(t, 0)) + (1 - alpha) * balanced(t, t-1)

    rho is 1 with probability `beta`, else 0: now and then the run looks back to its beginning. t counts updates, not
    steps; the paper's 0.999 per step is 0.9 per 100 steps. Weights that started with the sum K keep it, up to the
    bounds. It is made for terms that are not negative: a term that was 0 or less at s counts as unchanged.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    kind: Literal["relobralo"] = "relobralo"
    alpha: Fraction = 0.9
    """Share of the past in the new weights."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that the past is the last weights and not the run's beginning (E[rho] in the paper)."""
    temperature: PositiveFloat = 0.1
    """Small values give nearly all weight to the term that fell least, large ones weigh all alike."""

    def init(self, terms: Sequence[str]) -> State:
        """The weights before the first step; losses to compare with come with the first update."""
        return {**_start(self.values, terms), "first": None, "last": None}

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """Weights from the losses now, at the last update and at the first one. `seen["losses"]`: [terms]."""
        losses = np.asarray(seen["losses"], dtype=np.float64)
        if not np.isfinite(losses).all():
            return state, dict(state["weights"])
        first, last = state["first"] or losses.tolist(), state["last"]
        after = {**state, "first": first, "last": losses.tolist()}
        if last is None:
            return after, dict(state["weights"])
        old = _vector(state["weights"])
        if randomness.generator(seed, "relobralo", step).random() >= self.beta:
            old = self._balanced(losses, first)
        return _settled(after, self.alpha * old + (1 - self.alpha) * self._balanced(losses, last), self)

    def _balanced(self, now: NDArray[np.float64], then: Sequence[float]) -> NDArray[np.float64]:
        past = np.asarray(then)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio = np.where(past > 0, now / past, 1.0) / self.temperature
        ratio = np.minimum(ratio, 1e300)  # a term that came from almost nothing: infinitely worse is very much worse
        grown = np.exp(ratio - ratio.max())
        return len(now) * grown / grown.sum()


WeightsSpec = Annotated[FixedWeights | GradientNorms | ReLoBRaLo, Field(discriminator="kind")]
"""`weights:` of an experiment file."""


def check(spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str]) -> None:
    """Raise UserError where `values` names a term that is not trained, or leaves nothing to train on."""
    for name in spec.values:
        if name not in terms:
            raise UserError(
                f"{name!r} is not a loss term of this task{nearest(name, terms)}", path=f"weights.values.{name}"
            )
    if not any(_start(spec.values, terms)["weights"].values()):
        raise UserError(
            "the weight of every term is 0: there is nothing to train on; give one of them a positive weight",
            path="weights.values",
        )


class Weighting:
    """A strategy at work: its state, and the weights as they are now."""

    def __init__(self, spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str], seed: int) -> None:
        self.spec, self.terms, self.seed = spec, tuple(terms), seed
        self._state = spec.init(self.terms)

    @classmethod
    def of(cls, spec: FixedWeights | GradientNorms | ReLoBRaLo, terms: Sequence[str], seed: int) -> Weighting:
        """The strategy `spec` before the first step. Raises UserError where it does not suit the trained `terms`."""
        check(spec, terms)
        return cls(spec, terms, seed)

    @property
    def weights(self) -> dict[str, float]:
        """The present weight of each trained term, in order."""
        return dict(self._state["weights"])

    @property
    def needs(self) -> frozenset[str]:
        """What `update` must be shown: some of `losses`, `grad_norms`."""
        return self.spec.needs

    @property
    def every(self) -> int | None:
        """Optimizer steps between updates; None where weights never change."""
        return getattr(self.spec, "every", None)

    def update(self, step: int, seen: Seen) -> dict[str, float]:
        """The weights after `step` steps, having seen what was needed."""
        self._state, weights = self.spec.update(self._state, step=step, seen=seen, seed=self.seed)
        return weights

    def state(self) -> State:
        """What a checkpoint keeps: plain JSON."""
        return dict(self._state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept. Raises UserError where it belongs to other terms."""
        kept = list(state["weights"])
        if kept != list(self.terms):
            raise UserError(
                f"the checkpoint has weights of the terms {', '.join(kept)}, this task trains {', '.join(self.terms)}"
            )
        self._state = dict(state)


def _start(values: Mapping[str, float], terms: Sequence[str]) -> State:
    return {"weights": {term: float(values.get(term, 1.0)) for term in terms}}


def _vector(weights: Mapping[str, float]) -> NDArray[np.float64]:
    return np.fromiter(weights.values(), dtype=np.float64, count=len(weights))


def _settled(state: State, weights: NDArray[np.float64], spec: _Adaptive) -> tuple[State, dict[str, float]]:
    """The state with new weights, within the bounds."""
    named = dict(zip(state["weights"], np.clip(weights, spec.low, spec.high).tolist(), strict=True))
    return {**state, "weights": named}, dict(named)
