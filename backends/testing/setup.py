"""What the checks share: building a backend, knob tables, comparing states, a numpy oracle for losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import pointwise
from backends.gradients import Noise, limits
from backends.groups import Groups
from backends.ops import NumpyOps
from backends.protocol import NO_GROUPS, Backend, Settings, columns_of, evenly
from backends.stages import Adam, AdamW, GaussNewton, Lbfgs, Sgd, SsBroyden, Stage
from backends.task import Batches, Context, Task, parts_of, trained_terms

STAGES: tuple[Stage, ...] = (
    Adam(name="adam", steps=20, lr=1e-2, precision="float64"),
    AdamW(name="adamw", steps=20, lr=1e-2, weight_decay=1e-2, precision="float64"),
    Sgd(name="sgd", steps=20, lr=1e-2, momentum=0.5, precision="float64"),
    Lbfgs(name="lbfgs", steps=20, memory=3),
    SsBroyden(name="broyden", steps=20),
    GaussNewton(name="gauss_newton", steps=20, momentum=0.1),
)
"""One of each kind, all float64."""
ADAM = STAGES[:1]
CAPACITY = 10


def build(module: ModuleType, task: Task, stages: Sequence[Stage] = ADAM, **settings: Any) -> Backend[Any]:
    """A backend on the CPU with a small output buffer; `settings` replace fields of `Settings`."""
    return module.build(task, tuple(stages), replace(Settings(capacity=CAPACITY), **settings))


def table(
    task: Task,
    stage: Stage,
    n: int,
    clip: Any = None,
    groups: Groups = NO_GROUPS,
    step: int = 0,
    noise: Noise | None = None,
    **knobs: float,
) -> NDArray[np.float64]:
    """n equal rows of knobs: the stage's own values, weight 1, the task's constants; `knobs` replaces columns.

    A column is named by its last part where that is unambiguous: `shift=2` for `task/shift`. What differs from row to
    row is only the rhythm of `groups`, from step number `step` on.
    """
    names = columns_of(stage, task, clip, groups, noise)
    values = {name: 1.0 for name in names if name.startswith("weight/")}
    values |= {f"task/{name}": value for name, value in task.constants.items()}
    values |= {name: float(getattr(stage, name)) for name in names if hasattr(stage, name)}
    values |= limits(clip, noise) | pointwise.knobs(task)
    for name, group in groups.items():
        rate = values.get("lr", 0.0) * group.rate
        values |= {f"lr/{name}": rate, f"sign/{name}": float(group.sign), f"on/{name}": 1.0}
    for name, value in knobs.items():
        (full,) = [n for n in names if n in (name, f"weight/{name}", f"task/{name}")]
        values[full] = value
    rows = np.tile([values[name] for name in names], (n, 1)).astype(np.float64)
    for name, group in groups.items():
        if f"on/{name}" in names:
            rows[:, names.index(f"on/{name}")] = np.arange(step, step + n) % group.every == group.offset
    return rows


def column(task: Task, stage: Stage, name: str, clip: Any = None) -> int:
    """Where a knob stands in the table."""
    return columns_of(stage, task, clip).index(name)


def snapshot(backend: Backend[Any], state: Any) -> dict[str, NDArray[Any]]:
    """Own copies of all arrays of a state."""
    return {name: np.array(value) for name, value in backend.arrays(state)[0].items()}


def same_bits(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]], what: str) -> None:
    """Every array equal to the last bit (NaN equals NaN), with the same dtype."""
    assert sorted(a) == sorted(b), f"{what}: {sorted(set(a) ^ set(b))} are in one of the two only"
    for name in a:
        left, right = np.asarray(a[name]), np.asarray(b[name])
        assert left.dtype == right.dtype, f"{what}: {name} is {left.dtype} here and {right.dtype} there"
        assert left.shape == right.shape, f"{what}: {name} is {left.shape} here and {right.shape} there"
        equal = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        assert equal, f"{what}: {name} differs by {np.nanmax(np.abs(left - right)):.3g}"


def close(a: Any, b: Any, what: str, rtol: float = 1e-12, atol: float = 0.0) -> None:
    """Equal to a relative tolerance, on the scale of the largest number."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = float(np.max(np.abs(right), initial=0.0))
    np.testing.assert_allclose(left, right, rtol=0, atol=atol + rtol * scale, err_msg=what)


