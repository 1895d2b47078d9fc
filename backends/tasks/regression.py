"""Regression: a network from the input columns of a data set to its output columns."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from backends.data import BatchFeed, Diabetes, Samples, Table
from backends.errors import UserError, nearest
from backends.networks.network import Network
from backends.spec import structure
from backends.task import Array, Batches, Columns, Context, Parts, Picture, Predict, Reference, TaskSpec, Term

BATCH = "data"


class Regression(TaskSpec):
    """Least squares: one term `data`, the mean over the rows of the squared errors, added over the outputs.

    With `standardize` errors are measured in standard deviations of each output.
    """

    term_names: ClassVar = ("data",)
    kind: Literal["regression"] = "regression"

    def build(self, parts: Parts) -> RegressionTask:
        """The task. Raises UserError where there is no table of data, or a part has no meaning here."""
        if not isinstance(parts.data, Diabetes | Table):
            raise UserError(
                "the task 'regression' reads columns of numbers; give it `data: {kind: table, path: …, inputs: […], "
                "outputs: […]}` or `data: {kind: diabetes}`",
                path="data",
            )
        rows_not_points(parts, "regression")
        samples = parts.data.load(parts.folder)
        samples.shared_by(parts.workers)
        for name in parts.scale_fields:
            if name not in samples.outputs:
                raise UserError(f"{name!r} is no output{nearest(name, samples.outputs)}", path=f"scaling.fields.{name}")
        scales = standardisation(samples, samples.outputs)
        scales |= {name: (scales.get(name, (0.0, 1.0))[0], s) for name, s in parts.scale_fields.items()}
        shifts = standardisation(samples, samples.inputs) if parts.scale_coords else {}
        return RegressionTask(parts.network, samples, shifts, scales)


def rows_not_points(parts: Parts, kind: str) -> None:
    """Raises UserError where the file says something that only a PDE can obey."""
    if parts.points or parts.adapt:
        raise UserError(f"the task {kind!r} draws rows of `data`, not points; remove `points`", path="points")
    if parts.reference:
        raise UserError(
            f"the task {kind!r} is measured on held-out rows of `data`; remove `reference`", path="reference"
        )
    if parts.constraints == "hard":
        raise UserError(f"the task {kind!r} has no constraints; remove `constraints: hard`", path="constraints")


def standardisation(samples: Samples, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Column -> (mean, deviation) over the training rows; a constant column has deviation 1. Empty if not asked for."""
    if not samples.standardize:
        return {}
    columns = {name: samples.columns[name][samples.training] for name in names}
    return {name: (float(v.mean()), float(v.std()) or 1.0) for name, v in columns.items()}


@dataclass(frozen=True)
class RegressionTask:
    """Regression on given rows (a `backends.task.Task`)."""

    network: Network
    samples: Samples
    shifts: Mapping[str, tuple[float, float]]
    """Input -> (mean, deviation) that it is reduced by before the network reads it."""
    scales: Mapping[str, tuple[float, float]]
    """Output -> (mean, deviation) of the data: the network predicts the reduced number."""
    terms: tuple[Term, ...] = (Term("data", "residual", BATCH),)
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[Hashable, ...] | None:
        """Everything that shapes a program; None where an own network keeps more than fields."""
        network, columns = structure(self.network), (self.samples.inputs, self.samples.outputs)
        scaling = (tuple(sorted(self.shifts.items())), tuple(sorted(self.scales.items())))
        return None if network is None else (network, columns, scaling)

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.samples.outputs

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        return self.network.init(rng, len(self.samples.inputs), len(self.samples.outputs))

    def aux(self) -> dict[str, NDArray[Any]]:
        return self.network.aux()

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Mapping[str, Array]:
        """The errors of all outputs, reduced: (network - (y - mean) / deviation), [samples] each."""
        out = self._network(ops, params, columns, context)
        errors = tuple(u - _reduced(columns[name], self.scales.get(name)) for name, u in out.items())
        return {"data": errors[0] if len(errors) == 1 else errors}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> Mapping[str, Array]:
        """Outputs by name in the units of the data, [samples] each."""
        for name in names:
            if name not in self.outputs:
                raise UserError(f"{name!r} is no output of this regression{nearest(name, self.outputs)}")
        out = self._network(ops, params, columns, context)
        return {name: out[name] * deviation + mean for name in names for mean, deviation in [self._scale(name)]}

    def width(self, batch: str) -> int:
        return max(self.network.widest(), len(self.samples.inputs))

    def reduced(self, batch: str) -> bool:
        return False

    def chunk(self, batch: str) -> Literal["auto"]:
        return "auto"

    def feed(self, seed: int) -> BatchFeed:
        return self.samples.feed(BATCH, seed)

    def held_out(self, count: int) -> Batches:
        return {BATCH: self.samples.validation(count)}

    def reference(self) -> Reference | None:
        """All held-out rows; None where none are held out."""
        if not self.samples.held_out.size:
            return None
        rows = self.samples.rows(self.samples.held_out)
        return Reference({n: rows[n] for n in self.samples.inputs}, {n: rows[n] for n in self.outputs})

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        return {}

    def pictures(self, predict: Predict, samples: Batches | None = None) -> list[Picture]:
        """Held-out rows: prediction and data over the input where there is one, else predicted against true values."""
        rows = self.samples.validation()
        inputs = self.samples.inputs
        if len(inputs) == 1:
            order = np.argsort(rows[inputs[0]], kind="stable")
            rows = {name: values[order] for name, values in rows.items()}
        predicted = predict(self.outputs, {n: rows[n] for n in inputs})
        if len(inputs) == 1:
            return [_over_input(inputs[0], n, rows, predicted[n]) for n in self.outputs]
        return [_against_truth(n, rows[n], predicted[n]) for n in self.outputs]

    def _network(
        self, ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array], context: Context
    ) -> dict[str, Array]:
        """Output -> the network's reduced number, [samples]."""
        for name in self.samples.inputs:
            if name not in columns:
                raise UserError(f"the input column {name!r} is missing; there are: {', '.join(columns)}")
        h = ops.stack([_reduced(columns[name], self.shifts.get(name)) for name in self.samples.inputs])
        return dict(zip(self.outputs, ops.unstack(self.network.bound(context).apply(ops, params, h)), strict=True))

    def _scale(self, name: str) -> tuple[float, float]:
        return self.scales.get(name, (0.0, 1.0))


def _reduced(column: Array, scale: tuple[float, float] | None) -> Array:
    return column if scale is None else (column - scale[0]) / scale[1]


def _over_input(name: str, output: str, rows: Columns, predicted: NDArray[np.float64]) -> Picture:
    return Picture(
        name=output,
        kind="lines",
        panels={"prediction": predicted, "reference": rows[output]},
        axes={name: rows[name]},
        title=f"{output}: prediction and data, held-out rows",
    )


def _against_truth(output: str, true: NDArray[np.float64], predicted: NDArray[np.float64]) -> Picture:
    """x is the true value, y the predicted one, the colour how far they are apart."""
    return Picture(
        name=output,
        kind="scatter",
        panels={output: np.stack([true, predicted, np.abs(predicted - true)], axis=1)},
        axes={f"{output} (data)": np.empty(0), f"{output} (prediction)": np.empty(0)},
        title=f"{output}: predicted against true values, held-out rows",
    )
