"""Limited-memory BFGS in compact form: H g from the last m steps, by a few products with [m, n] arrays.

S and Y hold steps and gradient changes, the newest last, each pair divided by the root of its y's; rows not yet filled
are zero. With R = the upper triangle of S Y' (its diagonal is 1) and gamma = 1/y'y of the newest pair,

    H = gamma 1 + [S' gamma Y'] [[R^-T (1 + gamma Y Y') R^-1, -R^-T], [-R^-1, 0]] [S; gamma Y]

which equals the two-loop recursion (Nocedal and Wright, 2nd ed., algorithm 7.4 and theorem 7.4; Byrd, Nocedal and
Schnabel, Math. Program. 63 (1994) 129) without a loop over pairs. A new pair borders R with one column, and so R^-1,
which is what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.ops import Array


def init(ops: Any, x: Array, memory: int) -> dict[str, Array]:
    """No pairs: H = 1."""
    return {
        "S": ops.zeros((memory, x.shape[0]), x),
        "Y": ops.zeros((memory, x.shape[0]), x),
        "R_inverse": ops.eye(memory, x),
        "YY": ops.zeros((memory, memory), x),
        "gamma": ops.ones((), x),
    }


def times(ops: Any, state: Mapping[str, Array], g: Array) -> Array:
    """H g."""
    S, Y, gamma, inverse = state["S"], state["Y"], state["gamma"], state["R_inverse"]
    u = ops.matmul(inverse, ops.matmul(S, g))
    top = ops.matmul(inverse.T, u + gamma * (ops.matmul(state["YY"], u) - ops.matmul(Y, g)))
    return gamma * (g - ops.matmul(u, Y)) + ops.matmul(top, S)


def update(ops: Any, state: Mapping[str, Array], s: Array, y: Array, alpha: Array, keep: Array) -> dict[str, Array]:
    """The memory with the pair (s, y) as its newest; without `keep`, as its only one. Pairs with y's <= 0 are left out.

    `alpha` is not read: it is there so that the update of every method is called alike.
    """
    del alpha
    w, one = ops.where, ops.ones((), s)
    empty = init(ops, s, state["S"].shape[0])
    old = {name: w(keep, state[name], value) for name, value in empty.items()}

    ys, yy = ops.sum(y * s), ops.sum(y * y)
    good = (ys > 0) & ops.isfinite(ys) & ops.isfinite(yy) & ops.isfinite(yy / w(ys > 0, ys, one))
    root = ops.sqrt(w(good, ys, one))
    s, y = s / root, y / root
    S, Y, inverse = old["S"][1:], old["Y"][1:], old["R_inverse"][1:, 1:]
    r = ops.matmul(inverse, ops.matmul(S, y))
    cross = ops.matmul(Y, y)
    yy = ops.sum(y * y)
    new = {
        "S": ops.concat([S, _row(ops, s)]),
        "Y": ops.concat([Y, _row(ops, y)]),
        "R_inverse": _bordered(ops, inverse, -r, 0 * r, one),
        "YY": _bordered(ops, old["YY"][1:, 1:], cross, cross, yy),
        "gamma": 1 / w(good, yy, one),
    }
    return {name: w(good, new[name], old[name]) for name in new}


def _bordered(ops: Any, block: Array, column: Array, row: Array, corner: Array) -> Array:
    """[[block, column], [row, corner]]."""
    above = ops.concat([block, ops.reshape(column, (-1, 1))], 1)
    return ops.concat([above, ops.concat([_row(ops, row), ops.reshape(corner, (1, 1))], 1)])


def _row(ops: Any, x: Array) -> Array:
    return ops.reshape(x, (1, -1))
