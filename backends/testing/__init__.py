"""The conformance suite that any backend must pass; third parties import it.

    from backends import testing
    for check in testing.CHECKS:
        check(my_backend_module)  # raises AssertionError and says what differs
    for check in testing.PAIRS:
        check(my_backend_module, backends.load("jax"))

Keyword arguments replace fields of `Settings`: `check(module, compile="always")`.
"""

from __future__ import annotations

from backends.testing import gradients, groups, optimizers, pairs, points, readings, samples, steps
from backends.testing.tasks import Curves, Duel, Kinked, LeastSquares, Noisy, Samples, Toy

__all__ = ["CHECKS", "PAIRS", "Curves", "Duel", "Kinked", "LeastSquares", "Noisy", "Samples", "Toy"]

_BOTH = ("check_every_optimizer_agrees", "check_weights_of_points_agree")
CHECKS = tuple(
    f
    for m in (steps, optimizers, gradients, samples, readings, groups, points)
    for name, f in vars(m).items()
    if name.startswith("check_") and name not in _BOTH
)
"""Checks of one backend: `check(module, **settings)`."""
PAIRS = (
    *(f for name, f in vars(pairs).items() if name.startswith("check_")),
    optimizers.check_every_optimizer_agrees,
    points.check_weights_of_points_agree,
)
"""Checks of two backends: `check(one, other, **settings)`."""
