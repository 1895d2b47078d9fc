"""The figures of a PDE task: solution, reference and error, residual, points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.names import EXACT, SHARE, WEIGHT
from backends.pde.domain import beyond
from backends.pde.parameters import middle, parameters
from backends.pde.reference import DEFAULT_GRID, grid, solved
from backends.task import Batches, Columns, Picture, Predict, Reference

if TYPE_CHECKING:
    from backends.pde.problem import Problem
    from backends.pde.task import PdeTask

SHOWN = 100
"""Grid points per coordinate of a figure that is a cut through more than two coordinates."""
NAMED = 4
"""Coordinates off a cut that its title names."""


def pictures(task: PdeTask, predict: Predict, samples: Batches | None) -> list[Picture]:
    """Prediction, reference and error of each field; |residual| inside the box; the points, coloured by it."""
    problem = task.problem
    axes, points, known = _canvas(task)
    shape = tuple(map(len, axes.values()))
    terms = task.inside()
    here = ~beyond(problem, points)
    inside = {c: v[here] for c, v in points.items()}
    if terms:
        inside = with_exact(task, inside)
    found = predict([*problem.fields, *(f"residual/{t}" for t in terms)], inside)
    found = {name: _masked(values, here) for name, values in found.items()}
    out = []
    for name in problem.fields:
        panels = {"prediction": found[name].reshape(shape)}
        if name in known:
            panels["reference"] = known[name].reshape(shape)
            panels["error"] = panels["prediction"] - panels["reference"]
        title = "solution" if len(problem.fields) == 1 else f"solution_{name}"
        out.append(Picture(title, "field", panels, axes, _cut(points, axes, name)))
    if terms:
        sizes = {f"|{t}|": np.abs(found[f"residual/{t}"]).reshape(shape) for t in terms}
        out.append(Picture("residual", "field", sizes, axes, _cut(points, axes, "residual")))
    out += _misfits(task, predict)
    drawn = _points(task, predict, samples or {}, tuple(axes))
    return [*out, drawn] if drawn else out


def _masked(values: NDArray[np.float64], here: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of some points in their places among all, NaN elsewhere."""
    out = np.full(len(here), np.nan)
    out[here] = values
    return out


def with_exact(task: PdeTask, points: Columns) -> Columns:
    """The points with the columns `exact_<field>` that terms inside the box read."""
    wanted = {f for r in task.recordings.values() if r.region.interior for f in r.exact}
    if not wanted:
        return points
    known = solved(task.problem, points)
    return {**points, **{EXACT + f: known[f] for f in wanted}}


def _canvas(task: PdeTask) -> tuple[dict[str, NDArray[np.float64]], Columns, Mapping[str, NDArray[np.float64]]]:
    """Axes, points and reference values of the figures: the reference grid, or a plane through more coordinates."""
    problem, known = task.problem, task.reference()
    box, shown = problem.box(), _shown(problem)
    few = len(box) - len(parameters(problem)) <= 2
    if known and known.shape and (few or task.given):
        return _plane(known, shown, problem.time)
    counts = {c: problem.reference_grid.get(c, DEFAULT_GRID[len(shown)]) if few else SHOWN for c in shown}
    axes = {c: np.linspace(*box[c], counts[c]) for c in shown}
    points = grid(axes)
    rows = len(next(iter(points.values())))
    points |= {c: np.full(rows, value) for c, value in _held(problem, shown).items()}
    points = {c: points[c] for c in box}
    if not known or task.given:
        return axes, points, {}
    here = ~beyond(problem, points)
    values = solved(problem, {c: v[here] for c, v in points.items()})
    return axes, points, {name: _masked(v, here) for name, v in values.items()}


def _shown(problem: Problem) -> list[str]:
    """The axes of the figures: all coordinates but parameters, or the first two in space."""
    real = [c for c in problem.coords if c not in parameters(problem)]
    return real if len(real) <= 2 else [c for c in real if c != problem.time][:2]


def _plane(
    known: Reference, shown: list[str], time: str
) -> tuple[dict[str, NDArray[np.float64]], Columns, Mapping[str, NDArray[np.float64]]]:
    """The plane of a gridded reference that figures show: time at its end, others in their middle."""
    pick = tuple(
        slice(None) if c in shown else n - 1 if c == time else n // 2
        for c, n in zip(known.axes, known.shape, strict=True)
    )
    points = {c: v.reshape(known.shape)[pick].ravel() for c, v in known.points.items()}
    values = {n: v.reshape(known.shape)[pick].ravel() for n, v in known.values.items()}
    return {c: np.unique(points[c]) for c in known.axes if c in shown}, points, values


def _misfits(task: PdeTask, predict: Predict) -> list[Picture]:
    """Where the points of a reference are scattered: the error at each of them."""
    known = task.given
    if known is None or known.shape:
        return []
    names = list(task.problem.coords)
    names = names[:2] if len(names) <= 2 else _shown(task.problem)
    found = predict(list(known.values), known.points)
    panels = {}
    for name, value in known.values.items():
        error = found[name] - value
        up = known.points[names[1]] if len(names) > 1 else error
        panels[f"error of {name}"] = np.stack([known.points[names[0]], up, error], 1)
    axes = names if len(names) > 1 else [*names, "error"]
    return [Picture("error", "scatter", panels, {n: np.empty(0) for n in axes}, "error at the reference's points")]


def _held(problem: Problem, shown: Any) -> dict[str, float]:
    """Where a figure cuts the coordinates that it does not show: time at its end, others in their middle."""
    held = {c: bounds for c, bounds in problem.box().items() if c not in shown}
    return {c: high if c == problem.time else middle(problem, c) for c, (_, high) in held.items()}


def _cut(points: Columns, axes: Mapping[str, Any], what: str) -> str:
    held = [f"{c} = {v[0]:g}" for c, v in points.items() if c not in axes and "_" not in c]
    more = f" and {len(held) - NAMED} more" if len(held) > NAMED else ""
    return f"{what} at {', '.join(held[:NAMED])}{more}" if held else what


def _points(task: PdeTask, predict: Predict, samples: Batches, shown: tuple[str, ...]) -> Picture | None:
    """The present training points that count: those inside the box, and of every set that changes or is weighed.

    Coloured by the root of the sum of their squared residuals, and again by their weights where they have some. Of more
    than two coordinates it is a projection onto those that the other figures show.
    """
    first, *rest = shown
    panels: dict[str, NDArray[np.float64]] = {}
    for batch, recording in task.recordings.items():
        sampling = task.sets.samplings.get(batch)
        changes = sampling is not None and (sampling.adapt is not None or batch in task.pointwise)
        if batch not in samples or not (recording.region.interior or changes) or recording.reduced:
            continue
        given = samples[batch]
        columns = {c: v[given[SHARE] > 0] for c, v in given.items()} if SHARE in given else given
        found = predict([f"residual/{t}" for t in recording.names], columns)
        size = np.sqrt(sum(np.square(v) for v in found.values()))
        where = "" if recording.region.interior else f", {batch}"
        values = {f"{len(size)} points{where}": size}
        if WEIGHT in columns:
            values[f"weights{where}"] = columns[WEIGHT]
        for title, value in values.items():
            panels[title] = np.stack([columns[first], columns[rest[0]] if rest else value, value], 1)
    if not panels:
        return None
    names = shown if rest else (first, "value")
    others = [c for c in task.problem.coords if c not in shown]
    title = f"points, along {', '.join(others)}" if others else "points"
    return Picture("points", "scatter", panels, {name: np.empty(0) for name in names}, title)
