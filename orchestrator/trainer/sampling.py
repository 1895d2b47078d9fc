"""Samples from a trained generative model, by its own method."""

from __future__ import annotations

import inspect
from typing import Any

import backends
from backends.errors import UserError

METHODS = ("generate", "sample")
_RANDOM = ("rng", "rngs", "key", "generator", "seed")


def samples_of(model: Any, count: int, rng: Any, seed: int | None, arguments: dict[str, Any], backend: str) -> Any:
    """`model.generate(count, …)` or `model.sample(count, …)`, with the randomness that the method asks for.

    `rng` is handed over as it is; a `seed` becomes what the argument is called after: a JAX key, a torch generator, a
    number. Raises UserError where the model has neither.
    """
    module = backends.load(backend)
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
        given[place] = rng if rng is not None else module.randomness(place, 0 if seed is None else seed)
    elif rng is not None or seed is not None:
        raise UserError(
            f"{type(owner).__name__}.{found.__name__} takes no {' or '.join(_RANDOM[:4])}; leave out the randomness"
        )
    with module.evaluating(owner):
        return found(count, **given)
