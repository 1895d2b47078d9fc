"""Self-scaled Broyden with limited memory: a dense inverse Hessian on a few directions, a multiple of 1 elsewhere.

    H = gamma (1 - Q'Q) + Q' M Q

with orthonormal rows Q [m, n] and M [m, m]. A step s and a gradient change y add at most two directions, on which the
dense update (`backends.quasi.broyden`) is exact; then the two directions on which H is nearest to gamma are given up,
so H stays positive. Until m directions are full it is the dense method; from then on gamma is y's / y'y, as in L-BFGS,
for what nobody looked at would otherwise keep the scale of the first steps. Memory n m, work n m^2 per iteration.

The reduced Hessian is Gill and Leonard's (SIAM J. Optim. 14 (2003) 380), who give up the oldest direction instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.ops import Array
from backends.quasi import broyden

NEW = 2
"""Directions that an update adds."""
SMALL = 1e-10
"""A direction whose part outside of Q is so much shorter than itself adds none."""


def init(ops: Any, x: Array, memory: int) -> dict[str, Array]:
    """H = 1: no directions. Rows of Q that are not used are zero, and M is gamma there."""
    return {"Q": ops.zeros((memory, x.shape[0]), x), "M": ops.eye(memory, x), "gamma": ops.ones((), x)}


def times(ops: Any, state: Mapping[str, Array], g: Array) -> Array:
    """H g."""
    Q, gamma = state["Q"], state["gamma"]
    inside = ops.matmul(Q, g)
    return gamma * g + ops.matmul(ops.matmul(state["M"], inside) - gamma * inside, Q)


def update(ops: Any, state: Mapping[str, Array], s: Array, y: Array, alpha: Array, keep: Array) -> dict[str, Array]:
    """H after the step s = alpha p with gradient change y; without `keep`, from H = 1 instead."""
    memory, n = state["Q"].shape
    fresh = init(ops, s, memory)
    old = {name: ops.where(keep, state[name], value) for name, value in fresh.items()}
    Q, gamma = old["Q"], old["gamma"]
    for vector in (s, y):
        Q = ops.concat([Q, ops.reshape(_outside(ops, Q, vector), (1, -1))])
    zero = ops.zeros((memory, NEW), s)
    M = ops.concat(
        [ops.concat([old["M"], zero], 1), ops.concat([zero.T, gamma * ops.eye(NEW, s)], 1)]
    )  # fmt: skip
    inner_s, inner_y, inner_g = (ops.matmul(Q, v) for v in (s, y, state["g"]))
    M, shrink = broyden.updated(ops, M, inner_s, inner_y, inner_g, alpha, n)
    used = ops.sum(Q * Q, 1)
    ys, yy = ops.sum(y * s), ops.sum(y * y)
    rescale = (ops.sum(used) > memory) & (ys > 0) & (yy > 0)
    new_gamma = ops.where(rescale, ys / ops.where(rescale, yy, ops.ones((), s)), gamma * shrink)
    M = M + (new_gamma - gamma * shrink) * (1.0 - used) * ops.eye(memory + NEW, s)

    # The distance of M from gamma, log(M / gamma) squared; unused rows are put below all others, so that they go first.
    values, vectors = ops.eigh(0.5 * (M + M.T))
    ratio = ops.log(ops.maximum(values / new_gamma, 1e-300 * ops.ones((), s)))
    marked = ops.matmul(vectors * (ratio * ratio), vectors.T) - (1.0 - used) * ops.eye(memory + NEW, s)
    _, order = ops.eigh(0.5 * (marked + marked.T))
    chosen = order[:, NEW:]
    new = {"Q": ops.matmul(chosen.T, Q), "M": ops.matmul(chosen.T, ops.matmul(M, chosen)), "gamma": new_gamma}
    sound = ops.isfinite(ops.sum(new["M"])) & ops.isfinite(ops.sum(new["Q"]))
    return {name: ops.where(sound, value, old[name]) for name, value in new.items()}


def _outside(ops: Any, Q: Array, vector: Array) -> Array:
    """The unit vector along the part of `vector` outside of Q's rows, by two rounds; zero where there is none."""
    whole = ops.sqrt(ops.sum(vector * vector))
    rest = vector
    for _ in range(2):
        rest = rest - ops.matmul(ops.matmul(Q, rest), Q)
    size = ops.sqrt(ops.sum(rest * rest))
    real = (whole > 0) & (size > SMALL * whole)
    return ops.where(real, rest / ops.where(real, size, ops.ones((), vector)), 0 * vector)
