"""Weights of single points: what each rule computes, where it may stand, and what becomes of it in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_backend import NumpyBackend, use

from backends import pointwise
from backends.errors import UserError
from backends.names import PLACE, WEIGHT
from backends.networks import MLP
from backends.ops import NumpyOps
from backends.pde.problem import Problem, loss, residual
from backends.pointwise import Weighted, attention, causal, self_adaptive
from backends.spec import Attention, Causal, Points, Rad, SelfAdaptive
from backends.task import Parts
from backends.tasks.heat import Heat
from backends.tasks.kovasznay import Kovasznay
from backends.tasks.poisson import Poisson
from orchestrator import resume, run
from orchestrator.folder import read_jsonl

OPS = NumpyOps()
Floats = list[float]


def weighted(spec: Any, size: int) -> Weighted:
    return Weighted("interior", "pde", spec, (("pde", 1.0),), size)


def after(spec: Any, places: Any, residuals: list[Floats], **numbers: float) -> tuple[Any, Any]:
    """(state, weights) of points at these places after steps with these residuals."""
    of = weighted(spec, len(places))
    aux = pointwise.initial({"interior": of})
    knobs = {f"pointwise/pde/{name}": float(getattr(spec, name)) for name in of.rule.KNOBS} | numbers
    columns = {PLACE: np.asarray(places)}
    for step in residuals:
        aux = pointwise.renewed(of, aux, columns, {"pde": np.asarray(step)}, knobs, 1)
    return of.of(aux), pointwise.of_points(of, aux, columns)


def test_a_causal_weight_is_the_exponential_of_the_losses_of_the_windows_before() -> None:
    spec = Causal(windows=3, eps=0.5, factor=1)
    places = [0, 0, 1, 2, 2]
    _, weights = after(spec, places, [[1.0, 3.0, 2.0, 7.0, 7.0]])
    losses = [(1 + 9) / 2, 4.0]
    expected = [1.0, np.exp(-0.5 * losses[0]), np.exp(-0.5 * sum(losses))]
    np.testing.assert_allclose(weights, np.array(expected)[places], rtol=1e-14)


def test_eps_grows_by_its_factor_while_all_weights_are_above_delta_and_no_further_than_the_last() -> None:
    spec = Causal(windows=2, eps=0.01, factor=10, last=5.0, delta=0.9)
    small = [[0.1, 0.1]]
    eps = [float(after(spec, [0, 1], small * n)[0]["eps"]) for n in range(6)]
    np.testing.assert_allclose(eps, [0.01, 0.1, 1, 5, 5, 5])
    assert float(after(spec, [0, 1], [[30.0, 0.1]])[0]["eps"]) == 0.01, "the first window is not solved yet"


def test_windows_without_points_do_not_count_and_windows_are_cut_from_the_whole_time() -> None:
    spec = Causal(windows=4, eps=1.0)
    assert causal.windows(spec, np.array([0.0, 0.49, 0.5, 1.9, 2.0]), 0.0, 2.0).tolist() == [0, 0, 1, 3, 3]
    _, weights = after(spec, [0, 3], [[1.0, 1.0]])
    np.testing.assert_allclose(weights, [1.0, np.exp(-1.0)])


@given(
    st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20),
    st.floats(0, 0.99),
    st.floats(1e-3, 2),
    st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_attention_stays_between_zero_and_its_bound_and_follows_the_relative_residual(
    residual: Floats, gamma: float, eta: float, steps: int
) -> None:
    spec = Attention(gamma=gamma, eta=eta)
    state, weights = after(spec, range(len(residual)), [residual] * steps)
    bound = max(1.0, eta / (1 - gamma))
    assert (state["lambda"] >= 0).all() and (state["lambda"] <= bound * (1 + 1e-12)).all()
    np.testing.assert_allclose(weights, state["lambda"] ** 2)
    order = np.argsort(np.abs(residual), kind="stable")
    assert (np.diff(state["lambda"][order]) >= -1e-12).all()
    of = weighted(spec, len(residual))  # as many updates at once, as line searches take them
    knobs = {"pointwise/pde/gamma": gamma, "pointwise/pde/eta": eta}
    places = {PLACE: np.arange(len(residual))}
    once = pointwise.renewed(of, pointwise.initial({"": of}), places, {"pde": np.array(residual)}, knobs, steps)
    np.testing.assert_allclose(of.of(once)["lambda"], state["lambda"], rtol=1e-9, atol=1e-12)


def test_attention_is_the_papers_rule() -> None:
    state, _ = after(Attention(gamma=0.9, eta=0.1), range(3), [[2.0, -4.0, 0.0]])
    np.testing.assert_allclose(state["lambda"], [0.9 + 0.05, 0.9 + 0.1, 0.9])


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=10),
    st.sampled_from(["linear", "square", "sigmoid"]),
    st.floats(1e-4, 1),
    st.floats(1.5, 100),
)
@settings(max_examples=60, deadline=None)
def test_self_adaptive_weights_begin_with_one_only_grow_and_stay_below_high(
    residual: Floats, mask: Any, lr: float, high: float
) -> None:
    spec = SelfAdaptive(mask=mask, lr=lr, high=high)
    before = after(spec, range(len(residual)), [])[1]
    np.testing.assert_allclose(before, 1.0, rtol=1e-12)
    for n in range(1, 5):
        _, weights = after(spec, range(len(residual)), [residual] * n)
        assert (weights >= before * (1 - 1e-12)).all() and (weights <= high * (1 + 1e-12)).all()
        before = weights


@pytest.mark.parametrize("mask", ["linear", "square", "sigmoid"])
def test_self_adaptive_weights_climb_the_gradient_of_their_part_of_the_loss(mask: Any) -> None:
    spec, h = SelfAdaptive(mask=mask, lr=0.01, high=10.0), 1e-6
    at = {"lambda": np.array([0.7]), "high": np.array(10.0), "seen": np.array([9.0])}

    def part(value: float) -> float:
        weight = self_adaptive.factor(OPS, spec, {**at, "lambda": np.array([value])}, np.array([0]))
        return float(0.5 * weight[0] * 9.0)

    new = self_adaptive.advanced(OPS, spec, at, {"lr": 0.01, "high": 10.0}, 1)
    slope = (part(0.7 + h) - part(0.7 - h)) / (2 * h)
    np.testing.assert_allclose(new["lambda"], 0.7 + 0.01 * slope, rtol=1e-8)


def test_points_that_stay_keep_their_weight_and_new_ones_begin_with_the_mean() -> None:
    state = {"lambda": np.array([1.0, 2.0, 6.0]), "seen": np.zeros(3)}
    assert attention.moved(state, np.array([2, -1, 0]))["lambda"].tolist() == [6.0, 3.0, 1.0]
    windows = {"weight": np.array([1.0, 0.5]), "eps": np.array(1.0)}
    assert causal.moved(windows, np.array([-1, -1]))["weight"] is windows["weight"]


def test_several_residuals_of_a_region_are_added_each_over_its_scale() -> None:
    of = Weighted("interior", "pde/x", Attention(), (("pde/x", 1.0), ("pde/mass", 4.0)), 2)
    squares = of.squares({"pde/x": np.array([1.0, 0.0]), "pde/mass": np.array([0.0, 2.0])})
    assert squares.tolist() == [1.0, 1.0]
    task = build(Kovasznay(), pde=Points(count=8, pointwise=Attention()))
    assert [name for name, _ in task.pointwise["interior"].scales] == ["pde/x", "pde/y", "pde/mass"]
    assert list(pointwise.knobs(task)) == ["pointwise/pde/x/gamma", "pointwise/pde/x/eta"]


# --- where they may stand ---


class Oscillator(Problem):
    """Without a declared time, and with a region that has no residual and one that reduces itself."""

    coords = {"s": (0.0, 1.0), "x": (0.0, 1.0)}
    fields = ("u",)

    @residual
    def pde(self, f: Any) -> Any:
        return f("u_s") + f("u_x")

    @loss(s=0)
    def energy(self, f: Any) -> Any:
        return f("u") ** 2

    @residual(s=1)
    def mean(self, f: Any) -> Any:
        return f.ops.mean(f("u"))


def build(problem: Any, **points: Any) -> Any:
    return problem.build(Parts(network=MLP(width=4, depth=1), points=points))


@pytest.mark.parametrize(
    ("problem", "points", "told"),
    [
        (Poisson(), {"pde": Points(count=8, pointwise=Causal())}, "Poisson declares none"),
        (Heat(), {"ic": Points(count=8, pointwise=Causal())}, "points at several times, and t=0 has one"),
        (Oscillator(), {"energy": Points(count=8, pointwise=Attention())}, "no residual, only losses"),
        (Oscillator(), {"mean": Points(count=8, pointwise=Attention())}, "reduces itself, so single points"),
        (Oscillator(), {"mean": Points(count=8, adapt=Rad())}, "reduces itself, so there is no residual at a point"),
    ],
    ids=["no time", "one time", "losses", "reduced", "reduced and adapted"],
)
def test_rules_that_do_not_suit_the_region_are_refused(problem: Any, points: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(problem, **points)


def test_programs_are_shared_where_only_numbers_differ() -> None:
    def signature(rule: Any) -> Any:
        return build(Heat(), pde=Points(count=8, pointwise=rule)).signature

    assert signature(Causal(eps=0.1)) == signature(Causal(eps=0.2, factor=3, delta=0.5, every=7))
    assert signature(Causal(windows=3)) != signature(Causal(windows=4)) != signature(None)
    assert signature(SelfAdaptive(mask="linear")) != signature(SelfAdaptive())


# --- in a run ---

TREE: dict[str, Any] = {
    "name": "weighed",
    "task": {"kind": "heat"},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {
        "pde": {
            "count": 24,
            "adapt": {"kind": "rard", "every": 6, "add": 4, "capacity": 40},
            "pointwise": {"kind": "causal", "windows": 4, "eps": 1.0, "every": 5},
        },
        "ic": {"count": 12, "adapt": {"kind": "fresh", "every": 7}, "pointwise": {"kind": "attention", "every": 4}},
    },
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 15},
        {"name": "polish", "kind": "lbfgs", "steps": 15},
    ],
    "evaluate": {"every": 10, "points": 20},
    "checkpoint": {"every": 9, "keep": 50, "best": "pointwise/pde/min"},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
}


@pytest.fixture(autouse=True)
def _numpy(monkeypatch: pytest.MonkeyPatch) -> list[NumpyBackend]:
    made: list[NumpyBackend] = []
    use(monkeypatch, made)
    return made


def kept(folder: Path) -> dict[str, Any]:
    from backends import checkpoint

    found = checkpoint.newest(folder / "checkpoints", pytest.fail)
    assert found is not None
    return {**found.arrays, **{f"feed/{k}": v for k, v in found.points.items()}}


def test_a_run_stopped_anywhere_goes_on_with_the_same_points_and_weights(tmp_path: Path) -> None:
    class Stop:
        def __init__(self, step: int) -> None:
            self.marks = (step,)

        def step(self, moment: Any) -> Any:
            from orchestrator import Ask

            return Ask(stop="here") if moment.step == self.marks[0] else None

    whole = run(TREE, out=tmp_path / "whole")
    expected = kept(whole.folder.path)
    assert {"aux/pointwise/interior/weight", "aux/pointwise/t=0/lambda", "feed/active/interior", "feed/touched"} <= {
        *expected
    }
    for step in (7, 18, 25):
        stopped = run(TREE, out=tmp_path / f"at{step}", callbacks=[Stop(step)])
        assert (stopped.status, stopped.step) == ("stopped", step)
        found = kept(resume(stopped.folder.path).folder.path)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[k], v) for k, v in expected.items()), step


def test_weights_are_set_before_the_first_step_and_renewed_in_line_searches(tmp_path: Path) -> None:
    result = run(TREE, out=tmp_path / "run")
    said = {r["step"]: r["metrics"] for r in read_jsonl(result.folder.metrics)[0]}
    assert said[0]["pointwise/pde/min"] < 1.0
    assert [said[s]["points/pde"] for s in (0, 10, 20, 30)] == [24, 28, 36, 40]
    assert said[20]["pointwise/ic/max"] != said[30]["pointwise/ic/max"]
    assert {"pointwise/pde/eps", "pointwise/ic/min"} <= said[30].keys()


def test_a_start_from_a_run_takes_its_parameters_and_not_its_weights_of_points(tmp_path: Path) -> None:
    first = run(TREE, out=tmp_path / "first")
    tree = {**TREE, "points": {"pde": 24}, "checkpoint": {"every": 9}, "start_from": str(first.folder.path)}
    assert run(tree, out=tmp_path / "second").status == "finished"
    again = run({**TREE, "start_from": str(tmp_path / "second")}, out=tmp_path / "third")
    assert again.status == "finished"


def test_figures_show_the_points_that_count_with_their_residuals_and_weights() -> None:
    task = build(
        Heat(),
        pde=Points(count=8, adapt={"kind": "rard", "capacity": 12, "add": 1}, pointwise=Attention()),  # type: ignore[arg-type]
    )
    samples = {b: dict(c) for b, c in task.feed(0).take(0, 1).fixed().items()}
    samples["interior"][WEIGHT] = np.linspace(1, 2, 12)

    def predict(names: Any, columns: Any) -> Any:
        count = len(next(iter(columns.values())))
        return {n: np.zeros(count) + 1.0 for n in names}

    (points,) = [p for p in task.pictures(predict, samples) if p.name == "points"]
    assert [(title, len(v)) for title, v in points.panels.items()] == [("8 points", 8), ("weights", 8)]
    assert points.panels["weights"][:, 2].tolist() == np.linspace(1, 2, 12)[:8].tolist()
