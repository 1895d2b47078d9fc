"""Trainer: for people with their own model, loss and data loader.

configs.py      TrainingConfig, OptimizerConfig, SchedulerConfig, in the words of other systems
translate.py    … and the experiment that they mean
data.py         what may be handed over as data; stream.py: batches of a loader as a feed
session.py      task, compiled functions and loop, put together once
trainer.py      the face of it
callbacks.py    EarlyStopping, ModelCheckpoint, LearningRateScheduler
state.py        TrainingState, History, Trained
"""

from __future__ import annotations

from orchestrator.trainer.callbacks import EarlyStopping, LearningRateScheduler, ModelCheckpoint
from orchestrator.trainer.configs import OptimizerConfig, SchedulerConfig, TrainingConfig
from orchestrator.trainer.state import History, Trained, TrainingState
from orchestrator.trainer.trainer import Trainer

__all__ = [
    "EarlyStopping",
    "History",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "OptimizerConfig",
    "SchedulerConfig",
    "Trained",
    "Trainer",
    "TrainingConfig",
    "TrainingState",
]
