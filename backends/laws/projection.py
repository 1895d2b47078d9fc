"""Predictions that fulfil conservation laws to rounding: a shift or a factor for each time, found by Newton's method.

    u'(t, x) = s(t) u(t, x) + c(t)      so that      I[u'](t) = I[u](start)      at every time that is asked for

c for a law with `by="shift"` (mass: c = (I(start) - I(t)) / volume), s for one with `by="scale"` (a quadratic energy:
s = sqrt(I(start) / I(t))); several laws are solved together. Only values and derivatives in space are corrected, in
numpy, after the network: training does not see it. What flows out, for laws with a flux, is the prediction's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.blame import blamed
from backends.errors import UserError
from backends.laws.conservation import LawSet, law_sets, nodes_of
from backends.laws.marks import EQUALS, Law
from backends.laws.quadrature import WEIGHT
from backends.names import Index
from backends.ops import NumpyOps
from backends.pde.field import Field
from backends.pde.parameters import parameters
from backends.pde.recorder import Recording, evaluate
from backends.pde.regions import Region
from backends.task import Columns, Predict

if TYPE_CHECKING:
    from backends.pde.problem import Problem

Numbers = NDArray[np.float64]
NEWTON, STEP, CLOSE = 40, 1e-6, 1e-12
"""Most iterations, the step of a difference quotient, and the relative deviation that counts as none."""


@dataclass(frozen=True)
class Corrections:
    """One number per time and law, and the times (None: there is no time)."""

    laws: tuple[Law, ...]
    times: Numbers | None
    numbers: Numbers
    """[times, laws]: s - 1 of a factor, c of a shift; zero where there is no solution."""
    solved: NDArray[np.bool_]
    """[times]"""

    def of(self, field: str, at: NDArray[np.intp]) -> tuple[Numbers, Numbers]:
        """(factor, shift) of a field at samples of the times number `at`."""
        return factor_and_shift(self.laws, self.numbers[at], field)


@dataclass(frozen=True)
class Projection:
    """The laws that predictions are made to fulfil, and their integrals."""

    problem: Problem
    laws: Mapping[str, Law]
    recordings: Mapping[str, Recording]
    sets: Mapping[str, LawSet]

    @classmethod
    def of(cls, problem: Problem, laws: Mapping[str, Law]) -> Projection | None:
        """None where there are none. Raises UserError for a law of several numbers."""
        if not laws:
            return None
        if parameters(problem):
            raise UserError(
                "a projection finds one number per time, and parameters of the equation make it one per value of "
                "theirs; take `how: term`",
                path=f"conserve.{next(iter(laws))}.how",
            )
        recordings, sets = law_sets(problem, laws)
        for recording in recordings.values():
            for method, names in recording.terms.items():
                if names != (method,):
                    with blamed(problem, method):
                        raise UserError("a projection needs a law of one number, not a dict of densities")
            if any(problem.time in index for index in recording.derivatives):
                with blamed(problem, next(iter(recording.terms))):
                    raise UserError("a projection corrects each time for itself, so its law has no derivatives in time")
        return cls(problem, laws, recordings, sets)

    def predict(self, predict: Predict, names: Sequence[str], columns: Columns) -> Mapping[str, NDArray[np.float64]]:
        """What `predict` says, with fields and their derivatives in space corrected. Raises UserError for a derivative
        in time of a corrected field."""
        found = dict(predict(names, columns))
        vocabulary, time = self.problem.vocabulary(), self.problem.time
        meant = {n: vocabulary.field_or_derivative(n) for n in names}
        fields = {n: m for n, m in meant.items() if m is not None and _concerned(self.laws.values(), m.base)}
        if not fields:
            return found
        late = [n for n, m in fields.items() if time in m.index]
        if late:
            raise UserError(f"{late[0]!r}: a projected field has no derivative in time; leave out `how: projection`")
        times, at = (None, np.zeros(1, np.intp)) if not time else np.unique(columns[time], return_inverse=True)
        corrections = self.corrections(predict, times)
        at = np.broadcast_to(np.reshape(at, -1), len(next(iter(columns.values()))))
        for n, m in fields.items():
            factor, shift = corrections.of(m.base, at)
            found[n] = found[n] * factor + (0.0 if m.index else shift)
        return found

    def corrections(self, predict: Predict, times: Numbers | None) -> Corrections:
        """The corrections that fulfil the laws at `times` [times]."""
        laws = tuple(self.laws.values())
        count = 1 if times is None else len(times)
        given = {} if times is None else {self.problem.time: times}
        sums = [
            _Sums(
                self.problem, self.recordings[b], s, nodes_of(self.recordings[b]).around(self.problem, given), predict
            )
            for b, s in self.sets.items()
        ]

        def off(numbers: Numbers) -> Numbers:
            found: dict[str, Numbers] = {}
            for one in sums:
                found |= one.deviations(laws, numbers)
            return np.stack([np.broadcast_to(found[name], (count,)) for name in self.laws], 1)

        sizes = np.maximum(np.stack([np.broadcast_to(_merged(sums)[n], (count,)) for n in self.laws], 1), 1e-300)
        unit = np.array([1.0 if law.by == "scale" else max(s.largest for s in sums) for law in laws])
        numbers, solved = _newton(off, np.zeros((count, len(laws))), sizes, unit)
        return Corrections(laws, times, numbers, solved)


class _Sums:
    """The integrals of one set of laws at given times, as functions of the corrections. The network is asked once."""

    def __init__(
        self, problem: Problem, recording: Recording, laws: LawSet, columns: Columns, predict: Predict
    ) -> None:
        self.problem, self.recording, self.laws, self.columns, self.predict = problem, recording, laws, columns, predict
        self._known: dict[tuple[str, bool, int], Numbers] = {}
        self._constants = {EQUALS + name: law.equals for name, law in laws.laws.items()}
        samples, nodes = columns[WEIGHT].shape
        self._place = np.concatenate([np.repeat(np.arange(samples), nodes), np.full(nodes, samples)])
        inside = nodes_of(recording).flat(NumpyOps(), problem, columns)
        self.largest = max(float(np.abs(self.value(f, (), inside, False)).max()) for f in problem.fields) or 1.0

    def deviations(self, laws: Sequence[Law], numbers: Numbers) -> dict[str, Numbers]:
        """How far every integral of the corrected fields is from what it must be, [times]."""
        last = np.concatenate([numbers, np.zeros((1, numbers.shape[1]))])  # the start is what it is

        def densities(recording: Recording, points: Mapping[str, Any]) -> Mapping[str, Any]:
            rows = len(next(iter(points.values())))
            walls = recording.region.nodes is None
            at = np.full(rows, len(numbers)) if walls else self._place[:rows]
            f = _Corrected(self.problem, recording, points, self, laws, last[at])
            return {n: np.broadcast_to(v, (rows,)) for n, v in evaluate(self.problem, recording, f).items()}

        return self.laws.deviations(NumpyOps(), self.problem, self.recording, self.columns, densities, self._constants)

    def sizes(self) -> dict[str, Numbers]:
        """The integral of |density| of every law, [times]: what deviations are measured by."""
        ops, nodes = NumpyOps(), nodes_of(self.recording)
        points = nodes.flat(ops, self.problem, self.columns)
        weights = self.columns[WEIGHT]
        f = _Corrected(self.problem, self.recording, points, self, (), np.zeros((len(self._place), 0)))
        found = evaluate(self.problem, self.recording, f)
        sizes = {n: np.abs(np.broadcast_to(v, weights.size)).reshape(weights.shape) for n, v in found.items()}
        totals = {n: np.sum(size * weights, 1) for n, size in sizes.items()}
        return {n: np.maximum(total, total.max()) for n, total in totals.items()}

    def value(self, field: str, index: Index, points: Columns, walls: bool) -> Numbers:
        """A channel of the network at the nodes inside or on the walls, asked for once."""
        name = "_".join([field, *index])
        key = (name, walls, len(next(iter(points.values()))))
        if key not in self._known:
            wanted = {c: np.asarray(points[c]) for c in self.problem.coords}
            self._known[key] = np.asarray(self.predict((name,), wanted)[name])
        return self._known[key]


class _Corrected(Field):
    """Numbers of the network after the corrections [points, laws]."""

    def __init__(
        self, problem: Problem, recording: Recording, points: Columns, of: _Sums, laws: Sequence[Law], numbers: Numbers
    ) -> None:
        region = Region() if recording.region.nodes else recording.region
        super().__init__(NumpyOps(), problem, region, points)
        self._points, self._of, self._laws, self._numbers = points, of, laws, numbers
        self._walls = recording.region.nodes is None

    def _value(self, field: str, index: Index) -> Numbers:
        factor, shift = factor_and_shift(self._laws, self._numbers, field)
        value = self._of.value(field, index, self._points, self._walls)
        return value * factor[: len(value)] + (0.0 if index else shift[: len(value)])

    def _column(self, name: str) -> Numbers:
        return np.asarray(self._points[name])

    def _unknown(self, name: str) -> Numbers:
        at = {c: np.asarray(self._points[c])[:1] for c in self._problem.coords}
        return np.asarray(self._of.predict((name,), at)[name])[0]


def factor_and_shift(laws: Sequence[Law], numbers: Numbers, field: str) -> tuple[Numbers, Numbers]:
    """What a field is multiplied by, and what is added to it afterwards, [points] each; `numbers`: [points, laws]."""
    factor, shift = np.ones(len(numbers)), np.zeros(len(numbers))
    for k, law in enumerate(laws):
        if not law.fields or field in law.fields:
            if law.by == "scale":
                factor = factor * (1.0 + numbers[:, k])
            else:
                shift = shift + numbers[:, k]
    return factor, shift


def _concerned(laws: Any, field: str) -> bool:
    return any(not law.fields or field in law.fields for law in laws)


def _merged(sums: Sequence[_Sums]) -> dict[str, Numbers]:
    return {name: v for one in sums for name, v in one.sizes().items()}


def _newton(off: Any, start: Numbers, sizes: Numbers, unit: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Roots of off(numbers) [times, laws], every time for itself; zeros where there is none.

    `sizes`: what deviations are relative to; `unit` [laws]: the typical size of a number.
    """
    x, laws = start.copy(), start.shape[1]
    now = off(x) / sizes
    for _ in range(NEWTON):
        far = np.abs(now).max(1) > CLOSE
        if not far.any():
            break
        slopes = np.empty((len(x), laws, laws))
        for k in range(laws):
            step = np.zeros(laws)
            step[k] = STEP * unit[k]
            slopes[:, :, k] = (off(x + step) - off(x - step)) / sizes / (2.0 * step[k])
        with np.errstate(all="ignore"):
            usable = far & np.isfinite(slopes).all((1, 2)) & np.isfinite(now).all(1)
            for i in np.flatnonzero(usable):
                x[i] -= np.linalg.lstsq(slopes[i], now[i], rcond=None)[0]
        now = off(x) / sizes
    solved = np.isfinite(now).all(1) & (np.abs(now).max(1) <= 1e3 * CLOSE)
    return np.where(solved[:, None], x, 0.0), solved
