"""Optimizers that look at one gradient per step, as stages: what optax computes, on both backends.

An optimizer gives a direction, and the parameters lose the rate times it. Where `weight_decay` is given, it is
decoupled (Loshchilov and Hutter, arXiv 1711.05101): `weight_decay` times the parameters joins the direction behind the
moments, so the parameters lose `lr * weight_decay` of themselves per step. (`torch.optim` adds it to the gradient
instead, in all but AdamW.)
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from backends.spec import Fraction
from backends.stages.stage import FirstOrder


class _Moments(FirstOrder):
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class Adam(_Moments):
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), as `optax.adam`. With weight decay it is `adamw`."""

    knob_fields: ClassVar = ("b1", "b2", "eps")
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    """Learning rate."""


class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as `optax.adamw`."""

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decay per step, times the learning rate."""


class Nadam(_Moments):
    """Adam with Nesterov's momentum (Dozat, 2016), as `optax.nadam` (`nadamw` with weight decay).

    torch's NAdam differs: it warms its momentum up (`momentum_decay`).
    """

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["nadam"] = "nadam"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Radam(_Moments):
    """Adam whose first steps wait for the second moment's variance (Liu et al., arXiv 1908.03265), as `optax.radam`.

    torch's RAdam adds `eps` before it corrects the root for its start at zero.
    """

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["radam"] = "radam"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Lamb(_Moments):
    """Adam scaled by each parameter array's own norm (You et al., arXiv 1904.00962, algorithm 2), as `optax.lamb`.

    Every array moves by its norm times the rate; the weight decay is part of the direction that is scaled.
    """

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["lamb"] = "lamb"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    eps: PositiveFloat = 1e-6
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Muon(FirstOrder):
    """Momentum made orthogonal matrix by matrix (Jordan, "Muon", 2024), as `optax.contrib.muon`.

    Arrays that are no matrices (biases, constants) take Adam's step with Nesterov's momentum. A matrix [in, out] moves
    by about lr * sqrt(max(1, out / in)) in each of its singular directions.
    """

    knob_fields: ClassVar = ("beta", "b1", "b2", "eps", "weight_decay")
    kind: Literal["muon"] = "muon"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    beta: Fraction = 0.95
    """Decay of the momentum of matrices."""
    b1: Fraction = 0.9
    """Decay of the first moment of what is no matrix."""
    b2: Fraction = 0.999
    """Decay of its second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the norm of a matrix, and to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Lion(FirstOrder):
    """The sign of a mean of gradients (Chen et al., arXiv 2302.06675, program 1), as `optax.lion`.

    Steps are larger than Adam's at the same rate: take a third to a tenth of it.
    """

    knob_fields: ClassVar = ("b1", "b2", "weight_decay")
    kind: Literal["lion"] = "lion"
    lr: PositiveFloat = 1e-4
    """Learning rate."""
    b1: Fraction = 0.9
    """Share of the mean in the step's direction."""
    b2: Fraction = 0.99
    """Decay of the mean."""
    weight_decay: NonNegativeFloat = 1e-3
    """Decay per step, times the learning rate."""


class RmsProp(FirstOrder):
    """The gradient over the root of its mean square (Tieleman and Hinton, 2012), as `optax.rmsprop`.

    The momentum gathers directions and the rate comes afterwards, so that a schedule acts at once (as in torch; optax
    gathers what the rate has scaled already, which is the same while the rate is constant). torch adds `eps` behind
    the root.
    """

    knob_fields: ClassVar = ("decay", "eps", "momentum", "weight_decay")
    choices: ClassVar = ("centered",)
    kind: Literal["rmsprop"] = "rmsprop"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    decay: Fraction = 0.9
    """Decay of the mean square (torch: `alpha`)."""
    eps: PositiveFloat = 1e-8
    """Added to the mean square, under the root."""
    momentum: Fraction = 0.0
    """trace = direction + momentum * trace; the step is the trace times the rate."""
    centered: bool = False
    """Divide by the standard deviation of the gradient (Graves, arXiv 1308.0850) instead of its root mean square."""
    initial: NonNegativeFloat = 0.0
    """The mean square before the first step."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Adagrad(FirstOrder):
    """The gradient over the root of the sum of its squares (Duchi, Hazan and Singer, 2011), as `optax.adagrad`.

    torch adds `eps` behind the root.
    """

    knob_fields: ClassVar = ("eps", "weight_decay")
    kind: Literal["adagrad"] = "adagrad"
    lr: PositiveFloat = 1e-2
    """Learning rate."""
    eps: PositiveFloat = 1e-7
    """Added to the sum of squares, under the root."""
    initial: NonNegativeFloat = 0.1
    """The sum of squares before the first step."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""


class Sgd(FirstOrder):
    """Stochastic gradient descent, with heavy-ball momentum where `momentum` > 0, as `optax.sgd`."""

    knob_fields: ClassVar = ("momentum", "weight_decay")
    choices: ClassVar = ("nesterov",)
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-2
    """Learning rate."""
    momentum: Fraction = 0.0
    """trace = gradient + momentum * trace; the step is the trace times the rate."""
    nesterov: bool = False
    """The step is gradient + momentum * trace instead (Sutskever et al., 2013)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay per step, times the learning rate."""
