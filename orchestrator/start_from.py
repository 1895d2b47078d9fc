"""Starting from another run's weights: which checkpoint is meant, and whether it fits, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backends import checkpoint
from backends.errors import StorageFailed, UserError
from backends.networks.custom import CustomNetwork
from backends.pointwise import PREFIX
from backends.randomness import generator
from backends.weighting.uncertainty import PREFIX as WEIGHTING
from orchestrator import build, levels
from orchestrator.config import Experiment
from orchestrator.folder import find

Shapes = dict[str, tuple[int, ...]]
GROUPS = ("params/", "aux/")
"""The arrays that are taken over; optimizer and constants are the new run's."""


def beginning(experiment: Experiment, folder: Path, storage: str | None) -> Path | None:
    """The checkpoint folder that `start_from` means; `folder`: what relative names in the experiment refer to.

    A checkpoint's folder, or a run's: then the newest sound one of it. Raises UserError where there is none, or where
    its weights do not fit the network.
    """
    if experiment.start_from is None:
        return None
    try:
        path = _meant(experiment.start_from, storage)
        theirs = shapes(checkpoint.load(path).arrays)
    except StorageFailed as error:
        raise UserError(str(error), path="start_from") from error
    ours = weights(experiment, folder)
    if ours is not None:
        refuse_misfits(theirs, ours)
    return path


def _meant(start_from: str, storage: str | None) -> Path:
    path = Path(start_from).expanduser()
    if (path / checkpoint.META).is_file():
        return path.absolute()
    run = find(start_from, storage)
    wrong = ""
    for found in reversed(checkpoint.listing(run.checkpoints)):
        try:
            checkpoint.verify(found)
        except StorageFailed as error:
            wrong = wrong or f" that is sound: {error}"
        else:
            return found
    raise UserError(f"{run.path} has no checkpoint to start from{wrong}", path="start_from")


def weights(experiment: Experiment, folder: Path) -> Shapes | None:
    """Shapes of the trained arrays of an experiment; None for a user's own network, which only its framework knows."""
    if isinstance(experiment.network, CustomNetwork):
        return None
    task = build.task_of(levels.first(experiment), folder)
    params = task.init(generator(experiment.seed, "init"))
    return shapes({**{f"params/{k}": v for k, v in params.items()}, **{f"aux/{k}": v for k, v in task.aux().items()}})


def shapes(arrays: Mapping[str, Any]) -> Shapes:
    """Shapes of the arrays that a start takes over."""
    return {k: tuple(v.shape) for k, v in arrays.items() if taken_over(k)}


def taken_over(name: str) -> bool:
    """Whether a start takes over this array: parameters and buffers, not the weights of that run's points and terms."""
    return name.startswith(GROUPS) and not name.startswith((f"aux/{PREFIX}", f"params/{WEIGHTING}"))


def refuse_misfits(theirs: Shapes, ours: Shapes) -> None:
    """Raise UserError where weights of these shapes can't be taken over."""
    wrong = list(_misfits(theirs, ours))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"the weights of that run do not fit this network: {', '.join(wrong[:5])}{more}; use the same `network` "
            "and `task` as there, or leave out `start_from`",
            path="start_from",
        )


def _misfits(theirs: Shapes, ours: Shapes) -> Iterable[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            there, here = (str(s[name]) if name in s else "absent" for s in (theirs, ours))
            yield f"{name} is {there} there and {here} here"
