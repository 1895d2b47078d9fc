"""What Trainer is given, in whatever words, as what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backends.errors import UserError
from backends.own.batches import described

PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".ckpt", ".bin")


def backend_of(model: Any, asked: str | None) -> str:
    """The framework that a model is written in."""
    kind: Any = type(model)
    found = (
        "torch" if any(c.__module__.startswith("torch.") and c.__name__ == "Module" for c in kind.__mro__) else "jax"
    )
    if asked is not None and asked != found:
        raise UserError(
            f"the model is {described(model)}, which the {found} backend trains, not {asked!r}", path="backend"
        )
    return found


def kept(data: Any) -> Any:
    """Data that can be read more than once."""
    return list(data) if isinstance(data, Iterator) else data


def is_batch(value: Any) -> bool:
    """Whether it is one batch, rather than something that gives batches."""
    return isinstance(value, Mapping | tuple) or hasattr(value, "shape")


def checkpoints_at(path: str | Path | None) -> Path:
    """The folder of checkpoints. Raises UserError for a file of a pickle format."""
    if path is None:
        raise UserError("where to? give a path, or TrainingConfig(checkpoint_dir=…)", path="checkpoint_dir")
    place = Path(path)
    if place.suffix.lower() in PICKLES:
        raise UserError(
            f"{place} would be a pickle, which runs whatever code is in it when it is opened. Checkpoints here are "
            f"folders of plain files: save_checkpoint({str(place.with_suffix(''))!r}), load_checkpoint of the same. "
            "Weights of another program: load them into the model before it is given to Trainer "
            "(model.load_state_dict(torch.load(path, weights_only=True)))",
            path="checkpoint",
        )
    return place


_DATA = ("train_data", "train_loader", "train_dataloader", "train_data_loader")
_VALIDATION = ("val_data", "val_loader", "val_dataloader", "validation_data", "val_data_loader")


def said_as(data: Any, validation: Any, given: Mapping[str, Any]) -> tuple[Any, Any, int | None, dict[str, Any]]:
    """(data, validation data, epochs in all, what is left) in the words of other systems."""
    rest = dict(given)
    for name in _DATA:
        data = rest.pop(name, data)
    for name in _VALIDATION:
        validation = rest.pop(name, validation)
    return data, validation, rest.pop("num_epochs", None), rest
