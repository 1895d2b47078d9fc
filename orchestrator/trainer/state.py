"""What a Trainer gives back: its state at one moment, the history of its epochs, and a trained model with both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class TrainingState:
    """All that training changes, at one moment; immutable, in host arrays."""

    step: int
    """Optimizer steps done."""
    params: Any
    """The parameters, by name."""
    opt_state: Any = None
    """The optimizer's numbers, by name."""
    rng: Any = None
    """(seed, step): every random number of the next step follows from it."""
    best_loss: float = math.inf
    """The lowest validation loss so far; of the training, where nothing is validated."""
    epoch: int = 0
    """Epochs done."""
    aux: Mapping[str, Any] = field(default_factory=dict)
    """Buffers of the model."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each metric."""

    @classmethod
    def create(cls, params: Any, opt_state: Any = None, rng: Any = None, step: int = 0, **more: Any) -> TrainingState:
        """A state of given parts."""
        return cls(step, params, opt_state, rng, **more)

    @property
    def best_val_loss(self) -> float:
        """Another word for `best_loss`."""
        return self.best_loss

    def get(self, name: str, default: Any = None) -> Any:
        """A part by its name."""
        return getattr(self, name) if name in {f.name for f in fields(self)} else default

    def __getitem__(self, name: str) -> Any:
        if name not in {f.name for f in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)


class History(dict[str, list[float]]):
    """One list per metric, one number per epoch: `train_loss`, `train_<term>`, `val_loss`, `val_<term>`, `lr`.

    Validations are rarer where `validation_frequency` says so: `epochs["val_loss"]` are the epochs that had one.
    """

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        super().__init__({name: list(v) for name, v in (values or {}).items()})
        self.epochs: dict[str, list[int]] = {}

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """The numbers of an epoch, counted from 1."""
        for name, value in metrics.items():
            self.setdefault(name, []).append(float(value))
            self.epochs.setdefault(name, []).append(epoch)

    @property
    def metrics(self) -> dict[str, float]:
        """The last number of each, and `initial_train_loss`, `final_train_loss`, `final_val_loss`, `loss`."""
        last = {name: values[-1] for name, values in self.items() if values}
        for ours, name in (("train_loss", "final_train_loss"), ("val_loss", "final_val_loss"), ("train_loss", "loss")):
            if ours in last:
                last[name] = last[ours]
        if self.get("train_loss"):
            last["initial_train_loss"] = self["train_loss"][0]
        return last

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"values": {k: list(v) for k, v in self.items()}, "epochs": self.epochs}

    def load(self, state: Mapping[str, Any]) -> None:
        """The opposite of `state`."""
        self.clear()
        self.update({k: list(v) for k, v in state["values"].items()})
        self.epochs = {k: list(v) for k, v in state["epochs"].items()}


class Trained(NamedTuple):
    """`model, history = trainer.fit()`, or `trainer.fit()["train_loss"][-1]`: what is asked for by name is looked up
    in the history, then among the final metrics."""

    model: Any
    history: History

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics."""
        return self.history.metrics

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return tuple(self)[key]
        return self.history[key] if key in self.history else self.metrics[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        return self[key] if key in self.keys() else default

    def keys(self) -> list[str]:
        """All names."""
        return list({**self.history, **self.metrics})

    def items(self) -> Iterator[tuple[str, Any]]:
        """As a dict's."""
        return ((name, self[name]) for name in self.keys())


def split(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, Any]:
    """The arrays of one group of a checkpoint, without its name."""
    return {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{group}/")}
