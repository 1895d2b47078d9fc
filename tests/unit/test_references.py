"""Reference solutions that are computed: against other grids, other methods and published values."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from test_problems import worst

from backends.errors import UserError
from backends.networks import MLP
from backends.pde.finite_difference import residuals
from backends.pde.reference import reference
from backends.task import Parts
from backends.tasks import (
    Cavity,
    HeatLayers,
    KuramotoSivashinsky,
    Lorenz,
    WaveLayers,
)
from backends.tasks import cavity_solver as cavities
from backends.tasks import ginzburg_landau as ginzburg
from backends.tasks import gray_scott as gray
from backends.tasks import kuramoto_sivashinsky as kuramoto
from backends.tasks import schroedinger as schroedinger_
from backends.tasks.burgers_2d import patch
from backends.tasks.layered import MODES, decay_rate
from backends.tasks.spectral_nd import Evolution, etdrk4
from backends.tasks.stored import stored


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cavity on a small grid: its own tests say how far off that is."""
    monkeypatch.setattr("backends.tasks.cavity.flow", partial(cavities.flow, cells=16))


# --- the solver of periodic systems ---


def test_the_solver_turns_a_plane_wave_of_the_cubic_schroedinger_equation():
    """h = a exp(i (k·x - (k²/2 - a²) t)) solves i h_t + lap h / 2 + |h|² h = 0, in two dimensions as in one."""
    n, a, k = 16, 0.7, (2.0, -3.0)
    x, y = np.meshgrid(*[2 * math.pi * np.arange(n) / n] * 2, indexing="ij")
    found = etdrk4(
        a * np.exp(1j * (k[0] * x + k[1] * y))[None],
        low=(0.0, 0.0),
        length=(2 * math.pi, 2 * math.pi),
        end=2.0,
        steps=200,
        linear=lambda square: [-0.5j * square],
        nonlinear=lambda h: 1j * np.abs(h) ** 2 * h,
        every=10,
    )
    rng = np.random.default_rng(0)
    t, x, y = rng.uniform(0, 2, 30), *rng.uniform(0, 2 * math.pi, (2, 30))
    exact = a * np.exp(1j * (k[0] * x + k[1] * y - (6.5 - a**2) * t))
    np.testing.assert_allclose(found(t, x, y)[0], exact, atol=1e-8)


def test_values_on_a_grid_and_at_scattered_points_are_the_same():
    modes = np.random.default_rng(0).normal(size=(9, 2, 5, 7)).astype(np.complex128)
    found = Evolution((0.0, -1.0), (1.0, 2.0), 1.0, modes, np.zeros((2, 5, 7)))
    t, x, y = (c.ravel() for c in np.meshgrid([0.1, 0.8], [0.0, 0.3], np.linspace(-1, 1, 5), indexing="ij"))
    every = np.arange(0, 20, 7)
    np.testing.assert_allclose(found(t, x, y)[:, every], found(t[every], x[every], y[every]), atol=1e-12)


def test_references_on_a_line_are_converged():
    t, x = (c.ravel() for c in np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 41), indexing="ij"))
    p = KuramotoSivashinsky()
    for end, bound in ((0.1, 1e-7), (0.4, 1e-6)):
        usual = kuramoto.evolution(end, p.steepening, p.growth, p.damping)(end * t, 6.28 * x)
        fine = kuramoto.evolution(end, p.steepening, p.growth, p.damping, 400, 1.3e-4)(end * t, 6.28 * x)
        np.testing.assert_allclose(usual, fine, atol=bound)
    for half, bound in ((5.0, 3e-5), (15.0, 1e-6)):
        there = 1.5 * t, half * (2 * x - 1)
        usual, fine = (schroedinger_.evolution(-half, half, 1.5, *at)(*there) for at in ((), (860, 7e-4)))
        np.testing.assert_allclose(usual, fine, atol=bound)


def test_two_solitons_breathe_with_the_period_of_satsuma_and_yajima():
    """2 / cosh x comes back after t = pi / 2 but for a phase, and peaks at |h| = 4 half way (1974)."""
    h = schroedinger_.evolution(-15.0, 15.0, math.pi / 2)
    x = np.linspace(-5, 5, 101)
    (back,), (peak,) = h(np.full(101, math.pi / 2), x), h(np.array([math.pi / 4]), np.array([0.0]))
    np.testing.assert_allclose(np.abs(back), 2 / np.cosh(x), atol=1e-6)
    assert abs(peak[0]) == pytest.approx(4.0, abs=1e-6)


