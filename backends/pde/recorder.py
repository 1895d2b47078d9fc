"""A dry run of a problem's terms in numpy: which derivatives, columns and constants they read, and what they return.

The numbers are harmless random ones. They are arrays that refuse what a backend would refuse later with a far worse
message: numpy's and math's functions (a term must use `f.ops`), branches on values, conversions to floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.blame import blamed
from backends.derivatives.jets import Plan
from backends.errors import UserError
from backends.geometry.sampling import remains_of
from backends.names import EXACT, Index
from backends.ops import NumpyOps
from backends.pde.field import Field, spatial
from backends.pde.parameters import at, middle, swept
from backends.pde.regions import Region
from backends.pde.representation import AnsatzField, replaced
from backends.task import Columns

if TYPE_CHECKING:
    from backends.geometry.shape import Shape
    from backends.pde.problem import Problem

SAMPLES = 3
_ARITHMETIC = (np.add, np.subtract, np.multiply, np.divide, np.power, np.square, np.negative, np.positive, np.matmul)
_LOGIC = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
_FLAGS = (np.bitwise_and, np.bitwise_or, np.invert)
OPERATORS = frozenset((*_ARITHMETIC, *_LOGIC, *_FLAGS))
"""What Python's operators call in numpy."""


@dataclass(frozen=True)
class Recording:
    """What the terms of one region read and return."""

    region: Region
    terms: Mapping[str, tuple[str, ...]]
    """Marked method -> the names of its terms: itself, or `pde/x`, `pde/mass` where it returns a dict."""
    plan: Plan
    exact: tuple[str, ...]
    """Fields whose reference solution is read as a column `exact_<field>`."""
    constants: frozenset[str]
    """Float fields of the problem that the terms read."""
    reduced: bool
    """Whether a term reduces itself to one number."""
    derivatives: frozenset[Index] = frozenset()
    """Derivatives that are asked for by name."""
    laplacians: frozenset[str] = frozenset()
    """The terms that read a Laplacian which travels as a channel of its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """All terms of the region, in order."""
        return tuple(name for names in self.terms.values() for name in names)

    def along(self, directions: Sequence[str]) -> Plan:
        """The plan whose Laplacian runs along these pseudo-coordinates."""
        return Plan.closing(self.derivatives, directions)


class Sample(np.ndarray):
    """An array that knows which live constants it came from, and that only operators and `f.ops` may touch."""

    seen: set[str]
    constant: str

    def __array_finalize__(self, source: Any) -> None:
        self.seen, self.constant = getattr(source, "seen", set()), ""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and ufunc not in OPERATORS:
            raise UserError(f"use f.ops.{ufunc.__name__}: numpy.{ufunc.__name__} works on no backend but numpy")
        with np.errstate(all="ignore"):
            return self.again(getattr(ufunc, method)(*(_bare(i) for i in inputs), **kwargs))

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        raise UserError(f"use f.ops.{func.__name__}: numpy.{func.__name__} works on no backend but numpy")

    def again(self, values: Any) -> Any:
        """The same kind of array with other values; a tuple or list part by part."""
        if isinstance(values, tuple | list):
            return type(values)(self.again(v) for v in values)
        out = np.asarray(values).view(Sample)
        out.seen = self.seen
        return out

    def __float__(self) -> float:
        raise UserError("a value that lives on the device can't become a Python number; use f.ops, not the module math")

    def __bool__(self) -> bool:
        raise UserError("a value that lives on the device can't decide a Python branch; use f.ops.where")

    def __int__(self) -> int:
        return int(float(self))

    def __index__(self) -> int:
        return int(float(self))


def sample(values: Any, seen: set[str], constant: str = "") -> Sample:
    """A recording array; where it is the value of a live constant, its use is noted in `seen`."""
    out = np.asarray(values).view(Sample)
    out.seen, out.constant = seen, constant
    return out


def _bare(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_bare(v) for v in value)
    if not isinstance(value, Sample):
        return value
    if value.constant:
        value.seen.add(value.constant)
    return value.view(np.ndarray)


class SampleOps:
    """numpy's ops for recording arrays."""

    def __init__(self, seen: set[str]) -> None:
        self._ops, self._seen = NumpyOps(), seen

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._ops, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            with np.errstate(all="ignore"):
                values = function(*map(_bare, args), **{k: _bare(v) for k, v in kwargs.items()})
            return sample((), self._seen).again(values)

        return recorded


