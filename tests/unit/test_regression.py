"""Regression on columns of data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.data import Diabetes, Digits, Table
from backends.errors import UserError
from backends.networks import MLP, Network
from backends.ops import NumpyOps
from backends.spec import Points
from backends.task import Context, Parts
from backends.tasks.regression import Regression, RegressionTask

OPS, CONTEXT = NumpyOps(), Context({})


class Linear(Network):
    """w.T h + b: least squares has a closed form for it."""

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, np.ndarray]:
        return {"w": rng.normal(size=(inputs, outputs)), "b": np.zeros(outputs)}

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        return ops.linear(h, params["w"], params["b"])


def made(folder: Path, network: Network | None = None, **fields: object) -> RegressionTask:
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 3, 50), rng.normal(-2, 0.1, 50)
    np.savez(folder / "t.npz", a=a, b=b, y=100 + 20 * a - 3 * b, z=a + b)
    data = Table(path="t.npz", **{"inputs": ["a", "b"], "outputs": ["y"], **fields})
    return Regression().build(Parts(network or Linear(), data=data, folder=folder))


def residuals(task: RegressionTask, params: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> Any:
    return task.per_sample(OPS, params, "data", rows, CONTEXT)["data"]


def fitted(task: RegressionTask) -> dict[str, np.ndarray]:
    """Least squares through the task's own residuals, which are affine in the parameters."""
    rows = task.feed(0).take(0, 1).fixed()["data"]
    zero = {"w": np.zeros((2, 1)), "b": np.zeros(1)}
    base = residuals(task, zero, rows)
    columns = [residuals(task, {**zero, "w": np.eye(2)[:, [i]]}, rows) - base for i in range(2)]
    columns.append(residuals(task, {**zero, "b": np.ones(1)}, rows) - base)
    solved = np.linalg.lstsq(np.stack(columns, 1), -base, rcond=None)[0]
    return {"w": solved[:2, None], "b": solved[2:]}


@pytest.mark.parametrize("standardize", [True, False])
def test_the_parameters_of_least_squares_predict_the_held_out_rows_in_the_units_of_the_data(
    tmp_path: Path, standardize: bool
) -> None:
    task = made(tmp_path, standardize=standardize)
    params, reference = fitted(task), task.reference()
    assert reference is not None
    predicted = task.predict(OPS, params, ["y"], reference.points, CONTEXT)["y"]
    assert np.allclose(predicted, reference.values["y"], rtol=1e-9)
    assert np.abs(residuals(task, params, task.held_out(100)["data"])).max() < 1e-9


def test_standardised_errors_have_the_data_as_their_unit(tmp_path: Path) -> None:
    zero = {"w": np.zeros((2, 1)), "b": np.zeros(1)}
    for standardize, expected in ((True, 1.0), (False, None)):
        task = made(tmp_path, standardize=standardize)
        rows = task.feed(0).take(0, 1).fixed()["data"]
        mean_square = np.mean(residuals(task, zero, rows) ** 2)
        assert np.isclose(mean_square, expected if expected else np.mean(rows["y"] ** 2))


def test_several_outputs_are_one_term_that_adds_their_squares(tmp_path: Path) -> None:
    task = made(tmp_path, MLP(width=4, depth=1), outputs=["y", "z"])
    errors = residuals(task, task.init(np.random.default_rng(0)), task.held_out(3)["data"])
    assert isinstance(errors, tuple)
    assert [e.shape for e in errors] == [(3,), (3,)]
    assert [t.name for t in task.terms] == ["data"]
    assert task.outputs == ("y", "z")


def test_a_declared_scale_replaces_the_deviation_of_an_output(tmp_path: Path) -> None:
    made(tmp_path)
    data = Table(path="t.npz", inputs=["a"], outputs=["y"])
    parts = Parts(Linear(), data=data, folder=tmp_path, scale_fields={"y": 7.0}, scale_coords=False)
    task = Regression().build(parts)
    assert task.scales["y"][1] == 7.0
    assert task.shifts == {}
    with pytest.raises(UserError, match="'u' is no output; allowed here: y"):
        Regression().build(Parts(Linear(), data=data, folder=tmp_path, scale_fields={"u": 7.0}))


