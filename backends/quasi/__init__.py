"""Quasi-Newton stages, written once over ops: self-scaled Broyden and limited-memory BFGS with a strong-Wolfe search.

A backend flattens its parameters to x [n] and calls

    state = init(stage, ops, x, terms, keys)
    x, state, losses, evaluations, ended = iteration(stage, ops, vg, x, state, key)

inside `lax.fori_loop` or in Python alike. `vg(x) -> (losses [terms], f [], g [n])`, all of x's dtype. `direction` and
`update` are the two parts besides `vg` that cost more than scalars: a backend that compiles them one by one hands the
compiled ones to `iteration`.

State (arrays of x's dtype): `f`, `g`, `losses` at x, as computed under `key` where `stored`; `decrease` of f in the
last iteration (0: unknown); `fresh` = 1 where H is the unit matrix; `failures` of the line search in a row; `counts`
[4] over the stage (`COUNTS`); and H itself: `H` (Broyden), `Q`, `M`, `gamma` (Broyden
with limited memory) or `S`, `Y`, `R_inverse`, `YY`, `gamma` (L-BFGS).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from backends.ops import Array
from backends.quasi import broyden, lbfgs, line_search, reduced
from backends.stages import Lbfgs, SsBroyden, dense

State = dict[str, Array]
ValueAndGradient = Callable[[Array], tuple[Array, Array, Array]]
Direction = Callable[[Lbfgs | SsBroyden, Any, Mapping[str, Array]], tuple[Array, Array, Array]]
Update = Callable[[Lbfgs | SsBroyden, Any, Mapping[str, Array], Array, Array, Array, Array], State]

GOING_ON, CONVERGED, STALLED, NOT_FINITE, UNDAMPED = 0, 1, 2, 3, 4
WHY = {
    GOING_ON: "",
    CONVERGED: "gradient below tolerance",
    STALLED: "line search stalled",
    NOT_FINITE: "loss or gradient not finite",
    UNDAMPED: "stalled: no damping makes a step that lowers the loss",
}
"""What the code `ended` means."""
COUNTS = ("stage/iterations", "stage/evaluations", "stage/resets", "stage/failures")
"""What `counts` of a state holds, over the stage; `Steps.readings` of such stages. Resets: directions that did not
descend, or systems that were singular. Failures: iterations in which no step lowered the loss."""
COUNTED = len(COUNTS)


def init(stage: Lbfgs | SsBroyden, ops: Any, x: Array, terms: int, keys: int) -> State:
    """The state before the first iteration from x [n]; nothing is evaluated. Raises UserError where x is too long.

    `terms` and `keys` are the lengths of `losses` and `key`.
    """
    n = x.shape[0]
    dense.refuse_too_large([stage], n, sys.maxsize)
    scalar = ops.zeros((), x)
    method = _method(stage)
    memory = broyden.init(ops, x) if stage.memory is None else method.init(ops, x, stage.memory)
    return memory | {
        "f": scalar,
        "g": ops.zeros((n,), x),
        "losses": ops.zeros((terms,), x),
        "key": ops.zeros((keys,), x),
        "stored": ops.zeros((), x),
        "decrease": ops.zeros((), x),
        "fresh": ops.ones((), x),
        "failures": ops.zeros((), x),
        "counts": ops.zeros((COUNTED,), x),
    }


def direction(stage: Lbfgs | SsBroyden, ops: Any, state: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """(p [n], slope [], keep []): p = -H g; where that does not descend -g, and `keep` is False: H is to be dropped."""
    g, method = state["g"], _method(stage)
    p = -method.times(ops, state, g)
    slope = ops.sum(p * g)
    keep = (slope < 0) & ops.isfinite(slope)
    return ops.where(keep, p, -g), ops.where(keep, slope, -ops.sum(g * g)), keep


def update(
    stage: Lbfgs | SsBroyden, ops: Any, state: Mapping[str, Array], s: Array, y: Array, alpha: Array, keep: Array
) -> State:
    """The arrays of H after a step s = alpha p that changed the gradient from `state["g"]` by y.

    Without `keep` (a bool, 0-d) from the unit matrix, which is what remains where s = y = 0.
    """
    return _method(stage).update(ops, state, s, y, alpha, keep)


def iteration(
    stage: Lbfgs | SsBroyden,
    ops: Any,
    vg: ValueAndGradient,
    x: Array,
    state: Mapping[str, Array],
    key: Array,
    *,
    direction: Direction = direction,
    update: Update = update,
) -> tuple[Array, State, Array, Array, Array]:
    """One step: (x, state, losses [terms], evaluations [], ended []), the last two int64.

    `key` says under which points, weights and constants vg stands. Where it changed, f and g are computed anew and the
    last decrease is forgotten; H stays. Whatever is not finite never reaches x. `losses` are those after the step.
    """
    number = ops.scalars
    w, get = number.where, number.get
    stale = (state["stored"] == 0) | ops.any(state["key"] != key)
    losses, f, g = ops.cond(stale, lambda: vg(x), lambda: (state["losses"], state["f"], state["g"]))
    stale = get(stale)
    decrease, failures = (w(stale, get(0.0), get(state[name])) for name in ("decrease", "failures"))
    state = {**state, "f": f, "g": g, "losses": losses, "key": key}

    p, slope, keep = direction(stage, ops, state)
    f0, d0, steepest, keep = get(f), get(slope), get(ops.max(ops.abs(g))), get(keep)
    finite = number.isfinite(f0) & number.isfinite(d0) & number.isfinite(steepest)
    go = finite & (steepest > stage.tolerance)
    fresh = (get(state["fresh"]) > 0) | number.invert(keep)
    trial = _first_trial(number, d0, decrease, fresh, failures)
    search, new_losses, new_f, new_g = _along(stage, ops, vg, x, p, (f0, d0, trial, go), (losses, f, g))

    moved = search.best > 0
    failed = go & number.invert(moved)
    failures = w(moved, get(0.0), w(failed, failures + 1, failures))
    alpha, zero = number.put(search.best, x), ops.zeros(x.shape, x)
    s, y = w(moved, alpha * p, zero), w(moved, new_g - g, zero)
    kept = w(failed | (go & number.invert(keep)), get(0.0), get(1.0))
    H = update(stage, ops, state, s, y, alpha, number.put(kept, x) > 0)

    rest = get(ops.max(ops.abs(new_g))) <= stage.tolerance
    ended = w(finite, w(rest, CONVERGED, w(failures >= 3, STALLED, GOING_ON)), NOT_FINITE)
    numbers = {
        "stored": w(finite, get(1.0), get(0.0)),
        "decrease": w(moved, f0 - search.f_best, get(0.0)),
        "fresh": w(moved, get(0.0), w(failed, get(1.0), get(state["fresh"]))),
        "failures": failures,
    }
    after = state | H | {name: number.put(value, x) for name, value in numbers.items()}
    evaluations = number.put(search.evaluations + w(stale, get(1.0), get(0.0)), x)
    resets = w(go & number.invert(keep), get(1.0), get(0.0))
    counted = [
        number.put(get(1.0), x),
        evaluations,
        *(number.put(n, x) for n in (resets, w(failed, get(1.0), get(0.0)))),
    ]
    after["counts"] = state["counts"] + ops.stack(counted)
    return (
        x + s,
        after | {"f": new_f, "g": new_g, "losses": new_losses},
        new_losses,
        ops.to_int64(evaluations),
        ops.to_int64(number.put(ended, x)),
    )


def _along(
    stage: Lbfgs | SsBroyden, ops: Any, vg: ValueAndGradient, x: Array, p: Array, begin: tuple, values: tuple
) -> tuple[line_search.Search, Array, Array, Array]:
    """The finished search along x + a p, with (losses, f, g) at its best point; those of x where it found none."""
    number = ops.scalars

    def evaluate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        search, *best = carry
        new = vg(x + number.put(search.trial, x) * p)
        search = line_search.advance(
            number, search, number.get(new[1]), number.get(ops.sum(new[2] * p)), stage.line_search
        )
        return (search, *(number.where(search.better, b, a) for a, b in zip(best, new, strict=True)))

    return ops.while_loop(lambda carry: carry[0].done == 0, evaluate, (line_search.start(number, *begin), *values))


def _first_trial(number: Any, d0: Any, decrease: Any, fresh: Any, failures: Any) -> Any:
    """The first step to try: 1, or less where the last decrease says so; from a unit matrix, a step of length 1.

    After two failures in a row, a thousand times less: the second one from a unit matrix would only repeat the first.
    """
    one = number.get(1.0)
    slope = number.where(d0 < 0.0, -d0, one)
    expected = number.where(decrease > 0.0, number.minimum(one, 2.02 * decrease / slope), one)
    short = number.minimum(one, 1.0 / number.sqrt(slope)) * number.where(failures >= 2, 1e-3 * one, one)
    return number.where(fresh, short, expected)


def _method(stage: Lbfgs | SsBroyden) -> Any:
    if isinstance(stage, Lbfgs):
        return lbfgs
    return broyden if stage.memory is None else reduced
