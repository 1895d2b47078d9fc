"""Gauss-Newton stages, written once over ops: a damped system of the residuals' derivatives, and how far to go.

With J [rows, n] the derivative of all residuals rho [rows], each times the root of weight / samples, the loss is
f = rho'rho + the other terms, its gradient g = 2 J'rho + theirs, and a step p solves

    (J'J + damping) p = -g/2 + damping momentum p_last

A backend flattens its parameters to x [n] and calls

    state = init(ops, x)
    x, state, losses, evaluations, ended = iteration(stage, ops, problem, x, state, damping, momentum)

inside `lax.while_loop` or in Python alike. Nothing but the scale of the damping and the last step is kept from one
iteration to the next, so samples and weights may change at any of them.

State (arrays of x's dtype): `scale` of the damping, 0-d; `step`, the last one [n]; `failures` of iterations in a row;
`counts` [4] over the stage (`backends.quasi.COUNTS`).

Sources: More, "The Levenberg-Marquardt algorithm" (1978); Mueller and Zeinhofer (arXiv 2302.13163) for the line search
on natural gradients; Goldshlager, Abrahamsen and Lin (arXiv 2401.10190) for the momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backends import quasi
from backends.gauss_newton import solving
from backends.gauss_newton.solving import Curvature
from backends.ops import Array
from backends.stages import GaussNewton

State = dict[str, Array]
Solve = Callable[[GaussNewton, Any, Curvature, Array, Array, Array], Array]


class Problem(NamedTuple):
    """What a backend offers at any x [n]."""

    assemble: Callable[[Array], tuple[Array, Array, Array, Curvature]]
    """x -> (losses [terms], f [], g [n], what the solver needs)."""
    value: Callable[[Array], tuple[Array, Array]]
    """x -> (losses [terms], f [])."""


class Attempt(NamedTuple):
    """Where the steps tried in one iteration stand; numbers are `ops.scalars`, the rest arrays."""

    scale: Any
    """Of the damping, for the next attempt."""
    trials: Any
    over: Any
    """Flag."""
    unsound: Any
    """How many systems gave no direction of descent."""
    f: Any
    """The loss after `step`."""
    step: Array
    """Zero as long as none lowers the loss."""
    losses: Array


LEAST, MOST = 1e-14, 1e14
"""Bounds of the damping's scale."""


def init(ops: Any, x: Array) -> State:
    """The state before the first iteration from x [n]."""
    return {
        "scale": ops.ones((), x),
        "step": ops.zeros(x.shape, x),
        "failures": ops.zeros((), x),
        "counts": ops.zeros((quasi.COUNTED,), x),
    }


def iteration(
    stage: GaussNewton,
    ops: Any,
    problem: Problem,
    x: Array,
    state: Mapping[str, Array],
    damping: Array,
    momentum: Array,
    *,
    solve: Solve = solving.solve,
) -> tuple[Array, State, Array, Array, Array]:
    """One step: (x, state, losses [terms], evaluations [], ended []), the last two int64.

    Whatever is not finite never reaches x. `losses` are those after the step.
    """
    number = ops.scalars
    w, get = number.where, number.get
    losses, f, g, curvature = problem.assemble(x)
    f0, steepest = get(f), get(ops.max(ops.abs(g)))
    finite = number.isfinite(f0) & number.isfinite(steepest)
    go = finite & (steepest > stage.tolerance)
    begin = Attempt(
        get(state["scale"]), get(0.0), number.invert(go), get(0.0), f0, ops.zeros(x.shape, x), losses
    )  # fmt: skip
    tried = _trust if stage.step == "trust" else _search
    last = momentum * state["step"]
    found = tried(stage, ops, problem, solve, (x, f0, g, curvature), damping, last, begin)

    moved = found.f < f0
    failed = go & number.invert(moved)
    failures = w(moved, get(0.0), w(failed, get(state["failures"]) + 1.0, get(state["failures"])))
    ended = w(finite, w(steepest <= stage.tolerance, quasi.CONVERGED, quasi.GOING_ON), quasi.NOT_FINITE)
    ended = w(failed & (failures >= 2), quasi.UNDAMPED, ended)
    evaluations = found.trials + 1.0
    one, none = get(1.0), get(0.0)
    counted = (one, evaluations, found.unsound, w(failed, one, none))
    after = {
        "scale": number.put(found.scale, x),
        "step": found.step,
        "failures": number.put(failures, x),
        "counts": state["counts"] + ops.stack([number.put(n, x) for n in counted]),
    }
    ended, evaluations = (ops.to_int64(number.put(n, x)) for n in (ended, evaluations))
    return x + found.step, after, found.losses, evaluations, ended


