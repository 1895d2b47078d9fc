"""Optimizers that look at one gradient per step."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from backends.spec import Fraction
from backends.stage import FirstOrder


class Adam(FirstOrder):
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), as `optax.adam`."""

    knob_fields: ClassVar = ("b1", "b2", "eps")
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class AdamW(FirstOrder):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as `optax.adamw`."""

    knob_fields: ClassVar = ("b1", "b2", "eps", "weight_decay")
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decay per step, times the learning rate."""


class Sgd(FirstOrder):
    """Stochastic gradient descent, with heavy-ball momentum where `momentum` > 0, as `optax.sgd`."""

    knob_fields: ClassVar = ("momentum",)
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-2
    """Learning rate."""
    momentum: Fraction = 0.0
    """trace = gradient + momentum * trace; the step is the trace times the rate."""