class Recorder(Field):
    """Stands in for the Field: notes the derivatives asked for and answers with random numbers."""

    def __init__(self, problem: Problem, region: Region, columns: Columns, seen: set[str]) -> None:
        exact = [EXACT + f for f in problem.fields] if problem.has_solution() else []
        super().__init__(SampleOps(seen), problem, region, [*columns, *exact])
        self._given, self._seen = columns, seen
        self._random = np.random.default_rng(0)
        self.derivatives: set[Index] = set()
        self.laplacians: set[str] = set()
        self.asked_laplacian = False
        self.exact: set[str] = set()

    def _numbers(self, count: int = SAMPLES) -> Sample:
        return sample(self._random.uniform(0.5, 1.5, count), self._seen)

    def _value(self, field: str, index: Index) -> Sample:
        self.derivatives.add(index)
        return self._numbers(2 * SAMPLES if self._region.periodic else SAMPLES)

    def _laplacian(self, field: str) -> Sample:
        spatial(self._problem)
        self.laplacians.add(field)
        self.asked_laplacian = True
        return self._numbers()

    def _distance(self, shape: Shape, part: str, normalised: bool) -> Sample:
        remains_of(shape, part)
        return self._numbers()

    def _column(self, name: str) -> Sample:
        if name in self._given:
            column = np.asarray(self._given[name])
            return sample(np.resize(column, (SAMPLES, *column.shape[1:])), self._seen)
        self.exact.add(name.removeprefix(EXACT))
        return self._numbers()

    def _unknown(self, name: str) -> Sample:
        return sample(self._random.uniform(0.5, 1.5), self._seen)

    def plan(self) -> Plan:
        """The channels that carry everything asked for. A Laplacian whose parts are there anyway is their sum."""
        coords = spatial(self._problem) if self.laplacians else ()
        parts = {(c, c) for c in coords}
        if len(coords) == 1 or parts <= self.derivatives:
            return Plan.closing(self.derivatives | parts)
        return Plan.closing(self.derivatives, coords)


def record(problem: Problem, region: Region, methods: tuple[str, ...], columns: Columns) -> Recording:
    """Runs the marked methods of a region once. `columns`: a few of its samples.

    Raises UserError with file and line of the user's text where a method asks for something that is not there,
    raises, or returns something else than arrays of one value per sample.
    """
    seen: set[str] = set()
    traced = _traced(problem, seen)
    recorder = Recorder(traced, region, columns, seen)
    terms: dict[str, tuple[str, ...]] = {}
    reduced, readers = False, set[str]()
    for method in methods:
        recorder.asked_laplacian = False
        with blamed(problem, method):
            given = getattr(traced, method)(recorder)
            parts = given if isinstance(given, dict) else {"": given}
            if not parts:
                raise UserError("returns an empty dict; return an array, a tuple of arrays, or a dict of them")
            shapes = [_shape(name, part) for name, value in parts.items() for part in _vector(value)]
            _bare([p for value in parts.values() for p in _vector(value)])
        reduced = reduced or () in shapes
        terms[method] = tuple(f"{method}/{k}" if k else method for k in parts)
        if recorder.asked_laplacian:
            readers.update(terms[method])
    plan, exact = recorder.plan(), tuple(sorted(recorder.exact))
    travelling = frozenset(readers) if plan.laplacian else frozenset()
    derivatives = frozenset(recorder.derivatives)
    return Recording(region, terms, plan, exact, frozenset(seen), reduced, derivatives, travelling)


def _traced(problem: Problem, seen: set[str]) -> Problem:
    """The problem with recording arrays for its live constants, and for fields that differ from sample to sample."""
    traced = problem.model_copy(update={n: sample(v, seen, n) for n, v in problem.floats().items()})
    return at(traced, {n: sample(np.full(SAMPLES, middle(problem, n)), seen) for n in swept(problem)})


def evaluate(problem: Problem, recording: Recording, f: Field) -> dict[str, Any]:
    """Every term of a region, raw: one value per sample, a tuple of such for a vector residual, or one number."""
    out: dict[str, Any] = {}
    problem = at(problem, {n: f(n) for n in swept(problem)})
    for method, names in recording.terms.items():
        with blamed(problem, method):
            given = getattr(problem, method)(f)
        parts = given if isinstance(given, dict) else {"": given}
        values = [tuple(v) if isinstance(v, list) else v for v in parts.values()]
        out |= zip(names, values, strict=True)
    return out


def record_ansatz(problem: Problem) -> frozenset[str]:
    """Runs the ansatz once; the float fields that it reads."""
    seen: set[str] = set()
    random = np.random.default_rng(0)
    traced = _traced(problem, seen)
    names = (*problem.coords, *problem.fields, *problem.unknowns)
    values = {n: sample(random.uniform(0.5, 1.5, SAMPLES), seen) for n in names}
    with blamed(problem, problem.ansatz_name()):
        given = getattr(traced, problem.ansatz_name())(AnsatzField(SampleOps(seen), traced, values))
        _bare(list(replaced(problem, given).values()))
    return frozenset(seen)


def _vector(value: Any) -> tuple[Any, ...]:
    """The parts of a term: those of a tuple or list, else the one."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, np.ndarray | float | int):
        what = f" under {name!r}" if name else ""
        raise UserError(f"returns {type(value).__name__}{what}; return an array, a tuple of arrays, or a dict of them")
    shape = getattr(value, "shape", ())
    if shape not in ((), (SAMPLES,)):
        raise UserError(
            f"returns an array of shape {shape} where there are {SAMPLES} samples; return one value per sample, "
            "or one number (f.ops.mean) for a term that reduces itself"
        )
    return shape
