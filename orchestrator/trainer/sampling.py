"""Samples from a trained generative model, by its own method."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backends.errors import UserError

METHODS = ("generate", "sample")
_RANDOM = ("rng", "rngs", "key", "generator", "seed")


def samples_of(model: Any, count: int, rng: Any, seed: int | None, arguments: dict[str, Any], backend: str) -> Any:
    """`model.generate(count, …)` or `model.sample(count, …)`, with the randomness that the method asks for.

    `rng` is handed over as it is; a `seed` becomes what the argument is called after: a JAX key, a torch generator, a
    number. Raises UserError where the model has neither.
    """
    owner = model[0] if isinstance(model, tuple) and not callable(getattr(model, METHODS[0], None)) else model
    found = next((getattr(owner, name) for name in METHODS if callable(getattr(owner, name, None))), None)
    if found is None:
        raise UserError(
            f"{type(owner).__name__} has no method generate(num_samples, …) or sample(num_samples, …)", path="model"
        )
    names = inspect.signature(found).parameters
    place = next((name for name in names if name in _RANDOM), None)
    given = dict(arguments)
    if place is not None and place not in given:
        given[place] = rng if rng is not None else _random(place, 0 if seed is None else seed, backend)
    elif rng is not None or seed is not None:
        raise UserError(
            f"{type(owner).__name__}.{found.__name__} takes no {' or '.join(_RANDOM[:4])}; leave out the randomness"
        )
    with _quiet(owner, backend):
        return found(count, **given)


def _random(place: str, seed: int, backend: str) -> Any:
    if place == "seed":
        return seed
    if backend == "torch":
        return importlib.import_module("torch").Generator().manual_seed(seed)
    if place == "rngs":
        return importlib.import_module("flax.nnx").Rngs(seed)
    return importlib.import_module("jax").random.key(seed)


@contextmanager
def _quiet(model: Any, backend: str) -> Iterator[None]:
    """torch: without a gradient, in evaluation mode."""
    if backend != "torch":
        yield
        return
    was = model.training
    model.eval()
    try:
        with importlib.import_module("torch").no_grad():
            yield
    finally:
        model.train(was)
