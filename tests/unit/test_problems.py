"""Every problem that ships is right against its reference, and solved alike by both backends."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

import backends
from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.finite_difference import residuals
from backends.pde.problem import Problem, residual
from backends.pde.reference import reference
from backends.spec import Points
from backends.task import Context, Parts, Task
from backends.tasks import Advection, AllenCahn, DiffusionReaction, Heat, Helmholtz, KdV, Kovasznay, Wave
from backends.tasks import allen_cahn as ac
from backends.tasks import kdv as korteweg
from backends.tasks.heat import cooled_mode
from backends.tasks.spectral import etdrk4
from backends.testing.setup import ADAM, all_close, build, table

EXACT: dict[str, Problem] = {
    "heat": Heat(),
    "heat, third mode of a long rod": Heat(mode=3, length=2.0, diffusivity=0.1),
    "heat, insulated": Heat(boundary="neumann"),
    "heat, cooled": Heat(boundary="robin"),
    "heat, cooled, second mode": Heat(boundary="robin", mode=2, exchange=7.0, length=2.0),
    "wave": Wave(),
    "wave, slow": Wave(speed=0.5),
    "advection": Advection(),
    "advection, long": Advection(speed=2.0, end=3.0),
    "helmholtz": Helmholtz(),
    "helmholtz, DeepXDE's": Helmholtz(k=4 * math.pi, a1=4, a2=4, low=0),
    "diffusion-reaction": DiffusionReaction(),
    "diffusion-reaction, slow": DiffusionReaction(diffusivity=0.3),
    "kovasznay": Kovasznay(),
    "kovasznay, Re 40": Kovasznay(reynolds=40.0),
}
"""Problems with a formula for their solution."""
HARD = {"heat": Heat(), "wave": Wave(), "advection": Advection(), "helmholtz": Helmholtz(), "kdv": KdV(),
        "diffusion-reaction": DiffusionReaction(), "kovasznay": Kovasznay(), "allen-cahn": AllenCahn()}  # fmt: skip


def worst(problem: Problem, term: str, **options: Any) -> float:
    return max(float(np.abs(v).max()) for v in residuals(problem, term, **options).values())


@pytest.mark.parametrize("name", EXACT)
def test_a_solution_satisfies_its_equation_and_every_condition(name: str):
    problem = EXACT[name]
    for term, mark in problem.declared().items():
        assert worst(problem, term) < 1e-10 * max(1.0, problem.number(mark.scale)), term


@pytest.mark.parametrize(
    ("wrong", "right", "term"),
    [
        (Heat(diffusivity=0.41), Heat(), "pde"),
        (Heat(boundary="neumann"), Heat(), "bc"),
        (Heat(boundary="robin", exchange=2.1), Heat(boundary="robin"), "bc"),
        (Heat(boundary="robin", ambient=0.3), Heat(boundary="robin"), "bc"),
        (Wave(speed=2.1), Wave(), "pde"),
        (Advection(speed=31.0), Advection(), "pde"),
        (Helmholtz(a2=3), Helmholtz(), "pde"),
        (Kovasznay(reynolds=22.0), Kovasznay(), "pde"),
        (AllenCahn(rate=5.5), AllenCahn(), "pde"),
        (KdV(dispersion=0.025), KdV(), "pde"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Problem) else v,
)
def test_a_wrong_constant_is_noticed(wrong: Problem, right: Problem, term: str):
    assert worst(wrong, term, solution=right.solution) > 0.01


# --- references that are computed ---


def test_the_solver_carries_a_soliton_around_a_circle():
    speed, d, length = 0.5, 0.03, 4.0  # u = 3 c sech²(sqrt(c) (x - c t) / 2d) solves u_t + u u_x + d² u_xxx = 0

    def soliton(x: Any) -> Any:
        return 3 * speed / np.cosh(0.5 * math.sqrt(speed) / d * x) ** 2

    x = -2.0 + length * np.arange(512) / 512
    found = etdrk4(
        soliton(x),
        low=-2.0,
        length=length,
        end=length / speed,
        steps=16_000,
        linear=lambda k: 1j * d**2 * k**3,
        nonlinear=lambda u, k: -0.5j * k * np.fft.rfft(u * u),
        every=100,
    )
    for turns in (0.25, 1.0):
        t = np.full(512, turns * length / speed)
        moved = (x - turns * length + 2.0) % length - 2.0
        np.testing.assert_allclose(found(t, x), soliton(moved), atol=2e-7)
    scattered = np.random.default_rng(0).uniform(-2, 2, 300)
    np.testing.assert_allclose(found(np.zeros(300), scattered), soliton(scattered), atol=1e-12)


@pytest.mark.parametrize("problem", [AllenCahn(), KdV()], ids=["allen-cahn", "kdv"])
def test_a_computed_reference_satisfies_its_equation(problem: Problem):
    assert worst(problem, "pde", step=2.5e-4) < 1e-4, "u u_x reaches 100"
    assert worst(problem, "ic") < 1e-12
    assert worst(problem, "bc", step=2.5e-4) < 1e-6


def test_computed_references_are_converged():
    t, x = (a.ravel() for a in np.meshgrid(np.linspace(0.1, 1, 19), np.linspace(-1, 1, 101), indexing="ij"))
    usual, fine = ac.evolution(1e-4, 5.0)(t, x), ac.evolution(1e-4, 5.0, 2048, 2000)(t, x)
    assert np.linalg.norm(usual - fine) < 1e-6 * np.linalg.norm(fine), "all of it at the kink"
    usual, fine = korteweg.evolution(0.022)(t, x), korteweg.evolution(0.022, 400, 8000)(t, x)
    np.testing.assert_allclose(usual, fine, atol=1e-7)
    mass, energy = korteweg.evolution(0.022).modes[[0, -1], 0].real, usual  # mean of u; u² at the end
    assert mass == pytest.approx([0.0, 0.0], abs=1e-14)
    assert np.mean(energy[t == 1.0][:-1] ** 2) == pytest.approx(0.5, rel=0.02), "the sum of u² is conserved"


def test_the_published_grids_are_those_of_the_papers():
    for problem, shape in ((AllenCahn(), (201, 512)), (KdV(), (251, 512))):
        known = reference(problem)
        assert known is not None
        assert (known.axes, known.shape) == (("t", "x"), shape)


def test_constants_that_the_reference_can_not_resolve_are_refused():
    with pytest.raises(UserError, match="512 points do not resolve the solitons at dispersion 0.002"):
        reference(KdV(dispersion=0.002))
    with pytest.raises(UserError, match="4096 points do not resolve the fronts"):
        reference(AllenCahn(diffusivity=1e-9))


# --- boundary conditions ---


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_cooled_rod_becomes_an_insulated_or_a_fixed_one_in_the_limits(n: int):
    assert cooled_mode(n, 1e-9, 2.0) == pytest.approx((n - 1) * math.pi / 2, abs=1e-4)
    assert cooled_mode(n, 1e9, 2.0) == pytest.approx(n * math.pi / 2, rel=1e-6)


@pytest.mark.parametrize("boundary", ["neumann", "robin"])
def test_only_fixed_ends_have_hard_constraints(boundary: Any):
    with pytest.raises(UserError, match=f"only, not for '{boundary}'; allowed here: soft") as caught:
        Heat(boundary=boundary).build(Parts(MLP(width=4, depth=1), "hard"))
    assert caught.value.path == "constraints"


def test_the_corner_of_helmholtz_square_lies_where_the_solution_vanishes():
    with pytest.raises(ValueError, match="must be a whole number"):
        Helmholtz(low=-0.5)


# --- both backends ---


def small(problem: Problem, constraints: Any) -> Task:
    points = {"pde": Points(count=20)}
    return problem.build(Parts(MLP(width=4, depth=2), constraints, points=points))


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("constraints", ["soft", "hard"])
def test_every_problem_builds_with_its_terms(name: str, constraints: Any):
    task = small(HARD[name], constraints)
    assert {t.name.partition("/")[0] for t in task.terms} == set(HARD[name].declared())
    assert any(not t.trained for t in task.terms) == (constraints == "hard")


def residuals_of(task: Task, ops: Any, array: Any) -> dict[str, Any]:
    """Every part of every term, [samples], on the held-out points of a backend."""
    params = {k: array(v) for k, v in task.init(np.random.default_rng(0)).items()}
    context = Context({k: array(np.float64(v)) for k, v in task.constants.items()}, task.aux())
    out = {}
    for batch, columns in task.held_out(20).items():
        values = task.per_sample(ops, params, batch, {k: array(v) for k, v in columns.items()}, context)
        for name, value in values.items():
            parts = value if isinstance(value, tuple) else (value,)
            out |= {f"{name} {i}": np.asarray(part) for i, part in enumerate(parts)}
    return out


@pytest.mark.parametrize("name", [*HARD, "cooled rod", "insulated rod"])
def test_both_backends_have_the_residuals_of_numpy(name: str):
    jax, torch = pytest.importorskip("backends.jax.ops"), pytest.importorskip("backends.torch.ops")
    rods = {"cooled rod": Heat(boundary="robin"), "insulated rod": Heat(boundary="neumann")}
    task = small(rods[name], "soft") if name in rods else small(HARD[name], "hard")
    plain = residuals_of(task, NumpyOps(), np.asarray)
    assert {name.partition(" ")[0] for name in plain} == {t.name for t in task.terms}
    all_close(residuals_of(task, jax.OPS, sys.modules["jax"].numpy.asarray), plain, f"{name}: jax", atol=1e-13)
    all_close(residuals_of(task, torch.OPS, sys.modules["torch"].as_tensor), plain, f"{name}: torch", atol=1e-13)


@pytest.mark.parametrize("name", ["kdv", "cooled rod"])
def test_both_backends_have_the_same_losses_and_gradients(name: str):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    task = small(KdV(), "hard") if name == "kdv" else small(Heat(boundary="robin"), "soft")
    found = []
    for module in (backends.load("jax"), backends.load("torch")):
        backend = build(module, task, compile="never")
        what = frozenset({"losses", "gradient"})
        found.append(backend.probe(backend.init(0), what, task.feed(0), 0, table(task, ADAM[0], 1)[0]))
    all_close(found[0], found[1], name)


# --- the derivative along the outward normal ---


class Plate(Problem):
    """Terms on every kind of wall."""

    width: float = 3.0
    coords = {"t": (0, 1), "x": (0, "width"), "y": (-1, 1)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f: Any) -> Any:
        return f("u_t") - f.laplacian("u")

    @residual(on="boundary")
    def all_around(self, f: Any) -> Any:
        return f.normal("u")

    @residual(x="low")
    def left(self, f: Any) -> Any:
        return f.normal("u")

    @residual(x="width")
    def right(self, f: Any) -> Any:
        return f.normal("u")

    @residual(y="ends", t=0)
    def rims(self, f: Any) -> Any:
        return f.normal("u")

    @residual(at="hole")
    def around_the_hole(self, f: Any) -> Any:
        return f.normal("u")

    def hole(self, rng: np.random.Generator) -> dict[str, Any]:
        angle = np.linspace(0, 6, 7)
        x, y = -np.cos(angle), -np.sin(angle)
        return {"t": 0 * x, "x": 1 - 0.1 * x, "y": -0.1 * y, "normal_x": x, "normal_y": y}

    def solution(self, points: Any) -> dict[str, Any]:
        return {"u": 2.0 * points["x"] + 5.0 * points["y"] + points["t"]}


def test_the_normal_points_outward_on_every_kind_of_wall():
    plate = Plate()
    assert set(np.round(residuals(plate, "all_around")["all_around"], 6)) == {-2.0, 2.0, -5.0, 5.0}
    assert set(np.round(residuals(plate, "left")["left"], 6)) == {-2.0}
    assert set(np.round(residuals(plate, "right")["right"], 6)) == {2.0}
    assert set(np.round(residuals(plate, "rims")["rims"], 6)) == {-5.0, 5.0}
    angle = np.linspace(0, 6, 7)
    found = residuals(plate, "around_the_hole")["around_the_hole"]
    np.testing.assert_allclose(found, -2 * np.cos(angle) - 5 * np.sin(angle), atol=1e-9)
    task = plate.build(Parts(MLP(width=4, depth=2)))
    jax, torch = pytest.importorskip("backends.jax.ops"), pytest.importorskip("backends.torch.ops")
    plain = residuals_of(task, NumpyOps(), np.asarray)
    all_close(residuals_of(task, jax.OPS, sys.modules["jax"].numpy.asarray), plain, "jax")
    all_close(residuals_of(task, torch.OPS, sys.modules["torch"].as_tensor), plain, "torch")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, r"needs a boundary: mark the term @residual\(on=\"boundary\"\)"),
        ({"t": 0}, "t=0 is no wall of the domain"),
        ({"x": 1.5}, "x=1.5 is no wall of the domain"),
        ({"x": "low", "y": "high"}, "x=low,y=high is an edge between walls"),
        ({"x": "periodic"}, r"'u' has two values in a periodic term"),
    ],
    ids=str,
)
def test_where_there_is_no_normal_it_is_refused_with_the_line(where: dict[str, Any], said: str):
    class Wrong(Plate):
        @residual(**where)
        def pde(self, f: Any) -> Any:
            return f.normal("u")

    with pytest.raises(UserError, match=said) as caught:
        Wrong().build(Parts(MLP(width=4, depth=1)))
    assert "test_problems.py:" in str(caught.value)
