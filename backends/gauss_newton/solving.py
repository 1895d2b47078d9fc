"""The damped Gauss-Newton system, solved over ops: by a Cholesky factor of J'J or of JJ', or without a matrix.

    (J'J + damping) p = -g/2 + damping anchor

which minimises |J p + rho|^2 + damping |p - anchor|^2, plus what the loss has beside squares. Where the matrix is not
positive definite in floating point p is NaN: whoever calls damps more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from backends.errors import UserError
from backends.ops import Array
from backends.stages import GaussNewton
from backends.stages.dense import LARGEST

DENSE = 5_000
"""Most rows of a matrix that `solver: auto` makes: 200 MB, and as much for its factor."""
SMALL = 1e-10
"""Conjugate gradients stop where the residual is so much shorter than the right-hand side."""
BLOCK_BYTES = 2**26
"""Most bytes of rows of J that are made before they are multiplied."""
BLOCKS = 3
"""Blocks of columns in a product J'J."""


class Dense(NamedTuple):
    """For `solver: dense`."""

    matrix: Array
    """J'J [n, n]"""


class Samples(NamedTuple):
    """For `solver: samples`."""

    J: Array
    """[rows, n]"""
    kernel: Array
    """JJ' [rows, rows]"""
    residuals: Array
    """rho [rows]"""
    rest: Array
    """Half the gradient of the terms that are no squares [n]."""


class Free(NamedTuple):
    """For `solver: cg`."""

    times: Callable[[Array], Array]
    """v -> J'J v"""


Curvature = Dense | Samples | Free
Solver = Literal["dense", "samples", "cg"]


def chosen(stage: GaussNewton, rows: int, n: int) -> Solver:
    """The solver for so many residuals and parameters. Raises UserError where its matrix is too large."""
    solver = stage.solver
    if solver == "auto":
        return "samples" if rows < n and rows <= DENSE else "dense" if n <= DENSE else "cg"
    if solver == "dense":
        check_size(n, "parameters", solver)
    if solver == "samples":
        check_size(rows, "residuals", solver)
    return solver


def check_size(size: int, what: str, solver: str) -> None:
    """Raises UserError where a matrix would be too large."""
    if size > LARGEST:
        raise UserError(
            f"gauss_newton with `solver: {solver}` keeps a dense matrix of {size:,} x {size:,} numbers "
            f"({8 * size * size / 1e9:.1f} GB) for {size:,} {what}; at most {LARGEST:,} are allowed. "
            "Use `solver: cg`, which needs no matrix, or `kind: lbfgs`"
        )


def gram(ops: Any, J: Array) -> Array:
    """J'J [n, n] of J [rows, n]: blocks above the diagonal are computed, the others are their mirror images.

    Measured for 2,000 x 921: 28 ms on JAX and 46 on torch, against 72 on both for the plain product.
    """
    K, n = J.T, J.shape[1]
    if n < 64 * BLOCKS:
        return ops.matmul(K, J)
    edges = [n * i // BLOCKS for i in range(BLOCKS + 1)]
    strips: list[tuple[int, Array]] = []
    rows = []
    for begin, end in pairwise(edges):
        mirrored = [strip[:, begin - start : end - start].T for start, strip in strips]
        strips.append((begin, ops.matmul(K[begin:end], K[begin:].T)))
        rows.append(ops.concat([*mirrored, strips[-1][1]], 1))
    return ops.concat(rows, 0)


def solve(stage: GaussNewton, ops: Any, known: Curvature, g: Array, damping: Array, anchor: Array) -> Array:
    """p [n] from the gradient g [n], a 0-d damping and the point that p is pulled to."""
    if isinstance(known, Samples):
        return _by_samples(ops, known, damping, anchor)
    right = damping * anchor - 0.5 * g
    if isinstance(known, Dense):
        return ops.cholesky_solve(known.matrix + damping * ops.eye(g.shape[0], g), right)
    return _by_conjugate_gradients(stage, ops, known.times, damping, right)


def _by_samples(ops: Any, known: Samples, damping: Array, anchor: Array) -> Array:
    """p = b - J' (JJ' + damping)^-1 (rho + J b) with b = anchor - rest / damping (Sherman, Morrison and Woodbury)."""
    b = anchor - known.rest / damping
    kernel = known.kernel + damping * ops.eye(known.kernel.shape[0], b)
    return b - ops.matmul(ops.cholesky_solve(kernel, known.residuals + ops.matmul(known.J, b)), known.J)


def _by_conjugate_gradients(
    stage: GaussNewton, ops: Any, times: Callable[[Array], Array], damping: Array, right: Array
) -> Array:
    """Hestenes and Stiefel's iteration from p = 0: each of its points descends, wherever it stops."""
    number = ops.scalars
    w, get, put = number.where, number.get, number.put
    size = get(ops.sum(right * right))

    def going_on(now: tuple[Any, ...]) -> Any:
        return (now[0] < stage.cg_steps) & (now[4] > SMALL * SMALL * size)

    def step(now: tuple[Any, ...]) -> tuple[Any, ...]:
        count, p, r, d, square = now
        product = times(d) + damping * d
        curved = get(ops.sum(d * product))
        good = number.isfinite(curved) & (curved > 0.0)
        alpha = put(w(good, square / w(good, curved, get(1.0)), get(0.0)), p)
        p, r = p + alpha * d, r - alpha * product
        after = w(good, get(ops.sum(r * r)), get(0.0))  # 0: nothing better can be had
        d = r + put(after / w(square > 0.0, square, get(1.0)), p) * d
        return count + 1.0, p, r, d, after

    return ops.while_loop(going_on, step, (get(0.0), 0.0 * right, right, right, size))[1]
