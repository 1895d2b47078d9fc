"""Conservation laws and symmetries: their integrals are right, they have a dead-band, and a law that holds already
does not move the optimum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import UserError
from backends.laws.conservation import beyond, law_sets
from backends.laws.marks import Conserve, chosen, declared
from backends.laws.quadrature import Axis
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.finite_difference import DifferenceField
from backends.pde.problem import Problem, conserved, residual, symmetric
from backends.pde.recorder import evaluate
from backends.pde.regions import Region, draw
from backends.task import Context, Parts
from backends.tasks import Heat, KdV, Schroedinger, Wave

OPS = NumpyOps()
NETWORK = MLP(width=6, depth=2)


class Rod(Problem):
    """Insulated; every kind of law."""

    spread: float = 0.1
    coords = {"t": (0, 1), "x": (0, 2)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        return f("u_t") - self.spread * f("u_xx")

    @conserved
    def mass(self, f):
        return f("u")

    @conserved(flux="outflow", tolerance=0.5)
    def heat(self, f):
        return f("u")

    @conserved(equals=3.0, by="scale")
    def square(self, f):
        return f("u") ** 2

    @symmetric(x="odd")
    def mirror(self, f):
        return f("u")

    def outflow(self, f):
        return -self.spread * f.normal("u")


def of_solution(problem: Problem, *names: str, count: int = 5, **options: Any) -> dict[str, Any]:
    """The residuals of laws, without their tolerance, for the problem's own solution and by finite differences."""
    laws, _ = chosen(problem, {name: Conserve(tolerance=0.0) for name in names})
    found, sets = law_sets(problem, laws)
    out: dict[str, Any] = {}
    for batch, recording in found.items():
        columns = draw(problem, recording.region, (), count, "uniform", np.random.default_rng(0))

        def densities(of: Any, points: Any) -> Any:
            region = Region() if of.region.nodes else of.region
            solution = options.get("solution", problem.solution)
            return evaluate(problem, of, DifferenceField(problem, points, solution, region=region, step=1e-3))

        constants = {f"tolerance/{n}": 0.0 for n in laws} | {f"equals/{n}": v.equals for n, v in laws.items()}
        out |= sets[batch].values(OPS, problem, recording, columns, densities, constants)
    return out


def task_of(problem: Problem | None = None, **conserve: Any) -> Any:
    asked = {name: Conserve.model_validate(how) for name, how in conserve.items()}
    return (problem or Rod()).build(Parts(NETWORK, conserve=asked))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(-3, 3), st.floats(0.1, 4))
def test_four_gauss_nodes_integrate_polynomials_up_to_degree_seven(coefficients, low, length):
    p = np.polynomial.Polynomial(coefficients)
    nodes, weights = Axis("x", 4, "gauss").on(low, low + length)
    size = np.polynomial.Polynomial(np.abs(coefficients)).integ()(abs(low) + length)
    assert weights @ p(nodes) == pytest.approx(p.integ()(low + length) - p.integ()(low), abs=1e-12 * (1 + size))


@given(st.integers(0, 7), st.floats(0, 6))
def test_the_trapezoidal_rule_integrates_seven_waves_with_eight_nodes(waves, phase):
    nodes, weights = Axis("x", 8, "trapezoidal").on(-1, 1)
    exact = 2 * math.cos(phase) if waves == 0 else 0.0
    assert weights @ np.cos(math.pi * waves * nodes + phase) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(
    ("problem", "laws", "size"),
    [
        (Heat(boundary="neumann", mode=2), ["content"], 1e-8),
        (Heat(boundary="dirichlet"), ["content"], 1e-7),
        (Heat(boundary="robin"), ["content"], 1e-7),
        (Wave(), ["energy"], 1e-6),
    ],
)
def test_the_solutions_of_shipped_problems_obey_their_laws(problem: Problem, laws: list[str], size: float):
    for values in of_solution(problem, *laws).values():
        assert np.abs(values).max() < size


def test_solitons_keep_mass_momentum_and_energy():
    found = of_solution(KdV(), "mass", "momentum", "energy")
    assert np.abs(found["mass"]).max() < 1e-6
    assert np.abs(found["momentum"]).max() < 1e-6
    assert np.abs(found["energy"]).max() < 1e-4  # of differences of a spectral reference
    wrong = of_solution(KdV(), "momentum", solution=lambda p: {"u": np.cos(math.pi * p["x"]) * (1 + p["t"])})
    assert np.abs(wrong["momentum"]).max() > 0.1


def test_the_breathing_soliton_keeps_its_particles_and_its_symmetry():
    found = of_solution(Schroedinger(low=-12.0, high=12.0), "particles", "mirror")
    assert np.abs(found["particles"]).max() < 1e-4  # of 4; the reference is interpolated
    assert max(np.abs(found[name]).max() for name in ("mirror/u", "mirror/v")) < 1e-3