def test_references_in_the_plane_are_converged():
    t, x, y = (c.ravel() for c in np.meshgrid(*[np.linspace(0, 1, n) for n in (4, 21, 11)], indexing="ij"))
    there = 2 * x - 1, 2 * y - 1
    found = [
        ginzburg.evolution(0.1, 0.004, 10.0, 1.5, points=n, step=h)(0.1 * t, *there)
        for n, h in ((128, 2e-3), (144, 1e-3))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=3e-4)
    found = [
        gray.evolution(0.05, 0.2, 0.1, 40.0, 100.0, 1000.0, points=n, step=5e-4)(0.05 * t, *there) for n in (128, 96)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_what_the_solvers_can_not_resolve_is_refused():
    with pytest.raises(UserError, match="512 points do not resolve the fronts at damping 1e-07"):
        reference(KuramotoSivashinsky(damping=1e-7))
    with pytest.raises(UserError, match="32 points do not resolve the spirals"):
        ginzburg.evolution(0.1, 1e-5, 10.0, 1.5, points=32)
    with pytest.raises(UserError, match="32 points do not resolve the pattern"):
        gray.evolution(0.05, 1e-4, 1e-4, 40.0, 100.0, 1000.0, points=32)


def test_a_stored_reference_is_computed_once_and_again_where_its_file_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    calls = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"a": np.arange(3.0)}

    for expected in (1, 1):
        np.testing.assert_array_equal(stored("test", {"n": 1}, compute)["a"], [0, 1, 2])
        assert len(calls) == expected
    stored("test", {"n": 2}, compute)
    stored("test", {"n": 1}, compute, version=2)
    assert len(calls) == 3, "other arguments, another version of the solver: other files"
    for path in (tmp_path / "references").iterdir():
        path.write_bytes(b"not an archive")
    stored("test", {"n": 1}, compute)
    assert len(calls) == 4
    monkeypatch.setenv(
        "ORCHESTRATOR_CACHE", str(tmp_path / "references" / next((tmp_path / "references").iterdir()).name)
    )
    assert list(stored("test", {"n": 3}, compute)) == ["a"], "no folder can be made there: nothing is kept"


# --- the cavity ---


