"""The tasks that ship, and the user's own: `task: {kind: …}` in an experiment file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.tasks.advection import Advection
from backends.tasks.allen_cahn import AllenCahn
from backends.tasks.burgers import Burgers
from backends.tasks.custom import CustomTask, described
from backends.tasks.diffusion_reaction import DiffusionReaction
from backends.tasks.heat import Heat
from backends.tasks.helmholtz import Helmholtz
from backends.tasks.inverse_heat import InverseHeat
from backends.tasks.kdv import KdV
from backends.tasks.kovasznay import Kovasznay
from backends.tasks.poisson import Poisson
from backends.tasks.regression import Regression
from backends.tasks.vae import Vae
from backends.tasks.wave import Wave

__all__ = ["Advection", "AllenCahn", "Burgers", "CustomTask", "DiffusionReaction", "Heat", "Helmholtz", "InverseHeat",
           "KdV", "Kovasznay", "Poisson", "Regression", "TaskUnion", "Vae", "Wave"]  # fmt: skip

TaskUnion = Annotated[
    Burgers
    | Poisson
    | Heat
    | Wave
    | Advection
    | Helmholtz
    | DiffusionReaction
    | AllenCahn
    | KdV
    | Kovasznay
    | InverseHeat
    | Regression
    | Vae
    | CustomTask,
    Field(discriminator="kind"),
    BeforeValidator(described),
]
"""A task as the experiment file describes it, or from Python an instance of it, also of the user's own class."""
