"""Weights of the loss terms: fixed, by schedule, or set anew every so many steps from what the run has seen.

A strategy is a pair of pure functions on the host, `init(terms) -> state` and `update(state, *, step, seen, seed) ->
(state, weights)`; the state is plain JSON and goes into the checkpoint. Weights are live values: a new one is
compiled nowhere. No weight runs away: each stays within [low, high], and where something seen is not finite all
weights stay as they are.

    fixed.py            the weights of the file
    schedule.py         linear, exponential, step
    gradients.py        gradient_norms, annealing, inverse_dirichlet: from the size of each term's gradient
    gram.py             gram: from the angles between the gradients, by a convex quadratic program
    ntk.py              ntk: from the gradients of single residuals
    progress.py         relobralo, softadapt: from how each term gets on
    training_rates.py   gradnorm: from both
    dual.py             dual_ascent: constraints with tolerances
    uncertainty.py      uncertainty: log-variances, trained beside the network
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from backends.errors import UserError, nearest
from backends.weighting.dual import DualAscent
from backends.weighting.fixed import FixedWeights
from backends.weighting.gradients import GradientNorms, InverseDirichlet, LearningRateAnnealing
from backends.weighting.gram import GramWeights
from backends.weighting.ntk import NtkWeights
from backends.weighting.progress import ReLoBRaLo, SoftAdapt
from backends.weighting.schedule import Plan, ScheduledWeights
from backends.weighting.strategy import Seen, State
from backends.weighting.training_rates import GradNorm
from backends.weighting.uncertainty import Uncertainty

__all__ = [
    "AnyWeights",
    "DualAscent",
    "FixedWeights",
    "GradNorm",
    "GradientNorms",
    "GramWeights",
    "InverseDirichlet",
    "LearningRateAnnealing",
    "NtkWeights",
    "Plan",
    "ReLoBRaLo",
    "ScheduledWeights",
    "Seen",
    "SoftAdapt",
    "State",
    "Uncertainty",
    "Weighting",
    "WeightsSpec",
    "check",
]

AnyWeights = (
    FixedWeights
    | ScheduledWeights
    | GradientNorms
    | LearningRateAnnealing
    | InverseDirichlet
    | NtkWeights
    | GramWeights
    | GradNorm
    | ReLoBRaLo
    | SoftAdapt
    | DualAscent
    | Uncertainty
)
WeightsSpec = Annotated[AnyWeights, Field(discriminator="kind")]
"""`weights:` of an experiment file."""


def check(spec: AnyWeights, terms: Sequence[str], losses: Collection[str] = ()) -> None:
    """Raise UserError where `spec` names a term that is not trained, leaves nothing to train on, or is not defined for
    a term. `losses`: the terms that enter the loss as they are (`Term.kind` is loss)."""
    for path, name in spec.named().items():
        if name not in terms:
            raise UserError(f"{name!r} is not a loss term of this task{nearest(name, terms)}", path=path)
    if spec.residuals_only and losses:
        name = next(term for term in terms if term in losses)
        raise UserError(
            f"{spec.kind!r} weighs residuals, and the term {name!r} is a loss that has none; take another rule: "
            "gradient_norms, gram and relobralo suit every term",
            path="weights.kind",
        )
    if not any(spec.init(terms)["weights"].values()):
        raise UserError(
            "the weight of every term is 0: there is nothing to train on; give one of them a positive weight",
            path="weights.terms" if isinstance(spec, ScheduledWeights) else "weights.values",
        )


class Weighting:
    """A strategy at work: its state, and the weights as they are now."""

    def __init__(self, spec: AnyWeights, terms: Sequence[str], seed: int) -> None:
        self.spec, self.terms, self.seed = spec, tuple(terms), seed
        self._state = spec.init(self.terms)

    @classmethod
    def of(cls, spec: AnyWeights, terms: Sequence[str], seed: int, losses: Collection[str] = ()) -> Weighting:
        """The strategy `spec` before the first step. Raises UserError where it does not suit the trained `terms`, of
        which `losses` enter the loss as they are."""
        check(spec, terms, losses)
        return cls(spec, terms, seed)

    @property
    def weights(self) -> dict[str, float]:
        """The present weight of each trained term, in order; of a scheduled one the first."""
        return dict(self._state["weights"])

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The weights that are functions of the step: columns of the table of live values."""
        return self.spec.plans() if isinstance(self.spec, ScheduledWeights) else ()

    @property
    def needs(self) -> frozenset[str]:
        """What `update` must be shown: some of `losses` and the statistics of `Backend.probe`."""
        return self.spec.needs

    @property
    def every(self) -> int | None:
        """Optimizer steps between updates; None where weights never change by what is seen."""
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
