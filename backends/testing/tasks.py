"""Small tasks and feeds that the conformance suite trains; each has what one kind of workload needs.

`LeastSquares` has a known gradient, `Curves` everything else at once (two batches, a vector residual, a loss, an
untrained term, a frozen and a 0-d parameter, state without a gradient), `Kinked` a gradient that is not finite where
its loss is, `Noisy` noise drawn inside the step and rows picked by index.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.randomness import generator, normal
from backends.task import Array, Batches, Columns, Context, Draw, Picture, Reference, Term


@dataclass
class Samples:
    """Samples that change every `every` steps (0: never), and rows drawn by index where `rows` > 0."""

    make: Callable[[int], Batches]
    every: int = 0
    rows: int = 0
    batch: str = ""
    seed: int = 0

    def take(self, step: int, n: int) -> Draw:
        version = step // self.every if self.every else 0
        if not self.rows:
            return Draw(version, lambda: self.make(version))
        count = len(next(iter(self.make(0)[self.batch].values())))
        drawn = [generator(self.seed, "rows", s).integers(0, count, self.rows) for s in range(step, step + n)]
        return Draw(version, lambda: self.make(version), {self.batch: {"index": np.stack(drawn)}})

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        assert not arrays


@dataclass(frozen=True)
class Toy:
    """What the tasks below have in common: fixed samples, no reference, nothing to read or to draw."""

    samples: int = 12
    """Samples of the largest batch."""
    pass_size: int | None = None
    """Samples per pass (`Task.chunk`)."""
    outputs: tuple[str, ...] = ("u",)
    constants: Mapping[str, float] = field(default_factory=lambda: {"shift": 1.0})
    label: str = ""
    """Tasks with different labels share no compiled function."""

    @property
    def signature(self) -> tuple[Hashable, ...]:
        """Everything that shapes a program: `constants` are traced. Lets the checks share compiled functions."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "constants")

    def aux(self) -> dict[str, NDArray[Any]]:
        return {}

    def batches(self, version: int = 0) -> Batches:
        """The training samples of one version."""
        raise TypeError(f"{type(self).__name__} needs a method batches(version)")

    def feed(self, seed: int) -> Samples:
        return Samples(self.batches, seed=seed)

    def held_out(self, count: int) -> Batches:
        return self.batches(999)

    def width(self, batch: str) -> int:
        return 8

    def reduced(self, batch: str) -> bool:
        return False

    def chunk(self, batch: str) -> int | Literal["auto"] | None:
        return self.pass_size

    def reference(self) -> Reference | None:
        return None

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        return {}

    def pictures(self, predict: Any, samples: Batches | None = None) -> list[Picture]:
        return []


@dataclass(frozen=True)
class LeastSquares(Toy):
    """r = x . slope + offset + shift - y: the gradient is known (`gradient`), the minimum too (`minimum`)."""

    terms: tuple[Term, ...] = (Term("fit", "residual", "data"),)

    def batches(self, version: int = 0) -> Batches:
        rng = generator(1, "data", version)
        x = rng.normal(size=(self.samples, 2))
        return {"data": {"x": x, "y": x @ [0.5, -1.5] + 0.3 + 0.1 * rng.normal(size=self.samples)}}

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        return {"slope": rng.normal(size=2), "offset": np.asarray(rng.normal())}

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Array]:
        return {"fit": self._u(ops, params, columns) + context.constants["shift"] - columns["y"]}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> dict[str, Array]:
        return {name: self._u(ops, params, columns) for name in names}

    @staticmethod
    def _u(ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array]) -> Array:
        return ops.matmul(columns["x"], params["slope"]) + params["offset"]

    def gradient(self, params: Mapping[str, NDArray[Any]], shift: float = 1.0) -> dict[str, NDArray[np.float64]]:
        """Of the mean square, at weight 1."""
        data = self.batches()["data"]
        r = data["x"] @ params["slope"] + params["offset"] + shift - data["y"]
        return {"slope": 2 * data["x"].T @ r / self.samples, "offset": np.asarray(2 * r.mean())}

    def minimum(self, shift: float = 1.0) -> NDArray[np.float64]:
        """offset, slope[0], slope[1] of the least-squares solution."""
        data = self.batches()["data"]
        matrix = np.column_stack([np.ones(self.samples), data["x"]])
        return np.asarray(np.linalg.lstsq(matrix, data["y"] - shift, rcond=None)[0], np.float64)


