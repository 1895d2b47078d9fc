"""Fully connected networks made wider and narrower while what they compute stays the same.

`prolong` adds units whose outgoing weights to the old units and to the outputs are zero: the old ones do not see them,
so every output and every gradient of an old weight is what it was, and the new ones learn from the first step on
because their incoming weights are random (Chen, Goodfellow, Shlens, arXiv 1511.05641, with zeros in place of copies,
whose twins Adam would keep equal). `restrict` drops the units that matter least and lets the others take over what
they did, by least squares; what `prolong` added and nothing trained does nothing, so restricting undoes it exactly.

Parameters are `<prefix>w0`, `<prefix>b0`, … as `backends.networks.mlp` names them; of the gates of a modified MLP
(`w_u`, `b_u`, …) a unit has one column each, and its units are the same ones in all layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.networks.network import glorot

Array = NDArray[np.float64]
Params = Mapping[str, NDArray[np.float64]]
Activations = Callable[[dict[str, Array]], list[Array]]
"""Parameters of one chain (without its prefix) -> what its hidden layers give, [width, samples] each."""
Kept = Mapping[str, list[NDArray[np.intp]]]
"""Prefix of a chain -> the units of each hidden layer that stay."""
GATES = ("u", "v")


@dataclass(frozen=True)
class Chain:
    """The layers of one network inside a dict of parameters."""

    prefix: str
    depth: int
    """Hidden layers."""
    gated: bool

    @classmethod
    def of(cls, names: Mapping[str, object]) -> tuple[Chain, ...]:
        """All chains among the parameters: names that end in w0, w1, …"""
        found: dict[str, int] = {}
        for name in names:
            match = re.fullmatch(r"(.*?)w(\d+)", name)
            if match:
                found[match[1]] = max(found.get(match[1], 0), int(match[2]))
        whole = {p: d for p, d in found.items() if {f"{p}w0", f"{p}b0"} <= set(names) and d}
        return tuple(cls(prefix, depth, f"{prefix}w_u" in names) for prefix, depth in whole.items())

    def incoming(self, k: int) -> tuple[str, ...]:
        """Names of the weights that lead into hidden layer k, without prefix; their biases begin with b."""
        return (f"w{k}", *(f"w_{g}" for g in GATES)) if self.gated and k == 0 else (f"w{k}",)


def width_of(params: Mapping[str, NDArray[np.float64]]) -> int:
    """Units of the hidden layers."""
    return int(params[f"{Chain.of(params)[0].prefix}b0"].shape[0])


def prolong(params: Params, width: int, rng: np.random.Generator) -> dict[str, Array]:
    """The same function with `width` units in every hidden layer. Units that were there come first."""
    out = {name: np.asarray(value, np.float64) for name, value in params.items()}
    for chain in Chain.of(params):
        p, old = chain.prefix, out[f"{chain.prefix}b0"].shape[0]
        for k in range(chain.depth):
            for name in chain.incoming(k):
                fresh = glorot(rng, width if k else out[p + name].shape[0], width)
                out[p + name] = _grown(out[p + name], fresh, old, width, entering=k > 0)
                bias = p + "b" + name[1:]
                out[bias] = np.concatenate([out[bias], np.zeros(width - old)])
        last = f"{p}w{chain.depth}"
        out[last] = np.concatenate([out[last], np.zeros((width - old, out[last].shape[1]))])
    return out


def _grown(weight: Array, fresh: Array, old: int, width: int, *, entering: bool) -> Array:
    """A weight into a hidden layer: random columns for the new units, rows of zeros from new units to old ones."""
    grown = np.array(fresh)
    rows = weight.shape[0]
    grown[:rows, :old] = weight
    if entering:
        grown[old:width, :old] = 0.0
    return grown


def restrict(params: Params, width: int, activations: Activations) -> tuple[dict[str, Array], Kept]:
    """(nearly the same function with `width` units in every hidden layer, and exactly it where units do nothing; the
    units that were kept).

    Layer by layer from the last one: a unit's relevance is the spread of what it gives times the relevance that its
    outgoing weights lead to; the most relevant units stay, in their order, and what the others gave is replaced by its
    least-squares fit with those and a constant.
    """
    out, kept = {name: np.asarray(value, np.float64) for name, value in params.items()}, {}
    for chain in Chain.of(params):
        mine = {n.removeprefix(chain.prefix): v for n, v in out.items() if n.startswith(chain.prefix)}
        hidden = activations(mine)
        kept[chain.prefix] = _kept(chain, mine, width, hidden)
        out |= {chain.prefix + n: v for n, v in _restricted(chain, mine, kept[chain.prefix], hidden).items()}
    return out, kept


def _kept(chain: Chain, params: Params, width: int, hidden: list[Array]) -> list[NDArray[np.intp]]:
    relevance = np.ones(params[f"w{chain.depth}"].shape[1])
    scores: list[Array] = []
    for k in reversed(range(chain.depth)):
        relevance = hidden[k].std(1) * (np.abs(params[f"w{k + 1}"]) @ relevance)
        scores.insert(0, relevance)
    if chain.gated:  # a unit is one unit in all layers
        scores = [sum(scores)] * chain.depth  # pyright: ignore[reportAssignmentType]
    return [np.sort(np.argsort(-s, kind="stable")[:width]) for s in scores]


def _restricted(
    chain: Chain, params: dict[str, Array], kept: list[NDArray[np.intp]], hidden: list[Array]
) -> dict[str, Array]:
    for k in reversed(range(chain.depth)):
        stay = kept[k]
        leave = np.setdiff1d(np.arange(len(hidden[k])), stay)
        after = f"{k + 1}"
        w, lost = params[f"w{after}"], params[f"w{after}"][leave]
        params[f"w{after}"] = w[stay]
        if lost.any():
            basis = np.concatenate([hidden[k][stay], np.ones((1, hidden[k].shape[1]))]).T
            fit = np.linalg.lstsq(basis, hidden[k][leave].T @ lost, rcond=1e-10)[0]
            params[f"w{after}"], params[f"b{after}"] = w[stay] + fit[:-1], params[f"b{after}"] + fit[-1]
        for name in chain.incoming(k):
            params[name], bias = params[name][:, stay], "b" + name[1:]
            params[bias] = params[bias][stay]
    return params


def prolonged_moments(moments: Params, width: int, *, fill: bool) -> dict[str, Array]:
    """Moments of an optimizer for the wider network: the old weights keep theirs.

    New entries are zero, or with `fill` (second moments, which divide) the mean of the old ones of the same column, or
    of the same row for a new column: a step of theirs is then at most as long as their neighbours', where
    a zero would make Adam's first ones (1 - b1) / sqrt(1 - b2), about 3 times, longer than the rate.
    """
    out = {name: np.asarray(value, np.float64) for name, value in moments.items()}
    for chain in Chain.of(moments):
        p, old = chain.prefix, out[f"{chain.prefix}b0"].shape[0]
        for k in range(chain.depth + 1):
            for name in chain.incoming(k) if k < chain.depth else (f"w{k}",):
                rows = width if k else out[p + name].shape[0]
                columns = width if k < chain.depth else out[p + name].shape[1]
                out[p + name] = _filled(out[p + name], rows, columns, fill)
                if k < chain.depth:
                    bias = p + "b" + name[1:]
                    mean = out[bias].mean() if fill else 0.0
                    out[bias] = np.concatenate([out[bias], np.full(width - old, mean)])
    return out


def _filled(value: Array, rows: int, columns: int, fill: bool) -> Array:
    grown = np.zeros((rows, columns))
    r, c = value.shape
    grown[:r, :c] = value
    if fill:
        grown[r:, :c] = value.mean(0)
        grown[:, c:] = grown[:, :c].mean(1, keepdims=True)
    return grown


def restricted_moments(moments: Params, kept: Kept) -> dict[str, Array]:
    """Moments of the weights that stay."""
    out = {name: np.asarray(value, np.float64) for name, value in moments.items()}
    for chain in Chain.of(moments):
        p, stay = chain.prefix, kept[chain.prefix]
        for k in range(chain.depth):
            for name in chain.incoming(k):
                out[p + name], bias = out[p + name][:, stay[k]], p + "b" + name[1:]
                out[bias] = out[bias][stay[k]]
            after = f"{p}w{k + 1}"
            out[after] = out[after][stay[k]]
    return out
