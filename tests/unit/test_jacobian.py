"""The Jacobian of the residuals, row by row: those of central differences, on both backends, however it is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import backends
from backends.errors import MissingBackend, UserError
from backends.networks import MLP, FourierFeatures, ModifiedMLP
from backends.ops import NumpyOps
from backends.randomness import generator
from backends.spec import Points
from backends.stages import GaussNewton
from backends.task import Array, Context, Parts, Term, trainable
from backends.tasks.inverse_heat import InverseHeat
from backends.tasks.kovasznay import Kovasznay
from backends.testing.setup import all_close, build, table
from backends.testing.tasks import Curves, LeastSquares, Noisy

MODE: dict[str, Any] = {"jax": "auto", "torch": "never"}
BACKENDS = pytest.mark.parametrize("name", backends.NAMES)


def module(name: str) -> ModuleType:
    try:
        return backends.load(name)
    except MissingBackend as missing:
        pytest.skip(str(missing))


def jax_rows(task: Any, params: Mapping[str, Any], weights: Mapping[str, float]) -> tuple[Any, Any, Any]:
    """(J, rho, J'J v) for v = 1, 2, 3, … by the JAX backend."""
    module("jax")
    from functools import partial

    import jax.numpy as jnp

    from backends.jax.gradient import flat, unflat
    from backends.jax.jacobian import blocks, jacobian
    from backends.jax.program import programs
    from backends.protocol import Settings

    (program,) = programs(task, [GaussNewton(steps=1)], Settings())
    free, held = program.split({k: jnp.asarray(v) for k, v in params.items()})
    context = Context(program.numbers(task.constants), program_aux(task, jnp.asarray))
    batches = {
        b: {k: jnp.asarray(v) for k, v in columns.items()} for b, columns in task.feed(0).take(0, 1).fixed().items()
    }
    found = blocks(program, partial(unflat, like=free), held, program.numbers(weights), context, batches)
    x = flat(free)
    product = sum(block.product(x, jnp.arange(1.0, x.size + 1)) for block in found)
    return *map(np.asarray, jacobian(found, x)), np.asarray(product)


def program_aux(task: Any, put: Any) -> dict[str, Any]:
    return {name: put(value) for name, value in task.aux().items()}


def torch_rows(task: Any, params: Mapping[str, Any], weights: Mapping[str, float]) -> tuple[Any, Any, Any]:
    """The same by the torch backend, recorded and not."""
    module("torch")
    import torch

    from backends.protocol import World, columns_of
    from backends.task import trained_terms
    from backends.torch.jacobian import Residuals, residuals
    from backends.torch.layout import Layout
    from backends.torch.objective import Objective, Row

    stage, layout = GaussNewton(steps=1), Layout.of(params)
    row = Row(columns_of(stage, task, None))
    objective = Objective(task, trained_terms(task.terms), layout, row, World())
    numbers = {f"weight/{k}": v for k, v in weights.items()} | {f"task/{k}": v for k, v in task.constants.items()}
    line = torch.tensor([*(numbers.get(name, 0.0) for name in row.names), 0.0], dtype=torch.float64)
    frozen = {k: torch.tensor(v) for k, v in params.items() if not trainable(k)}
    x, J, rho = torch.tensor(layout.flat(params)), [], []
    v, product = torch.arange(1.0, layout.size + 1, dtype=torch.float64), torch.zeros(layout.size, dtype=torch.float64)
    for batch, columns in task.feed(0).take(0, 1).fixed().items():
        given = {k: torch.tensor(c) for k, c in columns.items()}
        count = len(next(iter(columns.values())))
        if residuals(objective, batch):
            aux = program_aux(task, torch.tensor)
            here = Residuals(objective, batch, count, frozen, aux, line, torch.tensor(0))
            for into, value in zip((J, rho), here.rows(x, given), strict=True):
                into.append(value)
            product += here.product(x, v, given)
    return torch.cat(J).numpy(), torch.cat(rho).numpy(), product.numpy()


ROWS = {"jax": jax_rows, "torch": torch_rows}


def expected(task: Any, params: Mapping[str, Any], weights: Mapping[str, float]) -> tuple[Any, Any]:
    """(J, rho) in numpy, J by central differences."""
    kinds = {t.name: t.kind for t in task.terms if t.trained}

    def rho(at: Mapping[str, Any]) -> NDArray[np.float64]:
        pieces = []
        for batch, columns in task.feed(0).take(0, 1).fixed().items():
            values = task.per_sample(NumpyOps(), dict(at), batch, columns, Context(task.constants, task.aux()))
            rows = len(next(iter(columns.values())))
            parts = [
                p * np.sqrt(weights[name] * ((1 if np.ndim(p) else rows) / rows))
                for name, value in values.items()
                if kinds.get(name) == "residual"
                for p in (value if isinstance(value, tuple) else (value,))
            ]
            if parts:
                # On the backends residuals of one sample stand together.
                pieces.append(
                    np.concatenate([np.reshape(p, -1) for p in parts])
                    if task.reduced(batch)
                    else np.stack(parts, 1).ravel()
                )
        return np.concatenate(pieces)

    columns = []
    for name in sorted(k for k in params if trainable(k)):
        for i in range(np.size(params[name])):
            ends = []
            for sign in (1, -1):
                moved = {k: np.array(v, np.float64) for k, v in params.items()}
                moved[name].reshape(-1)[i] += sign * 1e-5
                ends.append(rho(moved))
            columns.append((ends[0] - ends[1]) / 2e-5)
    return np.stack(columns, 1), rho(params)


@dataclass(frozen=True)
class Conserving(LeastSquares):
    """A term that reduces itself beside one that does not."""

    terms: tuple[Term, ...] = (Term("fit", "residual", "data"), Term("mass", "residual", "data"))

    def reduced(self, batch: str) -> bool:
        return True

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> dict[str, Array]:
        u = self._u(ops, params, columns)
        return {"fit": ops.sin(u) - columns["y"], "mass": ops.mean(u * u) - context.constants["shift"]}


CASES = {
    "two outputs, a loss beside": Curves(),
    "self-reducing": Conserving(),
    "unknown constant, Fourier": InverseHeat().build(
        Parts(MLP(width=4, depth=2, features=FourierFeatures(count=3)), points={"pde": Points(count=6)})
    ),
    "several fields, gates": Kovasznay().build(Parts(ModifiedMLP(width=4, depth=1), points={"pde": Points(count=5)})),
    "hard": Kovasznay().build(Parts(MLP(width=4, depth=2), constraints="hard", points={"pde": Points(count=5)})),
}


@BACKENDS
@pytest.mark.parametrize("case", CASES)
def test_rows_and_products_are_those_of_central_differences(name: str, case: str) -> None:
    task = CASES[case]
    params = task.init(generator(0, "init"))
    weights = {t.name: 0.5 + 0.25 * i for i, t in enumerate(t for t in task.terms if t.trained)}
    J, rho, product = ROWS[name](task, params, weights)
    wanted, residuals = expected(task, params, weights)
    np.testing.assert_allclose(rho, residuals, rtol=1e-9, atol=1e-9 * np.abs(residuals).max())
    np.testing.assert_allclose(J, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(product, J.T @ (J @ np.arange(1.0, J.shape[1] + 1)), rtol=1e-9)


@BACKENDS
def test_passes_and_solvers_give_the_same_steps(name: str) -> None:
    paths = []
    for task, solvers in ((Curves(), ("samples", "cg")), (Curves(pass_size=4), ("dense",))):
        for solver in solvers:
            stage = GaussNewton(steps=5, solver=solver, momentum=0.2)  # type: ignore[arg-type]
            backend = build(module(name), task, [stage], compile=MODE[name])
            state, steps = backend.step(backend.init(0), 5, table(task, stage, 5), task.feed(0), 0)
            assert steps.ok.all() and (np.diff(steps.readings["stage/iterations"]) == 1).all()
            paths.append(backend.parameters(state))
    for other in paths[1:]:
        all_close(other, paths[0], "another way to the same step", rtol=1e-6)


@BACKENDS
def test_a_task_that_draws_noise_or_keeps_statistics_is_refused_but_by_cg(name: str) -> None:
    for task, solvers in ((Noisy(), ("dense", "cg")), (Curves(counts=True), ("dense",))):
        for solver in solvers:
            stage = GaussNewton(steps=5, solver=solver)  # type: ignore[arg-type]
            backend = build(module(name), task, [stage], compile=MODE[name])
            state, knobs = backend.init(0), table(task, stage, 2)
            if solver == "cg":
                assert backend.step(state, 2, knobs, task.feed(0), 0)[1].ok.all()
            else:
                with pytest.raises(UserError, match="differentiates every residual by itself.*`solver: cg`"):
                    backend.step(state, 2, knobs, task.feed(0), 0)


@BACKENDS
def test_a_loss_without_residuals_is_refused(name: str) -> None:
    @dataclass(frozen=True)
    class Energies(LeastSquares):
        terms: tuple[Term, ...] = (Term("fit", "loss", "data"),)

    with pytest.raises(UserError, match=r"minimises a sum of squared residuals.*`kind: lbfgs`"):
        build(module(name), Energies(), [GaussNewton(steps=5)])


def test_a_users_module_on_torch_goes_row_by_row() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 4)
            self.outer = torch.nn.Linear(4, 1)

        def forward(self, h: Any) -> Any:
            return self.outer(torch.tanh(self.inner(h)))

    network = module("torch").adapt(lambda **_: Net(), {})
    task = InverseHeat().build(Parts(network, points={"pde": Points(count=6)}))
    params = task.init(generator(0, "init"))
    weights = {t.name: 1.0 for t in task.terms if t.trained}
    J, rho, _ = torch_rows(task, params, weights)
    assert J.shape == (len(rho), sum(np.size(v) for v in params.values()))
    gradient = 2 * J.T @ rho
    backend = build(module("torch"), task, [GaussNewton(steps=3)], compile="never")
    knobs = table(task, GaussNewton(steps=3), 1)[0]
    found = backend.probe(backend.init(0), frozenset({"gradient"}), task.feed(0), 0, knobs)["gradient"]
    np.testing.assert_allclose(gradient, found, rtol=1e-9, atol=1e-12)