@dataclass(frozen=True)
class Curves(Toy):
    """A small network with two outputs; `energy` enters as it is, `hidden` is only evaluated."""

    terms: tuple[Term, ...] = (
        Term("pair", "residual", "inside"),
        Term("hidden", "residual", "outside", trained=False),
        Term("energy", "loss", "inside"),
        Term("edge", "residual", "ends"),
    )
    counts: bool = False
    """Keep an exponential mean of u and the number of calls in `aux`."""

    def batches(self, version: int = 0) -> Batches:
        rng = generator(2, "points", version)
        n = self.samples
        return {
            "inside": {"t": rng.uniform(-1, 1, n), "kind": rng.integers(0, 2, n)},
            "ends": {"t": rng.uniform(-1, 1, max(n // 3, 2)), "goal": rng.normal(size=max(n // 3, 2))},
        }

    def chunk(self, batch: str) -> int | Literal["auto"] | None:
        return self.pass_size if batch == "inside" else None

    def held_out(self, count: int) -> Batches:
        return {**self.batches(999), "outside": {"t": np.linspace(-1, 1, 7)}}

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        return {
            "net/w0": rng.normal(size=(1, 5)),
            "net/b0": rng.normal(size=5),
            "net/w1": rng.normal(size=(5, 2)) / 2,
            "net/b1": np.zeros(2),
            "frozen/scale": np.asarray([1.5]),
            "rate": np.asarray(0.7),
        }

    def aux(self) -> dict[str, NDArray[Any]]:
        return {"calls": np.zeros((), np.int64), "mean": np.zeros(2)} if self.counts else {}

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Any]:
        u = self._u(ops, params, columns["t"])
        if batch == "outside":
            return {"hidden": u[0] * u[1]}
        if batch == "ends":
            return {"edge": u[0] * context.constants["shift"] - columns["goal"]}
        if self.counts and context.training:
            context.updates["calls"] = context.aux["calls"] + 1
            mean = ops.stop_gradient(ops.mean(u, 1))
            context.updates["mean"] = 0.5 * context.aux["mean"] + 0.5 * mean
        sign = ops.astype(1 - 2 * columns["kind"], u)
        return {
            "pair": (u[0] - ops.sin(3.0 * columns["t"]), params["rate"] * u[1] - sign * columns["t"]),
            "energy": ops.softplus(u[0] * u[1]) + context.constants["shift"] * params["rate"] ** 2,
        }

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> dict[str, Array]:
        u = self._u(ops, params, columns["t"])
        return {name: u[0] if name == "u" else u.T for name in names}

    @staticmethod
    def _u(ops: Any, params: Mapping[str, Array], t: Array) -> Array:
        h = ops.tanh(ops.linear(t[None] * params["frozen/scale"], params["net/w0"], params["net/b0"]))
        return ops.linear(h, params["net/w1"], params["net/b1"])


@dataclass(frozen=True)
class Duel(Toy):
    """Two terms on two groups, as a generator and its critic: `fool` trains the first layer, `judge` the second, and
    `both` all there is."""

    terms: tuple[Term, ...] = (
        Term("fool", "loss", "rows", groups=("maker",)),
        Term("judge", "residual", "rows", groups=("critic",)),
        Term("both", "residual", "more"),
    )

    def batches(self, version: int = 0) -> Batches:
        rng = generator(4, "duel", version)
        x = rng.normal(size=(self.samples, 2))
        return {"rows": {"x": x, "y": np.tanh(x[:, 0])}, "more": {"x": x[:4], "y": x[:4, 1]}}

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        return {
            "maker/w": rng.normal(size=(2, 3)),
            "maker/b": rng.normal(size=3),
            "critic/w": rng.normal(size=(3, 1)),
            "bias": np.asarray(rng.normal()),
        }

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Any]:
        u = self._u(ops, params, columns)
        if batch == "more":
            return {"both": u - context.constants["shift"] * columns["y"]}
        return {"fool": ops.softplus(-u), "judge": u - columns["y"]}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> dict[str, Array]:
        return {name: self._u(ops, params, columns) for name in names}

    @staticmethod
    def _u(ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array]) -> Array:
        h = ops.tanh(ops.linear(columns["x"].T, params["maker/w"], params["maker/b"]))
        return ops.linear(h, params["critic/w"])[0] + params["bias"]


@dataclass(frozen=True)
class Kinked(LeastSquares):
    """Least squares and sqrt(shift |slope|²): at shift = 0 the loss is finite and its gradient is 0/0."""

    terms: tuple[Term, ...] = (Term("fit", "residual", "data"), Term("root", "loss", "data"))

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Array]:
        size = ops.sqrt(context.constants["shift"] * ops.sum(params["slope"] ** 2))
        return {"fit": self._u(ops, params, columns) - columns["y"], "root": size + 0.0 * columns["y"]}


@dataclass(frozen=True)
class Noisy(Toy):
    """Rows picked by index, and noise that depends on (seed, step, row) alone."""

    terms: tuple[Term, ...] = (Term("match", "residual", "rows"), Term("size", "loss", "rows"))
    rows: int = 6
    """Samples per step."""

    def batches(self, version: int = 0) -> Batches:
        rng = generator(3, "rows", version)
        return {"rows": {"x": rng.normal(size=(self.samples, 3)), "row": np.arange(self.samples)}}

    def feed(self, seed: int) -> Samples:
        return Samples(self.batches, rows=self.rows, batch="rows", seed=seed)

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        return {"mix": rng.normal(size=(3, 3)) / 3}

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Any]:
        x = columns["x"].T
        noise = normal(ops, context.key, "noise", columns["row"], 3, x)
        y = ops.matmul(params["mix"], x + 0.1 * noise)
        return {"match": (y[0] - x[0], y[1] - x[1]), "size": ops.sum(y * y, 0) * context.constants["shift"]}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> dict[str, Array]:
        return {name: ops.matmul(params["mix"], columns["x"].T).T for name in names}


def plain(columns: Columns) -> dict[str, NDArray[Any]]:
    """Host copies of columns: what a check keeps to see that nobody wrote into its arrays."""
    return {name: np.array(value) for name, value in columns.items()}