def test_a_fast_shift_is_seen_by_mass_and_not_by_the_symmetry_of_its_slope():
    rising = lambda p: {"u": p["t"] + np.sin(math.pi * (p["x"] - 1.0))}  # noqa: E731
    assert of_solution(Rod(), "mass", solution=rising)["mass"].max() == pytest.approx(
        2 * draw_times(Rod(), "mass").max(), rel=1e-12
    )
    found = of_solution(Rod(), "mirror", solution=rising)["mirror"]
    assert found.min() > 0, "the mirrored sum is the part that is not odd: t itself"
    assert of_solution(Rod(), "mirror", solution=lambda p: {"u": np.sin(math.pi * (p["x"] - 1.0))})[
        "mirror"
    ] == pytest.approx(0.0, abs=1e-14)


def draw_times(problem: Problem, law: str) -> np.ndarray:
    found, _ = law_sets(problem, chosen(problem, {law: Conserve()})[0])
    (recording,) = found.values()
    return np.asarray(draw(problem, recording.region, (), 5, "uniform", np.random.default_rng(0))["t"])


@given(st.floats(-10, 10), st.floats(0, 5))
def test_within_the_tolerance_nothing_counts_and_beyond_it_only_the_rest(x: float, tolerance: float):
    got = beyond(OPS, np.array(x), np.array(tolerance))
    assert got == pytest.approx(math.copysign(max(abs(x) - tolerance, 0.0), x), abs=1e-12)


def test_in_the_dead_band_the_gradient_is_zero_as_well():
    jax = pytest.importorskip("jax")
    from backends.jax.ops import OPS as JAX

    slope = jax.grad(lambda x: beyond(JAX, x, 0.5) ** 2)
    assert [float(slope(x)) for x in (0.3, -0.3, 0.0)] == [0.0, 0.0, 0.0]
    assert float(slope(0.75)) == pytest.approx(0.5)
    assert float(jax.grad(lambda x: beyond(JAX, x, 0.0))(0.0)) == 1.0


def test_laws_are_terms_only_where_the_file_asks_and_are_not_counted_in_the_total():
    assert [t.name for t in task_of().terms] == ["pde"]
    task = task_of(mass={}, heat={"tolerance": 0.1}, mirror="term")
    assert [(t.name, t.counted) for t in task.terms] == [
        ("pde", True), ("mass", False), ("heat", False), ("mirror", False)
    ]  # fmt: skip
    assert task.constants == {
        "spread": 0.1, "tolerance/mass": 0.0, "tolerance/heat": 0.1, "tolerance/mirror": 0.0
    }  # fmt: skip
    assert task_of(square={}).constants["equals/square"] == 3.0


def test_values_of_a_set_do_not_depend_on_how_its_samples_are_cut():
    task = task_of(heat={"tolerance": 0.0}, square={}, mirror={})
    params = task.init(np.random.default_rng(1))
    context = Context({k: np.array(v) for k, v in task.constants.items()})
    for batch, columns in task.feed(0).take(0, 1).fixed().items():
        whole = task.per_sample(OPS, params, batch, columns, context)
        part = task.per_sample(OPS, params, batch, {k: v[3:7] for k, v in columns.items()}, context)
        for name, values in whole.items():
            np.testing.assert_allclose(part[name], values[3:7], rtol=1e-12, atol=1e-13)


def test_vector_laws_and_oscillators_and_normalisations():
    class Oscillator(Problem):
        coords = {"t": (0, 3)}
        fields = ("q",)
        time = "t"

        @residual
        def pde(self, f):
            return f("q_tt") + f("q")

        @conserved
        def energy(self, f):
            return f("q_t") ** 2 + f("q") ** 2

        @conserved
        def both(self, f):
            return {"one": f("q_t") ** 2 + f("q") ** 2, "two": f("q")}

    found = of_solution(Oscillator(), "energy", "both", solution=lambda p: {"q": np.cos(p["t"])})
    assert set(found) == {"energy", "both/one", "both/two"}
    assert np.abs(found["energy"]).max() < 1e-9
    assert np.abs(found["both/two"]).max() > 0.1

    class State(Problem):
        coords = {"x": (0, 1), "y": (0, 1)}
        fields = ("psi",)

        @residual
        def pde(self, f):
            return f.laplacian("psi")

        @conserved(equals=1.0)
        def probability(self, f):
            return f("psi") ** 2

    wave = lambda p: {"psi": 2 * np.sin(math.pi * p["x"]) * np.sin(math.pi * p["y"])}  # noqa: E731
    assert of_solution(State(), "probability", solution=wave)["probability"] == pytest.approx(np.zeros(5), abs=1e-12)
    task = task_of(State(), probability={})
    assert task.sets.counts["integral(x=16,y=16)"] == 1
    shared = State().build(Parts(NETWORK, conserve={"probability": Conserve()}, workers=2))
    assert len(shared.feed(0).take(0, 1).fixed()["integral(x=16,y=16)"]["x"]) == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"law": conserved(equals="size")}, "equals='size' is no float field or property"),
        ({"law": conserved(flux="out")}, "flux='out': there is no method out"),
        ({"law": conserved(fields=("w",))}, "'w' is no field"),
        ({"law": conserved(by="shrink")}, "by='shrink' is not known"),  # type: ignore[call-overload]
        ({"law": conserved(nodes=0)}, "nodes=0 must be a whole number"),
        ({"law": symmetric(y="odd")}, "'y' is no coordinate"),
        ({"law": symmetric(t="odd")}, "'t' is the time"),
        ({"law": conserved, "time": ""}, "nothing is conserved without a time"),
    ],
)
def test_a_law_that_makes_no_sense_is_refused_where_the_class_is_defined(body: dict[str, Any], told: str):
    def law(self, f):
        return f("u")

    body = {**body, "law": body["law"](law)}
    with pytest.raises(UserError, match=told):
        type("Wrong", (Rod,), {"__module__": __name__, **body})


