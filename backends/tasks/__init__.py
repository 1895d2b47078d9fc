"""The tasks that ship, and the user's own: `task: {kind: …}` in an experiment file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.tasks.advection import Advection
from backends.tasks.allen_cahn import AllenCahn
from backends.tasks.burgers import Burgers
from backends.tasks.burgers_2d import Burgers2D
from backends.tasks.cavity import Cavity
from backends.tasks.custom import CustomTask, described
from backends.tasks.diffusion_reaction import DiffusionReaction
from backends.tasks.euler_beam import EulerBeam
from backends.tasks.ginzburg_landau import GinzburgLandau
from backends.tasks.gray_scott import GrayScott
from backends.tasks.heat import Heat
from backends.tasks.heat_5d import Heat5D
from backends.tasks.helmholtz import Helmholtz
from backends.tasks.inverse_heat import InverseHeat
from backends.tasks.kdv import KdV
from backends.tasks.kovasznay import Kovasznay
from backends.tasks.kuramoto_sivashinsky import KuramotoSivashinsky
from backends.tasks.layered import HeatLayers, WaveLayers
from backends.tasks.lorenz import Lorenz
from backends.tasks.poisson import Poisson
from backends.tasks.poisson_frequencies import PoissonFrequencies
from backends.tasks.poisson_nd import Poisson5D, Poisson100D
from backends.tasks.regression import Regression
from backends.tasks.schroedinger import Schroedinger
from backends.tasks.vae import Vae
from backends.tasks.wave import Wave

__all__ = ["Advection", "AllenCahn", "Burgers", "Burgers2D", "Cavity", "CustomTask", "DiffusionReaction",
           "EulerBeam", "GinzburgLandau", "GrayScott", "Heat", "Heat5D", "HeatLayers", "Helmholtz", "InverseHeat",
           "KdV", "Kovasznay", "KuramotoSivashinsky", "Lorenz", "Poisson", "Poisson5D", "Poisson100D",
           "PoissonFrequencies", "Regression", "Schroedinger", "TaskUnion", "Vae", "Wave", "WaveLayers"]  # fmt: skip

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
    | Burgers2D
    | Schroedinger
    | KuramotoSivashinsky
    | GinzburgLandau
    | GrayScott
    | Cavity
    | PoissonFrequencies
    | Poisson5D
    | Poisson100D
    | Heat5D
    | HeatLayers
    | WaveLayers
    | EulerBeam
    | Lorenz
    | InverseHeat
    | Regression
    | Vae
    | CustomTask,
    Field(discriminator="kind"),
    BeforeValidator(described),
]
"""A task as the experiment file describes it, or from Python an instance of it, also of the user's own class."""
