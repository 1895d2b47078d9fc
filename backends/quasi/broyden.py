"""Self-scaled Broyden: a dense inverse Hessian H [n, n], updated by one symmetric rank-3 product per iteration.

With s the step, y the change of the gradient and g the gradient before the step:

    H+ = (H - Hy (Hy)'/(y'Hy) + phi (y'Hy) v v')/tau + rho s s',    rho = 1/(y's),  v = rho s - Hy/(y'Hy)

(BFGS: phi = 1, tau = 1.) `coefficients` gives phi and tau. Sources: Urban, Stefanou and Pons (arXiv 2405.04230) and
Kiyani et al. (arXiv 2501.16371), after Al-Baali's self-scaling of Broyden's class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.ops import Array


def init(ops: Any, x: Array) -> dict[str, Array]:
    """H = 1."""
    return {"H": ops.eye(x.shape[0], x)}


def times(ops: Any, state: Mapping[str, Array], g: Array) -> Array:
    """H g."""
    return ops.matmul(state["H"], g)


def update(ops: Any, state: Mapping[str, Array], s: Array, y: Array, alpha: Array, keep: Array) -> dict[str, Array]:
    """H after the step s = alpha p with gradient change y; without `keep`, from H = 1 instead.

    Where y's is not positive H stays as it is. No [n, n] array is made but the result.
    """
    H, n = state["H"], s.shape[0]
    terms, shrink = _changes(ops, ops.where(keep, ops.matmul(H, y), y), s, y, state["g"], alpha, n)
    return {"H": _changed(ops, ops.where(keep, H, ops.eye(n, H)), terms, shrink)}


def updated(ops: Any, H: Array, s: Array, y: Array, g: Array, alpha: Array, n: int) -> tuple[Array, Array]:
    """(H after the step, what H was multiplied by where the step changed nothing), for H of a part of n directions."""
    terms, shrink = _changes(ops, ops.matmul(H, y), s, y, g, alpha, n)
    return _changed(ops, H, terms, shrink), shrink


def _changes(
    ops: Any, Hy: Array, s: Array, y: Array, g: Array, alpha: Array, n: int
) -> tuple[tuple[Array, Array, Array, Array], Array]:
    """((a, v, v with its sign, b), factor of H): H+ = factor H - a a' + signed v v' + b b'."""
    w = ops.where
    ys, yHy, sg = ops.sum(y * s), ops.sum(y * Hy), ops.sum(s * g)
    good = (ys > 0) & (yHy > 0) & (sg < 0) & (alpha > 0) & ops.isfinite(ys) & ops.isfinite(yHy)
    one = ops.ones((), s)
    ys, yHy, sg, alpha = w(good, ys, one), w(good, yHy, one), w(good, sg, -one), w(good, alpha, one)
    phi, tau = coefficients(ops, ys, yHy, sg, alpha, n)
    good = good & ops.isfinite(phi) & ops.isfinite(tau) & (tau > 0)

    # Each rank-1 part as c u u' with u scaled by the root of |c|: element (i, j) and (j, i) are the same products.
    zero = 0 * one
    a = w(good, Hy * w(good, 1 / ops.sqrt(yHy * tau), zero), 0 * s)
    v = w(good, (s / ys - Hy / yHy) * ops.sqrt(yHy * ops.abs(w(good, phi / tau, zero))), 0 * s)
    b = w(good, s / ops.sqrt(ys), 0 * s)
    return (a, v, w(phi < 0, -v, v), b), w(good, 1 / tau, one)


def _changed(ops: Any, H: Array, terms: tuple[Array, Array, Array, Array], shrink: Array) -> Array:
    a, v, v_signed, b = terms
    return H * shrink - ops.outer(a, a) + ops.outer(v_signed, v) + ops.outer(b, b)


def coefficients(ops: Any, ys: Array, yHy: Array, sg: Array, alpha: Array, n: int) -> tuple[Array, Array]:
    """(phi, tau) from y's > 0, y'Hy > 0, s'g and the step length: 0-d arrays. BFGS is (1, 1)."""
    w, one = ops.where, ops.ones((), ys)
    h = yHy / ys
    b = -alpha * sg / ys
    a = ops.maximum(b * h - 1, 1e-12 * one)  # not negative (Cauchy-Schwarz) but for rounding
    c = ops.sqrt(a / (1 + a))
    rho_minus = ops.minimum(one, h * (1 - c))
    theta = ops.maximum((rho_minus - 1) / a, ops.minimum(1 / rho_minus, (1 - b) / b))
    sigma = 1 + theta * a
    root = ops.abs(sigma) ** (1.0 / (1 - n)) if n > 1 else one
    r = ops.minimum(one, 1 / b)
    tau = w(theta <= 0, ops.minimum(r * root, sigma), r * ops.minimum(root, 1 / w(theta <= 0, one, theta)))
    return (1 - theta) / (1 + a * theta), tau
