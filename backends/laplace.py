"""How sure the constants are that an inverse problem found: Laplace's approximation at the end of a run.

The loss is L = sum_k w_k / n_k |r_k|^2. Around its minimum the residuals are linear in all parameters p, those of the
network and the unknown constants, so with G = sum_k w_k / n_k J_k'J_k (Gauss-Newton):

    noise       s_d^2 = |r_d|^2 / (n_d - dof_d),  dof_d = w_d / n_d tr(J_d G^-1 J_d')    of each term d of measurements
    posterior   cov(p) = T G^-1 with T = s_d^2 w_d / n_d: exp(-L / 2T) is the likelihood of the data, and the terms of
                the equation are Gaussian priors of the width that their weights say
    noise only  cov(p) = G^-1 (sum_d (w_d / n_d)^2 s_d^2 J_d'J_d) G^-1: how far the minimum moves from one set of
                measurements to another (the sandwich formula)

Both are the same where measurements are all there is. The posterior is the larger one: it also counts what the
equation, softened by its finite weight, leaves open. MacKay, Neural Computation 4 (1992) 448-472; Daxberger et al.,
arXiv 2106.14806; White, Econometrica 50 (1982) 1-25.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.spec import Leaf

Numbers = NDArray[np.float64]
LARGEST = 6000
"""Most parameters: the matrices have their square in numbers."""
DAMPING = {"float32": 1e-6, "float64": 1e-12}
"""Relative to the largest eigenvalue of G: a prior so wide that it only decides where nothing else does."""


class Laplace(Leaf):
    """The standard deviation of every unknown constant at the end of the run: `unknown/<name>/std`."""

    kind: Literal["laplace"] = "laplace"
    terms: tuple[str, ...] = ()
    """The terms of measurements, whose noise it comes from; default: those at given points (`at=…`, observations)."""
    covariance: Literal["posterior", "noise"] = "posterior"
    """posterior: what data and equation, by their weights, leave open. noise: the spread of the result over repeated
    measurements."""


@dataclass(frozen=True)
class Measured:
    """One residual term at the end of a run."""

    curvature: Numbers
    """J'J / samples, [parameters, parameters]."""
    rows: int
    """Residuals."""
    mean_square: float
    """What the term is: the sum of squares divided by the samples."""
    samples: int
    weight: float


def deviations(
    terms: Mapping[str, Measured],
    noisy: Sequence[str],
    places: Mapping[str, int],
    *,
    covariance: Literal["posterior", "noise"] = "posterior",
    damping: float = DAMPING["float64"],
) -> dict[str, float]:
    """`unknown/<name>/std` of every unknown, and `noise/<term>`: the standard deviation of the measurements.

    places: unknown -> its place in the flat vector of parameters. Infinite where a covariance can't be had: no
    curvature, or no more measurements than the parameters that they determine.
    """
    whole = np.sum([t.weight * t.curvature for t in terms.values()], axis=0)
    values, vectors = np.linalg.eigh(0.5 * (whole + whole.T))
    if not values[-1] > 0:
        return {f"unknown/{name}/std": float("inf") for name in places}
    inverse = 1.0 / (np.maximum(values, 0.0) + damping * values[-1])
    squares: dict[str, float] = {}
    for name in noisy:
        term = terms[name]
        inner = np.einsum("ij,ij->j", vectors, term.curvature @ vectors)
        free = term.rows - term.weight * float(inner @ inverse)
        squares[name] = term.mean_square * term.samples / free if free > 0.5 else float("inf")
    out = {f"noise/{name}": float(np.sqrt(square)) for name, square in squares.items()}
    unit = vectors[list(places.values())]
    if covariance == "posterior":
        rows = sum(terms[name].rows for name in noisy)
        width = sum(terms[n].rows * squares[n] * terms[n].weight / terms[n].samples for n in noisy) / max(rows, 1)
        spread = width * ((unit * unit) @ inverse)
    else:
        lever = (unit * inverse) @ vectors.T
        parts = [
            squares[n]
            * terms[n].weight ** 2
            / terms[n].samples
            * np.einsum("ui,ij,uj->u", lever, terms[n].curvature, lever)
            for n in noisy
        ]
        spread = np.sum(parts, axis=0)
    return out | {f"unknown/{name}/std": float(np.sqrt(s)) for name, s in zip(places, spread, strict=True)}
