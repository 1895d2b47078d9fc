"""Every equation that ships is right against its reference, and each reference against an independent solver."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from scipy.integrate import solve_ivp

from backends.errors import UserError
from backends.networks import MLP
from backends.pde.finite_difference import residuals
from backends.pde.problem import Problem
from backends.pde.reference import reference
from backends.task import Parts
from backends.tasks import Burgers, CustomTask, InverseHeat, Poisson, TaskUnion

FINE = 2.5e-4
"""Step of the differences for Burgers' front, whose width is 0.003 of the domain."""


class File(BaseModel):
    task: TaskUnion


def worst(problem: Problem, term: str, **options: Any) -> float:
    (values,) = residuals(problem, term, **options).values()
    return float(np.abs(values).max())


@pytest.mark.parametrize("nu", [0.01 / math.pi, 0.05])
def test_burgers_reference_satisfies_its_equation_and_conditions(nu: float):
    problem = Burgers(nu=nu)
    assert worst(problem, "pde", step=FINE) < 2e-5, "u_t and u u_x reach 100 where the front steepens"
    assert worst(problem, "ic") < 1e-12
    assert worst(problem, "bc") < 1e-12


def test_a_wrong_viscosity_is_noticed_by_the_differences():
    right = Burgers()
    assert worst(Burgers(nu=1.05 * right.nu), "pde", step=FINE, solution=right.solution) > 0.05


