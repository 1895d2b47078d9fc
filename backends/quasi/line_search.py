"""Strong-Wolfe line search as a pure transition on scalars: Moré and Thuente, as MINPACK-2's `dcsrch` and `dcstep`.

Looks along x + a p for a step a with sufficient decrease, f(a) <= f(0) + c1 a f'(0), and a flat slope,
|f'(a)| <= c2 |f'(0)|. `start` gives the first trial; `advance` takes f and f' there and gives the next. Nothing here
branches in Python, so the same text runs on floats (numpy, torch) and on tracers inside `lax.while_loop`.

What MINPACK has not: a trial that is not finite becomes a wall that later trials keep away from, and the best point of
sufficient decrease is remembered, so that a search that runs out of evaluations still yields it.

Source: Moré and Thuente, ACM Trans. Math. Softw. 20 (1994) 286, section 4 for the four cases of `_interpolate`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

C1, C2 = 1e-4, 0.9
LONGEST = 1e20
"""Longest step."""
NARROWEST = 1e-14
"""Relative width of the bracket below which rounding decides."""
INVISIBLE = 1e-17
"""A trial whose expected change of f is less than this times f would change nothing."""

Scalar = Any
"""A float, or a traced 0-d float64 array."""
Flag = Any
"""A bool, or a traced 0-d bool array."""


class Search(NamedTuple):
    """Where a line search stands. `lo` is the best end of the bracket, `hi` the other one, each with f and slope."""

    trial: Scalar
    """The step to evaluate next; once `done`, of no meaning."""
    f0: Scalar
    d0: Scalar
    lo: Scalar
    f_lo: Scalar
    d_lo: Scalar
    hi: Scalar
    f_hi: Scalar
    d_hi: Scalar
    width: Scalar
    width_before: Scalar
    bracketed: Flag
    second: Flag
    """The second phase: a point of sufficient decrease with a rising slope has been seen."""
    wall: Scalar
    """The shortest step beyond `lo` where f or its slope was not finite."""
    best: Scalar
    """The step to take: 0 as long as no point of sufficient decrease is known."""
    f_best: Scalar
    better: Flag
    """Whether the point just evaluated became `best`: the caller then keeps its gradient."""
    evaluations: Scalar
    done: Scalar
    """0: evaluate `trial`; 1: `best` fulfils both conditions; 2: no better point can be had."""


def start(ops: Any, f0: Scalar, d0: Scalar, trial: Scalar, go: Flag) -> Search:
    """The state before the first evaluation; without `go` the search is over at once, without a step."""
    w, zero, far, no = ops.where, ops.get(0.0), ops.get(LONGEST), ops.get(False)
    return Search(
        trial=trial, f0=f0, d0=d0, lo=zero, f_lo=f0, d_lo=d0, hi=zero, f_hi=f0, d_hi=d0,
        width=far, width_before=2 * far, bracketed=no, second=no, wall=2 * far,
        best=zero, f_best=f0, better=no, evaluations=zero, done=w(go, zero, zero + 2.0),
    )  # fmt: skip


def advance(ops: Any, s: Search, f: Scalar, d: Scalar, most: int) -> Search:
    """The state after f and its slope d at `s.trial` are known; gives up after `most` evaluations."""
    w, a = ops.where, s.trial
    finite = ops.isfinite(f) & ops.isfinite(d)
    f, d = w(finite, f, s.f0), w(finite, d, s.d0)
    line = s.f0 + C1 * a * s.d0
    enough = finite & (f <= line)
    wolfe = enough & (ops.abs(d) <= -C2 * s.d0)
    better = wolfe | (enough & (f < s.f_best))

    following = _narrow(ops, s, f, d, line)
    wall = w(finite, s.wall, w(a > s.lo, ops.minimum(a, s.wall), s.wall))
    lo = w(finite, following.lo, s.lo)
    trial = w(finite, following.trial, s.lo + 0.25 * (a - s.lo))
    trial = w(wall > lo, ops.minimum(trial, lo + 0.5 * (wall - lo)), trial)

    evaluations = s.evaluations + 1.0
    left, right = ops.minimum(lo, following.hi), ops.maximum(lo, following.hi)
    spent = finite & following.bracketed & ((trial <= left) | (trial >= right) | (right - left <= NARROWEST * right))
    unseen = -trial * s.d0 <= INVISIBLE * ops.abs(s.f0)
    over = spent | unseen | (evaluations >= most) | (enough & (a >= LONGEST))
    one = ops.get(1.0)
    chosen = {k: w(finite, getattr(following, k), getattr(s, k)) for k in _BRACKET}
    return s._replace(
        **chosen, trial=trial, wall=wall, best=w(better, a, s.best), f_best=w(better, f, s.f_best), better=better,
        evaluations=evaluations, done=w(wolfe, one, w(over, 2.0 * one, 0.0 * one)),
    )  # fmt: skip


_BRACKET = ("lo", "f_lo", "d_lo", "hi", "f_hi", "d_hi", "width", "width_before", "bracketed", "second")


def _narrow(ops: Any, s: Search, f: Scalar, d: Scalar, line: Scalar) -> Search:
    """The bracket with the new point in it, and the next trial (`dcsrch`)."""
    w, a, descent = ops.where, s.trial, C1 * s.d0
    first = ops.invert(s.second) & ((f > line) | (d < 0.0))
    # In the first phase, a low point that does not decrease enough counts by its distance to the line of decrease.
    tilt = w(first & (f <= s.f_lo) & (f > line), descent, 0.0 * descent)
    f_new, d_new = f - a * tilt, d - tilt
    f_lo, d_lo = s.f_lo - s.lo * tilt, s.d_lo - tilt
    f_hi, d_hi = s.f_hi - s.hi * tilt, s.d_hi - tilt

    # Where the next trial may lie as long as there is no bracket.
    nearest, farthest = w(s.hi == s.lo, 0.0 * a, a + 1.1 * (a - s.lo)), a + 4.0 * (a - s.lo)
    low, high = w(s.bracketed, ops.minimum(s.lo, s.hi), nearest), w(s.bracketed, ops.maximum(s.lo, s.hi), farthest)
    trial, bracketed, rises, turns = _interpolate(
        ops, (s.lo, f_lo, d_lo), (s.hi, f_hi, d_hi), (a, f_new, d_new), s.bracketed, low, high
    )
    hi, f_hi, d_hi = (
        w(rises, new, w(turns, lo, hi)) for new, lo, hi in ((a, s.lo, s.hi), (f, s.f_lo, s.f_hi), (d, s.d_lo, s.d_hi))
    )
    lo, f_lo, d_lo = (w(rises, lo, new) for new, lo in ((a, s.lo), (f, s.f_lo), (d, s.d_lo)))

    # A bracket that did not shrink by a third in two steps is halved.
    size = ops.abs(hi - lo)
    trial = w(bracketed & (size >= 0.66 * s.width_before), lo + 0.5 * (hi - lo), trial)
    trial = ops.minimum(trial, ops.get(LONGEST))
    trial = w(ops.isfinite(trial), trial, lo + 0.5 * (a - lo))
    return s._replace(
        trial=trial, lo=lo, f_lo=f_lo, d_lo=d_lo, hi=hi, f_hi=f_hi, d_hi=d_hi, bracketed=bracketed,
        second=ops.invert(first), width=w(bracketed, size, s.width),
        width_before=w(bracketed, s.width, s.width_before),
    )  # fmt: skip


def _interpolate(
    ops: Any, lo: tuple, hi: tuple, new: tuple, bracketed: Flag, low: Scalar, high: Scalar
) -> tuple[Scalar, Flag, Flag, Flag]:
    """The next trial from the ends of the bracket and the new point, each (step, f, slope) (`dcstep`).

    Returns (trial, bracketed, rises, turns): `rises` where the new point is higher than `lo`, `turns` where it is lower
    and its slope has the opposite sign.
    """
    w, (a, f, d), (x, fx, dx), (y, _, _) = ops.where, new, lo, hi
    rises = f > fx
    turns = ops.invert(rises) & (d * dx < 0.0)
    slower = ops.invert(rises | turns) & (ops.abs(d) < ops.abs(dx))

    # 1. Higher: a minimum lies between. The cubic step if it is closer to lo, else between cubic and quadratic.
    cubic = _cubic(ops, lo, new)[0]
    quadratic = x + 0.5 * _ratio(ops, dx, _ratio(ops, fx - f, a - x) + dx) * (a - x)
    higher = w(ops.abs(cubic - x) <= ops.abs(quadratic - x), cubic, 0.5 * (cubic + quadratic))

    # 2. The slope turned: a minimum lies between. Of cubic and secant step, the farther from the new point.
    back, ratio, gamma = _cubic(ops, new, lo)
    secant = a + _ratio(ops, d, d - dx) * (x - a)
    farther = ops.abs(back - a) > ops.abs(secant - a)
    turned = w(farther, back, secant)

    # 3. The slope flattens: the cubic step only where the cubic tends to infinity that way or has its minimum beyond.
    beyond = w((ratio < 0.0) & (gamma != 0.0), back, w(a > x, high, low))
    closer = ops.abs(beyond - a) < ops.abs(secant - a)
    inside = w(closer, beyond, secant)
    limit = a + 0.66 * (y - a)
    inside = w(a > x, ops.minimum(limit, inside), ops.maximum(limit, inside))
    outside = w(ops.abs(beyond - a) > ops.abs(secant - a), beyond, secant)
    flatter = w(bracketed, inside, ops.minimum(ops.maximum(outside, low), high))

    # 4. It does not flatten: the cubic through the other end, or as far as allowed.
    steeper = w(bracketed, _cubic(ops, new, hi)[0], w(a > x, high, low))

    trial = w(rises, higher, w(turns, turned, w(slower, flatter, steeper)))
    return trial, bracketed | rises | turns, rises, turns


def _cubic(ops: Any, p: tuple, q: tuple) -> tuple[Scalar, Scalar, Scalar]:
    """Of the cubic with the values and slopes of p and q: its minimiser; its place from p (0) to q (1); its root."""
    (a, fa, da), (b, fb, db) = p, q
    theta = 3.0 * _ratio(ops, fa - fb, b - a) + da + db
    scale = ops.maximum(ops.abs(theta), ops.maximum(ops.abs(da), ops.abs(db)))
    t, u, v = _ratio(ops, theta, scale), _ratio(ops, da, scale), _ratio(ops, db, scale)
    root = scale * ops.sqrt(ops.maximum(t * t - u * v, 0.0 * t))
    gamma = ops.where(b < a, -root, root)
    place = _ratio(ops, (gamma - da) + theta, ((gamma - da) + gamma) + db)
    return a + place * (b - a), place, gamma


def _ratio(ops: Any, x: Scalar, y: Scalar) -> Scalar:
    """x / y, and x where y is 0: such a branch is never taken, but it is computed."""
    return x / ops.where(y == 0.0, 0.0 * y + 1.0, y)
