"""jax and torch take the same steps with every optimizer, schedule and treatment of the gradient."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

from pydantic import TypeAdapter

from backends.schedules import Schedule
from backends.testing.tasks import LeastSquares
from benchmarks.optimizers import SCHEDULES, burgers, cases, difference

CASES = {name: (stage, settings) for name, stage, settings in cases()}


def test_every_schedule_is_compared() -> None:
    assert set(SCHEDULES) == set(TypeAdapter[Any](Schedule).json_schema()["discriminator"]["mapping"])


ADAMS = [name for name, (stage, _) in CASES.items() if stage.kind == "adam"]
"""The other optimizers are compared so by the conformance suite (`backends.testing.optimizers`)."""


@pytest.mark.parametrize("name", ADAMS)
def test_parameters_agree_to_1e_12_over_50_steps_of_a_quadratic(name: str) -> None:
    stage, settings = CASES[name]
    assert difference(LeastSquares(), stage, settings)[0] <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_losses_agree_to_1e_9_over_50_steps_of_burgers(name: str) -> None:
    stage, settings = CASES[name]
    task: Any = burgers()
    assert difference(task, stage, settings)[1] <= 1e-9