def spectral(nu: float, times: list[float], modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Burgers by sine series: u = sum_k b_k(t) sin(k pi x), products by FFT, 2/3 of the modes kept."""
    n = 2 * modes
    x = -1 + 2 * np.arange(n) / n
    k = np.pi * np.arange(modes + 1)
    kept = np.arange(modes + 1) < 2 * modes / 3

    def change(t: float, v: np.ndarray) -> np.ndarray:
        u = np.fft.irfft(1j * v, n)
        return -0.5 * k * np.fft.rfft(u * u).real * kept - nu * k**2 * v

    start = np.fft.rfft(-np.sin(np.pi * x)).imag
    found = solve_ivp(change, (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-9, method="DOP853")
    return x, np.array([np.fft.irfft(1j * v, n) for v in found.y.T])


def test_burgers_reference_agrees_with_a_spectral_solver():
    times = [0.1, 0.3, 0.5, 1.0]
    nu = 0.02
    x, u = spectral(nu, times, 128)
    for t, row in zip(times, u, strict=True):
        exact = Burgers(nu=nu).solution({"t": np.full(len(x), t), "x": x})["u"]
        np.testing.assert_allclose(exact, row, atol=1e-7)


@pytest.mark.parametrize("nu", [0.5, 0.01 / math.pi, 1e-4])
def test_burgers_reference_is_converged_at_every_viscosity(nu: float, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    points = {"t": rng.uniform(0, 1, 200), "x": rng.uniform(-1, 1, 200)}
    usual = Burgers(nu=nu).solution(points)["u"]
    monkeypatch.setattr("backends.tasks.burgers.SPACING", 0.05)
    monkeypatch.setattr("backends.tasks.burgers.MARGIN", 9.0)
    np.testing.assert_allclose(usual, Burgers(nu=nu).solution(points)["u"], atol=1e-11)


def test_burgers_is_measured_on_the_published_grid():
    known = reference(Burgers())
    assert known is not None
    assert dict(zip(known.axes, known.shape, strict=True)) == {"t": 100, "x": 256}
    u = known.values["u"].reshape(known.shape)
    np.testing.assert_allclose(u[0], -np.sin(math.pi * np.linspace(-1, 1, 256)), atol=1e-14)
    np.testing.assert_allclose(u, -u[:, ::-1], atol=1e-12, err_msg="odd in x")
    assert np.abs(u).max() <= 1.0


@pytest.mark.parametrize("k", [1, 4])
def test_poissons_equation_holds_for_its_reference(k: int):
    problem = Poisson(k=k)
    scale = math.sqrt(problem.source_square)
    assert worst(problem, "pde") < 1e-10 * scale
    assert worst(problem, "bc") < 1e-13
    assert worst(Poisson(k=k + 1), "pde", solution=problem.solution) > scale
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 100_000))
    source = 2 * (k * math.pi) ** 2 * problem.solution({"x": x, "y": y})["u"]
    assert np.mean(source**2) == pytest.approx(problem.source_square, rel=0.02)


def test_the_inverse_heat_problem_is_solved_by_its_true_diffusivity_only():
    problem = InverseHeat(noise=0.0)
    for term in ("pde", "ic", "bc", "data"):
        assert worst(problem, term) < 1e-9
    assert worst(problem, "pde", unknowns={"kappa": 0.31}) > 0.01
    assert worst(InverseHeat(noise=0.5), "data") > 0.5, "measurements have errors"
    task = InverseHeat(true_kappa=0.5, guess=2.0).build(Parts(MLP(width=4, depth=1)))
    assert task.readings(task.init(np.random.default_rng(0))) == {"unknown/kappa": 2.0, "error/kappa": 3.0}
    assert task.constants == {}, "neither the truth nor the noise is a live value of a term"


@pytest.mark.parametrize("kind", ["burgers", "poisson", "inverse_heat"])
@pytest.mark.parametrize("constraints", ["soft", "hard"])
def test_every_problem_builds_under_soft_and_hard_constraints(kind: str, constraints: Any):
    task = File.model_validate({"task": {"kind": kind}}).task.build(Parts(MLP(width=4, depth=1), constraints))
    assert {t.name for t in task.terms} == set(task.problem.declared())
    assert any(not t.trained for t in task.terms) == (constraints == "hard")


# --- a problem of the user's own -----------------------------------------------------------------------------

FISHER = '''"""Fisher-KPP: a population that spreads as a travelling wave (Ablowitz and Zeppetella, 1979)."""

import numpy as np
from pydantic import PositiveFloat

from backends.pde.problem import Problem, hard, residual

SPEED = 5 / np.sqrt(6)


class Fisher(Problem):
    """u_t = d u_xx + r u (1 - u), with the exact wave u = 1 / (1 + exp((x - c t) / sqrt(6)))^2 for d = r = 1."""

    d: PositiveFloat = 1.0
    r: PositiveFloat = 1.0
    length: PositiveFloat = 5.0
    coords = {"t": (0, 1), "x": (0, "length")}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        u, u_t, u_xx = f("u", "u_t", "u_xx")
        return u_t - self.d * u_xx - self.r * u * (1 - u)

    @residual(t=0)
    def ic(self, f):
        return f("u") - f("exact_u")

    @residual(x="ends")
    def bc(self, f):
        return f("u") - f("exact_u")

    def solution(self, points):
        return {"u": (1 + np.exp((points["x"] - SPEED * points["t"]) / np.sqrt(6))) ** -2}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FISHER)
    return tmp_path


def custom(folder: Path, **task: Any) -> CustomTask:
    found = File.model_validate({"task": {"kind": "custom", **task}}, context={"folder": folder}).task
    assert isinstance(found, CustomTask)
    return found


def test_a_users_problem_of_forty_lines_names_no_framework_and_is_proved_by_its_reference(folder: Path):
    assert len(FISHER.splitlines()) <= 40
    assert not any(word in FISHER for word in ("jax", "torch"))
    spec = custom(folder, target="mine.py:Fisher")
    problem = spec.own
    assert isinstance(problem, Problem)
    for term in ("pde", "ic", "bc"):
        assert worst(problem, term) < 1e-9
    assert worst(type(problem)(r=1.1), "pde") > 0.01
    task = spec.build(Parts(MLP(width=4, depth=1), workers=2))
    assert task.constants == {"d": 1.0, "r": 1.0}
    assert [t.name for t in task.terms] == ["pde", "ic", "bc"]


def test_the_fields_of_a_users_problem_are_set_in_the_file_and_written_out_with_their_defaults(folder: Path):
    spec = custom(folder, target="mine.py:Fisher", r=2)
    assert spec.model_dump(mode="json") == {
        "kind": "custom",
        "target": "mine.py:Fisher",
        "d": 1.0,
        "r": 2.0,
        "length": 5.0,
    }
    assert custom(folder, **{k: v for k, v in spec.model_dump().items() if k != "kind"}) == spec


@pytest.mark.parametrize(
    ("task", "loc", "message"),
    [
        ({"target": "mine.py:Fisher", "r": -1}, "r", "greater than 0"),
        ({"target": "mine.py:Fisher", "r": True}, "r", "must be a number, not true or false"),
        ({"target": "mine.py:Fisher", "lenght": 2}, "lenght", "unknown setting of Fisher; did you mean 'length'?"),
        ({"target": "mine.py:Fischer"}, "target", "mine.py has no 'Fischer'; did you mean 'Fisher'?"),
        ({"target": "mime.py:Fisher"}, "target", "did you mean 'mine.py'?"),
        ({"target": "mine.py:SPEED"}, "target", "it must be a class derived from orchestrator.Problem"),
        ({"target": "mine.py:Problem"}, "target", "Problem has no terms"),
        ({"target": "mine.py"}, "target", "write 'mine.py:Name'"),
        ({}, "target", "Field required"),
    ],
)
def test_mistakes_about_a_users_problem_are_placed_at_their_key(folder: Path, task: dict, loc: str, message: str):
    with pytest.raises(ValidationError) as caught:
        custom(folder, **task)
    (error,) = caught.value.errors()
    assert error["loc"] == ("task", "custom", loc)
    assert message in error["msg"]


def test_every_mistake_in_a_users_settings_is_reported_at_once(folder: Path):
    with pytest.raises(ValidationError) as caught:
        custom(folder, target="mine.py:Fisher", r=-1, d="1", speed=3)
    assert {e["loc"][-1] for e in caught.value.errors()} == {"r", "d", "speed"}


def test_a_users_problem_may_be_given_from_python(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "mine.py").rename(folder / "population.py")
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("population")
    monkeypatch.setitem(sys.modules, "population", module)
    problem = module.Fisher(r=3.0)
    spec = File(task=problem).task
    assert isinstance(spec, CustomTask)
    assert type(spec.own) is module.Fisher, "the class of this process, not a second copy"
    assert Path(spec.target.rpartition(":")[0]) == folder / "population.py"
    assert spec.model_dump()["r"] == 3.0
    assert File(task=Burgers(nu=0.1)).task == Burgers(nu=0.1)

    class Hidden(module.Fisher):
        pass

    with pytest.raises(UserError, match="Hidden is defined inside a function"):
        File(task=Hidden())