def all_close(a: Mapping[str, Any], b: Mapping[str, Any], what: str, rtol: float = 1e-12, atol: float = 0.0) -> None:
    """`close`, array by array, of the same names."""
    assert sorted(a) == sorted(b), f"{what}: {sorted(set(a) ^ set(b))} are in one of the two only"
    for name in a:
        close(a[name], b[name], f"{what}: {name}", rtol, atol)


def differ(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> bool:
    """Whether any array differs."""
    return any(not np.array_equal(a[name], b[name], equal_nan=True) for name in a)


def oracle(
    task: Task,
    params: Mapping[str, NDArray[Any]],
    batches: Batches,
    constants: Mapping[str, float] | None = None,
    aux: Mapping[str, NDArray[Any]] | None = None,
    key: tuple[int, int] = (0, 0),
    training: bool = False,
) -> dict[str, float]:
    """Mean of every term of these batches in numpy: residuals squared, nothing weighted."""
    kinds = {term.name: term.kind for term in task.terms}
    context = Context({**task.constants, **(constants or {})}, aux or task.aux(), key, training)
    means: dict[str, float] = {}
    for batch, columns in batches.items():
        for name, value in task.per_sample(NumpyOps(), dict(params), batch, columns, context).items():
            parts = parts_of(value)
            means[name] = float(sum(np.mean(p * p if kinds[name] == "residual" else p) for p in parts))
    return means


def slopes(
    task: Task,
    params: Mapping[str, NDArray[Any]],
    batches: Batches,
    names: Sequence[str],
    step: float = 1e-5,
    **context: Any,
) -> NDArray[np.float64]:
    """[terms, parameters]: central differences of each trained term, `names` in the order of flat vectors."""
    terms = [term.name for term in trained_terms(task.terms)]
    columns = []
    for name in names:
        for i in range(np.size(params[name])):
            values = []
            for sign in (1, -1):
                moved = {k: np.array(v, dtype=np.float64) for k, v in params.items()}
                moved[name].reshape(-1)[i] += sign * step
                found = oracle(task, moved, batches, **context)
                values.append(np.array([found[t] for t in terms]))
            columns.append((values[0] - values[1]) / (2 * step))
    return np.stack(columns, axis=1)


def kernel_traces(
    task: Task,
    params: Mapping[str, NDArray[Any]],
    batches: Batches,
    names: Sequence[str],
    samples: int,
    constants: Mapping[str, float],
    step: float = 1e-5,
) -> NDArray[np.float64]:
    """[terms]: the statistic `ntk/<samples>` by central differences of each residual; NaN for losses."""
    context = Context({**task.constants, **constants}, task.aux(), (0, 0), True)

    def residuals(params: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for batch, columns in batches.items():
            rows = evenly(len(next(iter(columns.values()))), samples)
            some = {k: v[rows] for k, v in columns.items()}
            for name, value in task.per_sample(NumpyOps(), dict(params), batch, some, context).items():
                found[name] = np.stack(parts_of(value))
        return found

    terms = trained_terms(task.terms)
    sums = {t.name: 0.0 if t.kind == "residual" else np.nan for t in terms}
    for name in names:
        for i in range(np.size(params[name])):
            sides = []
            for sign in (1, -1):
                moved = {k: np.array(v, dtype=np.float64) for k, v in params.items()}
                moved[name].reshape(-1)[i] += sign * step
                sides.append(residuals(moved))
            for t in terms:
                slope = (sides[0][t.name] - sides[1][t.name]) / (2 * step)
                sums[t.name] += float((slope**2).sum()) / slope.shape[1]
    return np.array([sums[t.name] for t in terms])