def test_the_cavity_solver_agrees_with_ghia_and_with_itself_on_another_grid():
    def uniform(x: Any) -> Any:
        return np.ones_like(x)

    fields = [cavities.extrapolated(100.0, uniform, n) for n in (16, 32)]
    middle = [f["u"][len(f["u"]) // 2, :: (len(f["u"]) - 1) // 16] for f in fields]
    np.testing.assert_allclose(middle[0], middle[1], atol=4e-3)
    np.testing.assert_allclose(fields[1]["u"][16, :].mean(), 0.0, atol=0.02, err_msg="no net flow through the middle")


def test_the_cavitys_velocity_is_within_two_percent_of_ghias_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    for reynolds, lid in ((100, "uniform"), (400, "uniform"), (400, "smooth")):
        problem = Cavity(reynolds=reynolds, lid=lid)  # pyright: ignore[reportArgumentType]
        assert cavities.ghia_error(cavities.flow(reynolds, problem.speed, lid, 32), reynolds) < 0.0130
    rest = lambda x, y: (0.0 * x, 0.0 * x)  # noqa: E731
    assert cavities.ghia_error(rest, 1000) == pytest.approx(1.0)


def test_the_cavity_is_measured_by_its_velocity_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    task: Any = Cavity(lid="parabola").build(Parts(MLP(width=4, depth=1), "hard"))
    known = task.reference()
    assert set(known.values) == {"u", "v"} and known.shape == (101, 101)
    lid = known.points["y"] == 1.0
    np.testing.assert_allclose(
        known.values["u"][lid], 4 * known.points["x"][lid] * (1 - known.points["x"][lid]), atol=1e-3
    )
    pictures = {p.name: p for p in task.pictures(lambda names, points: dict.fromkeys(names, 0.0 * points["x"]))}
    assert "reference" in pictures["solution_u"].panels and "reference" not in pictures["solution_p"].panels
    with pytest.raises(UserError, match="a uniform lid jumps at its corners"):
        Cavity().build(Parts(MLP(width=4, depth=1), "hard"))


@pytest.mark.parametrize("lid", ["uniform", "smooth", "parabola"])
def test_only_the_lid_moves(lid: Any):
    problem = Cavity(lid=lid)
    rest = residuals(problem, "bc", solution=lambda p: dict.fromkeys("uvp", 0.0 * p["x"]), count=400)["bc"]
    assert np.count_nonzero(rest) == 100, "one wall of four"
    assert rest.max() == pytest.approx(1.0, abs=0.02)


# --- two media ---


@pytest.mark.parametrize(("a1", "a2"), [(0.1, 1.0), (1.0, 0.1), (0.3, 0.3), (1.0, 1e-3)])
def test_the_modes_of_two_layers_are_those_of_finite_volumes(a1: float, a2: float):
    n = 400  # cells per half; the interface lies between two of them
    a = np.repeat([a1, a2], n)
    faces = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    faces = np.concatenate([[2 * a1], faces, [2 * a2]])
    matrix = np.diag(faces[1:] + faces[:-1]) - np.diag(faces[1:-1], 1) - np.diag(faces[1:-1], -1)
    rates = np.linalg.eigvalsh(matrix * n**2)[:4]
    np.testing.assert_allclose([decay_rate(a1, a2, k) for k in range(1, 5)], rates, rtol=2e-3)


def test_equal_layers_are_one_rod():
    known = HeatLayers(left_diffusivity=0.3, right_diffusivity=0.3)
    x = np.linspace(0, 1, 11)
    found = known.solution({"t": np.full(11, 0.2), "x": x})
    for half, sign in (("left", -1.0), ("right", 1.0)):
        place = sign * x
        modes = [
            c * math.exp(-0.3 * (k * math.pi / 2) ** 2 * 0.2) * np.sin(k * math.pi / 2 * (place + 1))
            for k, c in MODES.items()
        ]
        scale = [1.0 / math.hypot(math.sin(k * math.pi / 2), math.sqrt(0.3) * math.cos(k * math.pi / 2)) for k in MODES]
        np.testing.assert_allclose(found[half], sum(m * s for m, s in zip(modes, scale, strict=True)), atol=1e-12)


def test_the_pulse_in_two_media_is_that_of_finite_differences():
    known, n = WaveLayers(), 800
    x = np.linspace(-1, 1, 2 * n + 1)
    c = np.where(x < 0, known.left_speed, known.right_speed)
    c[n] = math.sqrt(0.5 * (known.left_speed**2 + known.right_speed**2))
    dt = 1.0 / (2 * n * 2)
    t = lambda value: np.full_like(x, value)  # noqa: E731

    def exact(value: float) -> Any:
        halves = known.solution({"t": t(value), "x": np.abs(x)})
        return np.where(x < 0, halves["left"], halves["right"])

    before, now = exact(0.0), exact(dt)
    for i in range(1, round(0.7 / dt)):
        bend = np.zeros_like(x)
        bend[1:-1] = (now[2:] - 2 * now[1:-1] + now[:-2]) * n**2
        before, now = now, 2 * now - before + (dt * c) ** 2 * bend
        now[[0, -1]] = exact((i + 1) * dt)[[0, -1]]
    np.testing.assert_allclose(now, exact(0.7), atol=3e-3)


def test_a_blend_takes_only_what_is_given_on_the_sides():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 20))

    def g(x: Any, y: Any) -> Any:
        return np.exp(x) * np.sin(3 * y) + 100 * x * (1 - x) * y * (1 - y)  # the bubble leaves no trace

    zero, one = np.zeros(20), np.ones(20)
    for at in ((zero, y), (one, y), (x, zero), (x, one)):
        np.testing.assert_allclose(patch(g, *at), g(*at), atol=1e-12)
    without = patch(lambda x, y: np.exp(x) * np.sin(3 * y), x, y)
    np.testing.assert_allclose(patch(g, x, y), without, atol=1e-12)


# --- Lorenz ---


def test_lorenz_is_solved_by_its_true_parameters_only_and_independently_of_the_solver():
    problem = Lorenz()
    right = {"sigma": 10.0, "rho": 15.0, "beta": 8 / 3}
    for name in right:
        assert worst(problem, "pde", step=5e-4, unknowns={**right, name: 1.01 * right[name]}) > 0.1

    def change(t: float, s: Any) -> list[float]:
        return [10 * (s[1] - s[0]), s[0] * (15 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]

    other = solve_ivp(change, (0, 3), [-8, 7, 27], method="Radau", rtol=1e-8, atol=1e-8, t_eval=[1.0, 3.0]).y
    found = problem.solution({"t": np.array([1.0, 3.0])})
    np.testing.assert_allclose(np.array(list(found.values())), other, rtol=1e-5)
    task = Lorenz(guess=2.0).build(Parts(MLP(width=4, depth=1)))
    assert task.readings(task.init(np.random.default_rng(0)))["error/sigma"] == pytest.approx(0.8)
    assert worst(Lorenz(noise=0.5), "data") > 0.5, "measurements have errors"
    assert len(residuals(Lorenz(measurements=7), "data")["data"]) == 7
