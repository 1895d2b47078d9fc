"""The tasks that ship, and the user's own: `task: {kind: …}` in an experiment file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.tasks.burgers import Burgers
from backends.tasks.custom import CustomTask, described
from backends.tasks.inverse_heat import InverseHeat
from backends.tasks.poisson import Poisson
from backends.tasks.regression import Regression
from backends.tasks.vae import Vae

__all__ = ["Burgers", "CustomTask", "InverseHeat", "Poisson", "Regression", "TaskUnion", "Vae"]

TaskUnion = Annotated[
    Burgers | Poisson | InverseHeat | Regression | Vae | CustomTask,
    Field(discriminator="kind"),
    BeforeValidator(described),
]
"""A task as the experiment file describes it, or from Python an instance of it, also of the user's own class."""