def _trust(
    stage: GaussNewton, ops: Any, problem: Problem, solve: Solve, at: tuple, damping: Array, last: Array, begin: Attempt
) -> Attempt:
    """Levenberg-Marquardt: more damping until the loss falls; less for the next iteration where it was predicted well.

    At a rejection the damping grows by 2, at further ones by 8; at a ratio of the true to the predicted decrease above
    3/4 it shrinks by 3, below 1/4 it doubles. Only the first attempt has momentum: damping does not shorten that.
    """
    number = ops.scalars
    w, get = number.where, number.get
    x, f0, g, curvature = at

    def attempt(now: Attempt) -> Attempt:
        strength = damping * number.put(now.scale, x)
        anchor = w(now.trials == 0.0, last, ops.zeros(x.shape, x))
        p = solve(stage, ops, curvature, g, strength, anchor)
        slope, pull = get(ops.sum(g * p)), get(strength * ops.sum(p * (p - anchor)))
        losses, f = problem.value(x + p)
        f = get(f)
        sound = number.isfinite(slope) & (slope < 0.0)
        good = sound & number.isfinite(f) & (f < f0)
        predicted = pull - 0.5 * slope
        gain = (f0 - f) / w(predicted > 0.0, predicted, get(1.0))
        kept = w(gain > 0.75, now.scale / 3.0, w(gain < 0.25, now.scale * 2.0, now.scale))
        more = now.scale * w(now.trials == 0.0, get(2.0), get(8.0))
        scale = number.minimum(number.maximum(w(good, kept, more), get(LEAST)), get(MOST))
        trials = now.trials + 1.0
        return Attempt(
            scale, trials, good | (trials >= stage.trials), now.unsound + w(sound, get(0.0), get(1.0)),
            w(good, f, now.f), w(good, p, now.step), w(good, losses, now.losses),
        )  # fmt: skip

    return ops.while_loop(lambda now: number.invert(now.over), attempt, begin)


def _search(
    stage: GaussNewton, ops: Any, problem: Problem, solve: Solve, at: tuple, damping: Array, last: Array, begin: Attempt
) -> Attempt:
    """The best of p, p/2, p/4, … until one is worse than the one before; along -g where p does not descend.

    Where nothing lowers the loss the damping grows by 8 for the next iteration; otherwise it returns by 3 a step.
    """
    number = ops.scalars
    w, get = number.where, number.get
    x, f0, g, curvature = at
    strength = damping * number.put(begin.scale, x)
    p = solve(stage, ops, curvature, g, strength, last)
    slope = get(ops.sum(g * p))
    sound = number.isfinite(slope) & (slope < 0.0)
    length = number.sqrt(get(ops.sum(g * g)))
    steepest = -g * number.put(1.0 / w(length > 1.0, length, get(1.0)), x)
    p = w(sound, p, steepest)

    def attempt(now: Attempt) -> Attempt:
        step = p * (0.5 ** number.put(now.trials, x))
        losses, f = problem.value(x + step)
        f = get(f)
        better = number.isfinite(f) & (f < now.f)
        trials = now.trials + 1.0
        over = (number.invert(better) & (now.f < f0)) | (trials >= stage.trials)
        return now._replace(
            trials=trials, over=over, f=w(better, f, now.f), step=w(better, step, now.step),
            losses=w(better, losses, now.losses),
        )  # fmt: skip

    found = ops.while_loop(lambda now: number.invert(now.over), attempt, begin)
    less = number.maximum(begin.scale / 3.0, get(1.0))
    scale = w(found.f < f0, less, w(begin.over, begin.scale, number.minimum(begin.scale * 8.0, get(MOST))))
    return found._replace(scale=scale, unsound=w(sound | begin.over, get(0.0), get(1.0)))
