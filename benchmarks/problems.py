"""Equations without conditions, for timing steps: the same text for every engine that is compared."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat

from backends.networks import MLP
from backends.pde.problem import Problem, residual
from orchestrator.config import Experiment


class FreeBurgers(Problem):
    """u_t + u u_x = nu u_xx."""

    nu: PositiveFloat = 0.01 / math.pi
    coords = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_x, u_xx = f("u", "u_t", "u_x", "u_xx")
        return u_t + u * u_x - self.nu * u_xx


class FreeKuramoto(FreeBurgers):
    """u_t + u u_x + u_xx + nu u_xxxx = 0."""

    @residual
    def pde(self, f: Any) -> Any:
        u, u_t, u_x, u_xx, u_xxxx = f("u", "u_t", "u_x", "u_xx", "u_xxxx")
        return u_t + u * u_x + u_xx + self.nu * u_xxxx


class FreePoisson5(Problem):
    """lap u = nu sum x in five dimensions."""

    nu: PositiveFloat = 1.0
    coords = {f"x{i}": (-1.0, 1.0) for i in range(1, 6)}
    fields = ("u",)

    @residual
    def pde(self, f: Any) -> Any:
        return f.laplacian("u") - self.nu * f.ops.sum(f.position(), 0)


class NestedMLP(MLP):
    """The plain network, differentiated by the framework instead of by channels."""

    kind: Literal["nested"] = "nested"  # pyright: ignore[reportIncompatibleVariableOverride]
    jets: ClassVar[bool] = False


PROBLEMS: dict[str, Problem] = {"burgers": FreeBurgers(), "kuramoto": FreeKuramoto(), "poisson5": FreePoisson5()}


def experiment(case: dict[str, Any], backend: str) -> Experiment:
    """A case {problem, width, depth, points, steps} as an experiment; float32, no scaling, Adam at a constant rate."""
    return Experiment.model_validate(
        {
            "name": "steps",
            "backend": backend,
            "task": PROBLEMS[case["problem"]],
            "network": {"kind": "mlp", "width": case["width"], "depth": case["depth"]},
            "scaling": {"coords": False},
            "points": {"pde": case["points"]},
            "stages": [{"name": "warm", "kind": "adam", "lr": 1e-3, "steps": case["steps"]}],
            "compile": "always",
            "evaluate": {"every": case["steps"]},
            "checkpoint": {"every": case["steps"]},
            "tracking": {"enabled": False, "every": 100},
        }
    )
