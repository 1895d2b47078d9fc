"""Weights from the angles between the terms' gradients: a convex quadratic program, solved exactly.

    gram_weights(gram)              the shortest combination of unit gradients
    equal_rates(gram, losses)       every loss falls by the same share

Both take the Gram matrix G_kl = g_k . g_l of the unweighted terms [terms, terms] and give weights [terms] >= 0, scaled
so that the weighted gradients' lengths add up to those of the unweighted ones: equal directions are weighed alike, and
the learning rate keeps its meaning. Without normalising by the gradients' norms the shortest combination is worse than
fixed weights, for it follows the smallest gradient alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from backends.spec import Fraction
from backends.weighting.strategy import Adaptive, Seen, State, Vector, kept, now

Matrix = NDArray[np.float64]


def gram_weights(gram: Matrix) -> Vector:
    """Minimise w^T C w over the simplex, C_kl = G_kl / (|g_k| |g_l|); the weights are w_k / |g_k|, scaled.

    The step of least length in the convex hull of the unit gradients (MGDA: Désidéri, Comptes Rendus Mathématique 350,
    2012; Sener and Koltun, arXiv 1810.04650), which lowers every term where any direction does. Weights may be 0. All
    norms must be positive.
    """
    cosines, norms = normalised(gram)
    values, vectors = np.linalg.eigh(cosines)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    # min |A w|^2 + (1 - sum w)^2 over w >= 0 has the direction of the minimum over the simplex: along a ray t u with
    # sum u = 1 its least value is q / (1 + q), q = |A u|^2, which rises with q.
    count = len(norms)
    found, _ = nnls(np.vstack([root, np.ones(count)]), np.append(np.zeros(count), 1.0))
    return _scaled(found, norms)


def equal_rates(gram: Matrix, losses: Vector) -> Vector:
    """Minimise sum_j ((G w)_j / L_j - 1)^2 over w >= 0, scaled: under gradient flow dL_j/dt = -(G w)_j, so every loss
    falls by the same share. All norms and losses must be positive."""
    cosines, norms = normalised(gram)
    # In v_k = w_k |g_k| and rows in units of the largest, so that nothing over- or underflows.
    rows = norms / np.asarray(losses, dtype=np.float64)
    found, _ = nnls(cosines * (rows / rows.max())[:, None], np.ones(len(norms)))
    return _scaled(found, norms) if found.any() else _scaled(np.ones(len(norms)), norms)


def normalised(gram: Matrix) -> tuple[Matrix, Vector]:
    """(cosines between the gradients [terms, terms], their norms [terms])."""
    norms = np.sqrt(np.diagonal(gram))
    cosines = np.clip(gram / norms[:, None] / norms[None, :], -1.0, 1.0)
    return (cosines + cosines.T) / 2, norms


class GramWeights(Adaptive):
    """Weights by a convex quadratic program on the Gram matrix of the terms' gradients (see this module).

    `min_norm` is MGDA on unit gradients, `equal_rates` gives all losses the same relative rate. Smoothed by a moving
    average, for a program's weights may jump from one update to the next. A term whose gradient is exactly 0 keeps its
    weight; with `equal_rates` all weights stay where a loss is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gram", "losses"})
    kind: Literal["gram"] = "gram"
    objective: Literal["min_norm", "equal_rates"] = "min_norm"
    """What the program minimises."""
    alpha: Fraction = 0.8
    """Share of the old weight in the new one."""

    def update(self, state: State, *, step: int, seen: Seen, seed: int) -> tuple[State, dict[str, float]]:
        """One step of the moving average. `seen["gram"]`: [terms, terms], `seen["losses"]`: [terms]."""
        gram, losses = (np.asarray(seen[name], dtype=np.float64) for name in ("gram", "losses"))
        alive = np.diagonal(gram) > 0
        if not np.isfinite(gram).all() or not np.isfinite(losses).all() or not alive.any():
            return kept(state)
        some = gram[np.ix_(alive, alive)]
        if self.objective == "equal_rates" and not (losses[alive] > 0).all():
            return kept(state)
        with np.errstate(all="ignore"):
            found = gram_weights(some) if self.objective == "min_norm" else equal_rates(some, losses[alive])
        if np.isnan(found).any():
            return kept(state)
        target = now(state)
        target[alive] = found
        return self.averaged(state, target, self.alpha)


def _scaled(lengths: Vector, norms: Vector) -> Vector:
    """Weights whose gradients have these lengths, up to the factor that makes them add up to `norms`."""
    return np.where(lengths > 0, lengths / lengths.sum() * (norms.sum() / norms), 0.0)
