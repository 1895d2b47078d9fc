"""The problems of the physics engine: each against its reference, each reference against an independent check."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from test_problems import residuals_of, small, worst

from backends.errors import UserError
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem
from backends.pde.reference import reference
from backends.spec import Points
from backends.task import Parts
from backends.tasks import (
    Burgers2D,
    Cavity,
    EulerBeam,
    GinzburgLandau,
    GrayScott,
    Heat5D,
    HeatLayers,
    KuramotoSivashinsky,
    Lorenz,
    Poisson5D,
    Poisson100D,
    PoissonFrequencies,
    Schroedinger,
    WaveLayers,
)
from backends.tasks import cavity_solver as cavities
from backends.tasks import ginzburg_landau as ginzburg
from backends.tasks import gray_scott as gray
from backends.testing.setup import all_close

EXACT: dict[str, Problem] = {
    "burgers 2d": Burgers2D(),
    "burgers 2d, Re 30": Burgers2D(reynolds=30.0),
    "poisson, 3 frequencies": PoissonFrequencies(),
    "poisson, 1 frequency": PoissonFrequencies(frequencies=1),
    "poisson 5d": Poisson5D(),
    "poisson 5d, KFAC's": Poisson5D(shape="cos", waves=1.0),
    "poisson 100d": Poisson100D(),
    "heat 5d": Heat5D(),
    "heat layers": HeatLayers(),
    "heat layers, swapped": HeatLayers(left_diffusivity=0.7, right_diffusivity=0.05),
    "wave layers": WaveLayers(),
    "wave layers, slower": WaveLayers(left_speed=1.5, right_speed=0.5, width=0.3),
    "euler beam": EulerBeam(),
    "lorenz": Lorenz(),
}
"""Problems whose solution is a formula, or as good as one."""
COMPUTED = {
    "schroedinger": (Schroedinger(low=-15.0, high=15.0), 1e-5),
    "kuramoto-sivashinsky": (KuramotoSivashinsky(), 1e-3),
    "ginzburg-landau": (GinzburgLandau(end=0.1), 1e-3),
    "gray-scott": (GrayScott(end=0.05), 0.5),
}
"""Problems whose solution is computed, with the residual of its differences: u_xxxx reaches 2e5, v_t 1e3."""
HARD: dict[str, Problem] = {
    "burgers 2d": Burgers2D(),
    "schroedinger": Schroedinger(),
    "kuramoto-sivashinsky": KuramotoSivashinsky(),
    "ginzburg-landau": GinzburgLandau(),
    "gray-scott": GrayScott(),
    "poisson, many frequencies": PoissonFrequencies(),
    "heat 5d": Heat5D(),
    "heat layers": HeatLayers(),
    "wave layers": WaveLayers(),
    "euler beam": EulerBeam(),
    "lorenz": Lorenz(),
}
SOFT: dict[str, Problem] = {"poisson 5d": Poisson5D(), "poisson 100d": Poisson100D()}
QUICK = ("burgers 2d", "wave layers")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """References on small grids: their own tests say how far off those are."""
    monkeypatch.setattr(gray, "evolution", partial(gray.evolution, points=96))
    monkeypatch.setattr(ginzburg, "evolution", partial(ginzburg.evolution, points=128))
    monkeypatch.setattr("backends.tasks.cavity.flow", partial(cavities.flow, cells=16))


@pytest.mark.parametrize("name", EXACT)
def test_a_solution_satisfies_its_equation_and_every_condition(name: str):
    problem = EXACT[name]
    step = 5e-4 if "lorenz" in name or "wave" in name else 2e-3
    for term, mark in problem.declared().items():
        if (name, term) != ("euler beam", "pde"):
            assert worst(problem, term, step=step, count=30) < 2e-7 * max(1.0, problem.number(mark.scale)), term
    if name == "euler beam":
        assert worst(problem, "pde", step=0.05, margin=0.3) < 1e-8, "a fourth difference needs a wide step"


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_solution_satisfies_its_equation_and_every_condition(name: str):
    problem, bound = COMPUTED[name]
    step = 2e-3 if name == "kuramoto-sivashinsky" else 1e-3
    assert worst(problem, "pde", step=step, count=20) < bound
    assert worst(problem, "ic", count=20) < 1e-4
    for term in problem.declared():
        if term.startswith("bc"):
            assert worst(problem, term, step=step, count=4) < 1e-4


@pytest.mark.parametrize(
    ("wrong", "right", "term"),
    [
        (Burgers2D(reynolds=50.0), Burgers2D(), "pde"),
        (KuramotoSivashinsky(damping=1.1 * 100 / 16**4), KuramotoSivashinsky(), "pde"),
        (KuramotoSivashinsky(growth=0.5), KuramotoSivashinsky(), "pde"),
        (GinzburgLandau(end=0.1, dispersion=1.4), GinzburgLandau(end=0.1), "pde"),
        (GrayScott(end=0.05, kill=110.0), GrayScott(end=0.05), "pde"),
        (GrayScott(end=0.05, diffusivity_u=0.3), GrayScott(end=0.05), "pde"),
        (PoissonFrequencies(frequencies=2), PoissonFrequencies(), "pde"),
        (Poisson5D(waves=1.0), Poisson5D(), "bc"),
        (HeatLayers(left_diffusivity=0.11), HeatLayers(), "interface"),
        (WaveLayers(right_speed=2.2), WaveLayers(), "pde"),
        (EulerBeam(load=1.1), EulerBeam(), "free"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Problem) else v,
)
def test_a_wrong_constant_is_noticed(wrong: Problem, right: Problem, term: str):
    if not isinstance(right, EulerBeam):
        assert worst(wrong, term, solution=right.solution, count=20) > 0.01
    else:
        assert worst(wrong, "pde", solution=right.solution, step=0.05, margin=0.3) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("name", [*HARD, *SOFT])
@pytest.mark.parametrize("constraints", ["soft", "hard"])
def test_every_problem_builds_with_its_terms(name: str, constraints: Any):
    if constraints == "hard" and name in SOFT:
        with pytest.raises(UserError, match="has no method marked @hard"):
            small(SOFT[name], constraints)
        return
    task = small({**HARD, **SOFT}[name], constraints)
    assert {t.name.partition("/")[0] for t in task.terms} == set({**HARD, **SOFT}[name].declared())
    assert any(not t.trained for t in task.terms) == (constraints == "hard")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in (*HARD, "poisson 5d", "cavity")]
)
def test_both_backends_have_the_residuals_of_numpy(name: str):
    jax, torch = pytest.importorskip("backends.jax.ops"), pytest.importorskip("backends.torch.ops")
    import jax.numpy as jnp
    from torch import as_tensor

    cavity = Cavity(lid="smooth")
    problem = {**HARD, **SOFT, "cavity": cavity}[name]
    task = small(problem, "soft" if name in SOFT else "hard")
    plain = residuals_of(task, NumpyOps(), np.asarray)
    all_close(residuals_of(task, jax.OPS, jnp.asarray), plain, f"{name}: jax", atol=1e-12)
    all_close(residuals_of(task, torch.OPS, as_tensor), plain, f"{name}: torch", atol=1e-12)


# --- many dimensions ---


def test_a_reference_in_many_dimensions_is_scattered():
    known = reference(Poisson100D())
    assert known is not None and known.shape == ()
    assert np.std(known.values["u"]) / np.sqrt(np.mean(known.values["u"] ** 2)) == pytest.approx(0.089, abs=0.002)


def test_the_title_of_a_cut_through_many_dimensions_is_short():
    task: Any = Poisson100D().build(Parts(MLP(width=4, depth=1)))
    pictures = {p.name: p for p in task.pictures(lambda names, points: dict.fromkeys(names, 0.0 * points["x1"]))}
    assert pictures["solution"].title == "u at x3 = 0.5, x4 = 0.5, x5 = 0.5, x6 = 0.5 and 94 more"
    np.testing.assert_allclose(pictures["solution"].panels["reference"][0, 0], 98 * 0.25)


def test_the_picture_of_the_ball_is_cut_at_its_edge_and_its_points_lie_inside():
    task: Any = Heat5D().build(Parts(MLP(width=4, depth=1), points={"pde": Points(count=50), "bc": Points(count=20)}))
    points = task.feed(0).take(0, 1).fixed()
    inside, surface = (np.sum([points[b][f"x{i}"] ** 2 for i in range(1, 6)], axis=0) for b in ("interior", "boundary"))
    assert inside.max() < 1.0 and len(inside) == 50
    np.testing.assert_allclose(surface, 1.0, atol=1e-12)
    pictures = {p.name: p for p in task.pictures(lambda names, points: dict.fromkeys(names, 0.0 * points["t"]))}
    shown = np.isfinite(pictures["solution"].panels["prediction"])
    assert shown.mean() == pytest.approx(math.pi / 4, abs=0.02)
