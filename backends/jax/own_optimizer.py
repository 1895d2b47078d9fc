"""The user's `optax.GradientTransformation`: its state as arrays by name, one step, while the step is compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from backends.errors import UserError
from backends.stages.custom import OwnOptimizer

Array = Any
Tree = dict[str, Any]
PREFIX = "jax/"


def init(own: OwnOptimizer, free: Tree, lr: float) -> Tree:
    """The state before the first step: host arrays by their place in the state."""
    with own.blamed():
        state = _made(own, lr).init({name: jnp.asarray(value) for name, value in free.items()})
    names, leaves, _ = _flat(own, state)
    return {name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}


def moved(own: OwnOptimizer, gradient: Tree, parts: Tree, free: Tree, lr: Array) -> tuple[Tree, Tree]:
    """(new parameters, new state): the updates are added to the parameters as they are."""
    transformation = _made(own, lr)
    with own.blamed():
        names, shapes, structure = _flat(own, jax.eval_shape(transformation.init, free))
        state: Any = jax.tree.unflatten(structure, [parts[name] for name in names])
        if optax.tree.get_all_with_path(
            state, "learning_rate"
        ):  # `inject_hyperparams` keeps the rate of the first step
            state = optax.tree.set(state, learning_rate=lr)
        updates, after = transformation.update(gradient, state, free)
        new: Any = optax.apply_updates(free, updates)
    found, leaves, _ = _flat(own, after)
    if found != names or any(jnp.shape(leaf) != shape.shape for leaf, shape in zip(leaves, shapes, strict=True)):
        raise UserError(f"{own.target}: `update` returns a state of another structure or shape than `init`")
    kept = {
        name: jnp.asarray(leaf).astype(shape.dtype) for name, leaf, shape in zip(names, leaves, shapes, strict=True)
    }
    return new, kept


def _made(own: OwnOptimizer, lr: Any) -> optax.GradientTransformation:
    found = own.make(learning_rate=lr)
    if not isinstance(found, optax.GradientTransformation):
        raise own.wrong(found, "an optax.GradientTransformation (on the backend jax)")
    return found


def _flat(own: OwnOptimizer, state: Any) -> tuple[list[str], list[Any], Any]:
    """(names, leaves, structure) of an optimizer's state."""
    entries, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [PREFIX + jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in entries]
    for name, (_, leaf) in zip(names, entries, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
            raise UserError(
                f"{own.target} keeps a typed random key ({name.removeprefix(PREFIX)}), which no checkpoint can hold; "
                "make it with jax.random.PRNGKey"
            )
    return names, [leaf for _, leaf in entries], structure
