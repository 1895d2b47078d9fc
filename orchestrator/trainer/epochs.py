"""The history of a training, written an epoch at a time, and its words for metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.hooks import Moment

if TYPE_CHECKING:
    from orchestrator.trainer.session import Session


class Epochs:
    """Writes the history, an epoch at a time (a callback of the loop)."""

    def __init__(self, session: Session, said: Callable[[int, Mapping[str, float]], None]) -> None:
        self.session, self.said = session, said

    def step(self, moment: Moment) -> None:
        session = self.session
        if moment.step % session.per_epoch:
            return
        means = session.epoch_means()
        found = {"train_loss": means.pop("loss")}
        found |= {f"train_{name}": v for name, v in means.items() if name != "loss"}
        found |= {words(name): v for name, v in moment.metrics.items() if name.startswith("validation/")}
        if "lr" in moment.knobs:
            found["lr"] = moment.knobs["lr"]
        session.history.add(session.epoch, found)
        self.said(session.epoch, found)

    def state(self) -> dict[str, Any]:
        """The history, and what is known of the epoch that is not over."""
        session = self.session
        return {"history": session.history.state(), "sums": session.sums.tolist(), "counted": session.counted}

    def load(self, state: Mapping[str, Any]) -> None:
        """The opposite of `state`."""
        self.session.history.load(state["history"])
        self.session.sums, self.session.counted = np.array(state["sums"], float), int(state["counted"])


def words(name: str) -> str:
    """A metric in the words of history and callbacks: `validation/total` -> `val_loss`."""
    if name == "validation/total":
        return "val_loss"
    return f"val_{name.partition('/')[2]}" if name.startswith("validation/") else name.replace("loss/", "train_")