def test_a_constant_column_is_only_shifted(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.full(20, 3.0), y=np.arange(20.0))
    task = Regression().build(Parts(Linear(), data=Table(path="c.npz", inputs=["x"], outputs=["y"]), folder=tmp_path))
    assert task.shifts["x"] == (3.0, 1.0)


def test_held_out_rows_are_never_trained_on_and_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    task = made(tmp_path, batch=8)
    trained, held = task.feed(3).take(0, 1).fixed()["data"]["y"], task.held_out(1000)["data"]["y"]
    assert not set(trained) & set(held)
    assert (trained.size, held.size) == (40, 10)
    assert task.held_out(4)["data"]["y"].tolist() == held[:4].tolist()
    assert task.feed(0).take(0, 3).stacked["data"]["index"].shape == (3, 8)


def test_without_held_out_rows_there_is_no_reference_and_the_yardstick_reads_the_training_rows(tmp_path: Path) -> None:
    task = made(tmp_path, holdout=0)
    assert task.reference() is None
    assert task.held_out(1000)["data"]["y"].size == 50


def test_pictures_are_lines_over_one_input_and_scatter_over_several(tmp_path: Path) -> None:
    def predict(names: Any, columns: Any) -> Any:
        return {n: np.zeros(next(iter(columns.values())).size) for n in names}

    (lines,) = made(tmp_path, inputs=["a"]).pictures(predict)
    assert lines.kind == "lines"
    assert np.all(np.diff(lines.axes["a"]) >= 0)
    assert lines.panels.keys() == {"prediction", "reference"}
    first, second = made(tmp_path, outputs=["y", "z"]).pictures(predict)
    assert first.kind == second.kind == "scatter"
    assert first.panels["y"].shape == (10, 3)
    assert len(first.axes) == 2


@pytest.mark.parametrize(
    ("parts", "told", "path"),
    [
        (Parts(Linear()), "give it `data:", "data"),
        (Parts(Linear(), data=Digits()), "reads columns of numbers", "data"),
        (Parts(Linear(), data=Diabetes(), points={"pde": Points(count=3)}), "not points", "points"),
        (Parts(Linear(), data=Diabetes(), constraints="hard"), "no constraints", "constraints"),
        (Parts(Linear(), data=Diabetes(batch=33), workers=2), "2 workers can't share the 33 rows", "data.batch"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_their_place(parts: Parts, told: str, path: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Regression().build(parts)
    assert caught.value.path == path


def test_unknown_names_and_missing_columns_are_answered(tmp_path: Path) -> None:
    task = made(tmp_path)
    params = task.init(np.random.default_rng(0))
    with pytest.raises(UserError, match="'yy' is no output of this regression; did you mean 'y'"):
        task.predict(OPS, params, ["yy"], {"a": np.ones(2), "b": np.ones(2)}, CONTEXT)
    with pytest.raises(UserError, match="the input column 'b' is missing; there are: a"):
        task.predict(OPS, params, ["y"], {"a": np.ones(2)}, CONTEXT)


def test_diabetes_explains_half_of_the_variance_by_least_squares() -> None:
    task = Regression().build(Parts(Linear(), data=Diabetes()))
    rows, reference = task.feed(0).take(0, 1).fixed()["data"], task.reference()
    assert reference is not None
    h = np.stack([(rows[n] - m) / s for n, (m, s) in task.shifts.items()])
    y = (rows["progression"] - task.scales["progression"][0]) / task.scales["progression"][1]
    w = np.linalg.lstsq(h.T, y, rcond=None)[0]
    params = {"w": w[:, None], "b": np.zeros(1)}
    assert np.mean(residuals(task, params, rows) ** 2) < 0.55
    true = reference.values["progression"]
    predicted = task.predict(OPS, params, ["progression"], reference.points, CONTEXT)["progression"]
    assert np.mean((predicted - true) ** 2) < 0.65 * true.var()