def test_a_symmetry_needs_a_parity():
    with pytest.raises(UserError, match=r'write @symmetric\(x="odd"\)'):
        symmetric(x="both")


def test_unknown_laws_and_projected_symmetries_are_refused():
    with pytest.raises(UserError, match=r"declares no law 'mas'; did you mean 'mass'\?"):
        task_of(mas={})
    with pytest.raises(UserError, match="a symmetry is a term only"):
        task_of(mirror="projection")
    assert list(declared(Rod)) == ["mass", "heat", "square", "mirror"]


def test_a_density_must_not_reduce_itself():
    class Sums(Rod):
        @conserved
        def mass(self, f):
            return f.ops.mean(f("u"))

    with pytest.raises(UserError, match="one value per point"):
        task_of(Sums(), mass={})


def test_times_of_a_law_can_be_drawn_by_its_residual_but_not_moved():
    from backends.spec import Points

    def with_rule(**rule: Any) -> Any:
        points = {"mass": Points.model_validate({"count": 8, "adapt": {"kind": "rard", "add": 2, **rule}})}
        return Rod().build(Parts(NETWORK, conserve={"mass": Conserve()}, points=points))

    (batch,) = with_rule().feed(0).adaptive()
    assert batch == "integral(x=64)"
    with pytest.raises(UserError, match="would leave their nodes"):
        with_rule(spread=0.1)


@pytest.mark.parametrize(
    "short",
    [
        {"conserve": ["mass"]},
        {"conserve": {"mass": "projection", "energy": {"tolerance": 1e-3}}},
        {"multiscale": {"pde": 3}},
        {"multiscale": {"pde": {"bands": 3, "coupling": 0.5}}},
    ],
)
def test_short_forms_stand_in_the_schema_and_are_read(short: dict[str, Any]):
    import jsonschema

    from orchestrator.config import Experiment
    from orchestrator.schema import json_schema

    tree = {"name": "x", "task": {"kind": "kdv"}, "stages": [{"kind": "adam", "steps": 1}], **short}
    jsonschema.validate(tree, json_schema())
    Experiment.model_validate(tree)


def test_where_the_equation_has_parameters_each_sample_begins_with_its_own():
    class Family(Rod):
        coords = {"t": (0, 1), "x": (0, 2), "spread": {"range": (0.1, 0.3), "scale": "linear"}}

    wave = lambda p: np.cos(math.pi * p["x"] / 2) * np.exp(-p["spread"] * math.pi**2 / 4 * p["t"])  # noqa: E731
    solution = lambda p: {"u": (1 + p["spread"]) * (1 + wave(p))}  # noqa: E731
    found = of_solution(Family(), "mass", "heat", solution=solution)
    assert np.abs(found["mass"]).max() < 1e-9 and np.abs(found["heat"]).max() < 1e-8
    with pytest.raises(UserError, match="one per value of theirs"):
        task_of(Family(), mass="projection")
    task = task_of(Family(), heat={}, mass={})
    params = task.init(np.random.default_rng(0))
    context = Context({k: np.array(v) for k, v in task.constants.items()})
    for batch, columns in task.feed(0).take(0, 1).fixed().items():
        whole = task.per_sample(OPS, params, batch, columns, context)
        part = task.per_sample(OPS, params, batch, {k: v[2:5] for k, v in columns.items()}, context)
        for name, values in whole.items():
            np.testing.assert_allclose(part[name], values[2:5], rtol=1e-12, atol=1e-13)


def test_in_a_geometry_there_are_no_nodes_of_a_box():
    from backends.geometry import Disk

    class Round(Problem):
        coords = {"t": (0, 1), "x": (-1, 1), "y": (-1, 1)}
        fields = ("u",)
        time = "t"
        geometry = Disk((0, 0), 1)

        @residual
        def pde(self, f):
            return f("u_t") - f.laplacian("u")

        @conserved
        def mass(self, f):
            return f("u")

    with pytest.raises(UserError, match="fill a box"):
        task_of(Round(), mass={})
