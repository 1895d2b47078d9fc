"""Quasi-Newton stages: `backends.quasi` on flat vectors, inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from backends import quasi
from backends.jax.gradient import flat, unflat
from backends.jax.ops import OPS
from backends.ops import NumpyOps
from backends.stages import Lbfgs, SsBroyden
from backends.task import Task, trained_terms

Array = Any
Tree = dict[str, Any]


def init(stage: Lbfgs | SsBroyden, task: Task, free: Mapping[str, np.ndarray]) -> Tree:
    """The state before the first iteration: host arrays. Raises UserError where there are too many parameters."""
    x = np.concatenate([np.reshape(free[name], -1) for name in sorted(free)])
    terms = len(trained_terms(task.terms))
    state = quasi.init(stage, NumpyOps(), x, terms, 1 + terms + len(task.constants))
    return {name: np.asarray(value, x.dtype) for name, value in state.items()}


def update(
    stage: Lbfgs | SsBroyden,
    value_and_gradient: Callable[[Tree], tuple[Array, Tree]],
    state: Tree,
    free: Tree,
    weights: Mapping[str, Array],
    constants: Mapping[str, Array],
    stamp: Array,
) -> tuple[Tree, Tree, Array, Array, Array]:
    """One iteration: (parameters, state, losses after it, evaluations, how it ended).

    `stamp` changes where the samples do; `value_and_gradient` gives the losses and the gradient of their weighted sum.
    """
    x = flat(free)
    scale = jnp.stack(list(weights.values()))

    def evaluate(at: Array) -> tuple[Array, Array, Array]:
        losses, gradient = value_and_gradient(unflat(at, free))
        return losses, jnp.sum(scale * losses), flat(gradient)

    key = jnp.stack([stamp.astype(x.dtype), *weights.values(), *constants.values()])
    x, state, losses, evaluations, ended = quasi.iteration(stage, OPS, evaluate, x, state, key)
    return unflat(x, free), state, losses, evaluations, ended
