"""Points that follow on the present ones: buffers that grow, several residuals, fresh draws, reflection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import UserError
from backends.names import SHARE
from backends.networks import MLP
from backends.points.feed import PointFeed, Sampling
from backends.points.resampling import NEW, filled, refined, reflected, sized, spread
from backends.points.samplers import sample_box
from backends.randomness import generator
from backends.spec import Fresh, Points, Rad, Rard
from backends.task import Parts
from backends.tasks.heat import Heat
from backends.tasks.kovasznay import Kovasznay
from backends.tasks.poisson import Poisson

BOX = {"t": (0.0, 2.0), "x": (-1.0, 1.0)}


def box(count: int, rng: np.random.Generator) -> Any:
    return sample_box(BOX, count, "uniform", rng)


def grown(feed: PointFeed, rounds: int) -> list[Any]:
    """A set after each of some refinements at a residual that is large around x = 0."""
    found = []
    for k in range(1, rounds + 1):
        candidates = feed.propose("pde", 10 * k)
        kept = feed.adopt("pde", 10 * k, candidates, {"pde": np.exp(-50 * candidates["x"] ** 2)})
        found.append((feed.take(10 * k, 1).fixed()["pde"], kept))
    return found


def rard_feed(**fields: Any) -> PointFeed:
    rule = Rard(every=10, **{"add": 6, "capacity": 40, **fields})
    return PointFeed({"pde": Sampling(20, box, rule)}, seed=0)


def test_a_buffer_has_one_length_and_its_mean_is_that_of_the_points_that_count() -> None:
    feed = rard_feed()
    start = feed.take(0, 1).fixed()["pde"]
    assert len(start["x"]) == 40
    assert np.array_equal(start["x"], np.tile(start["x"][:20], 2)), "what does not count yet are copies: finite as they"
    for columns, active in [(start, 20), *((c, min(20 + 6 * (k + 1), 40)) for k, (c, _) in enumerate(grown(feed, 5)))]:
        assert len(columns["x"]) == 40
        assert np.isclose(np.mean(columns[SHARE] * columns["x"] ** 2), np.mean(columns["x"][:active] ** 2), rtol=1e-14)
        assert (columns[SHARE][active:] == 0).all()


def test_points_join_where_the_residual_is_large_and_the_old_ones_stay_until_the_buffer_is_full() -> None:
    feed = rard_feed()
    start = feed.take(0, 1).fixed()["pde"]["x"][:20]
    steps = grown(feed, 4)
    assert feed.active == {"pde": 40}
    third = steps[2][0]["x"]
    assert np.array_equal(third[:20], start)
    assert np.abs(third[20:38]).mean() < 0.3 < np.abs(start).mean()
    last, kept = steps[3]
    replaced = np.flatnonzero(kept == NEW)
    assert list(replaced[-2:]) == [38, 39], "two join"
    assert len(replaced) == 6, "four replace others"
    gone = np.abs(third[:38][replaced[:4]])
    assert gone.min() >= np.sort(np.abs(third[:38]))[-4], "those of the smallest residual, farthest from x = 0"
    assert np.array_equal(last["x"][kept >= 0], third[kept[kept >= 0]])


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 40), st.floats(0, 4), st.floats(0, 2), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_refinement_keeps_adds_and_replaces_exactly_as_many_as_there_is_room(
    active: int, room: int, add: int, k: float, c: float, seed: int
) -> None:
    rng = generator(seed, "residuals")
    present, fresh = rng.random(active + room), rng.random(80)
    found = refined(Rard(add=add, k=k, c=c), active, fresh, present, generator(seed))
    added = min(add, active + room)
    assert found.active == min(active + added, active + room)
    assert (found.kept == NEW).sum() == len(set(found.chosen.tolist())) == added
    stayed = found.kept[found.kept >= 0]
    assert np.array_equal(stayed, np.flatnonzero(found.kept[:active] != NEW)), "every point stays in its place"
    replaced = np.flatnonzero(found.kept[:active] == NEW)
    if len(replaced) and len(stayed):
        assert present[replaced].max() <= present[stayed].min()


def test_a_buffer_that_was_saved_goes_on_with_the_same_points() -> None:
    through, before = rard_feed(spread=0.1), rard_feed(spread=0.1)
    expected = grown(through, 4)[-1][0]
    grown(before, 2)
    after = rard_feed(spread=0.1)
    after.load(before.arrays())
    assert after.active == {"pde": 32}
    for k in (3, 4):
        candidates = after.propose("pde", 10 * k)
        after.adopt("pde", 10 * k, candidates, {"pde": np.exp(-50 * candidates["x"] ** 2)})
    assert all(np.array_equal(after.take(0, 1).fixed()["pde"][c], v) for c, v in expected.items())
    assert after.take(0, 1).version == through.take(0, 1).version


@given(st.floats(-1e6, 1e6), st.floats(-10, 10), st.floats(0.1, 10))
def test_reflection_ends_inside_keeps_what_is_inside_and_mirrors_at_the_ends(
    x: float, low: float, length: float
) -> None:
    high = low + length
    (found,) = reflected(np.array([x]), low, high)
    assert low <= found <= high
    if low <= x <= high:
        assert np.isclose(found, x, atol=1e-9)
    (mirrored,) = reflected(np.array([2 * low - x]), low, high)
    assert np.isclose(found, mirrored, atol=1e-6)


def test_spread_points_do_not_pile_up_at_the_ends_as_clipped_ones_do() -> None:
    near = spread(np.full(4000, 0.99), 0.0, 1.0, 0.1, "normal", generator(0))
    assert 0.95 < near.max() < 1.0
    assert (near == 1.0).sum() == 0
    assert np.abs(spread(np.full(500, 0.5), 0.0, 1.0, 0.1, "uniform", generator(0)) - 0.5).max() <= 0.1


def test_residuals_of_several_terms_are_chosen_by_name_and_made_comparable_by_their_scales() -> None:
    terms = {"pde/x": np.array([3.0, 0.0]), "pde/mass": np.array([0.0, -4.0])}
    assert sized(terms, "sum", {}).tolist() == [3.0, 4.0]
    assert sized(terms, ("pde/mass",), {}).tolist() == [0.0, 4.0]
    assert sized(terms, "sum", {"pde/mass": 16.0}).tolist() == [3.0, 1.0]


def test_the_residual_that_is_named_decides_where_points_go() -> None:
    def feed(by: Any) -> PointFeed:
        return PointFeed({"pde": Sampling(20, box, Rad(k=4, c=0, by=by))}, 0)

    found = {}
    for by in (("pde/a",), ("pde/b",)):
        points = feed(by)
        candidates = points.propose("pde", 500)
        residuals = {"pde/a": np.exp(-30 * candidates["x"] ** 2), "pde/b": candidates["t"] ** 4}
        points.adopt("pde", 500, candidates, residuals)
        found[by[0]] = points.take(0, 1).fixed()["pde"]
    assert np.abs(found["pde/a"]["x"]).mean() < 0.2 < np.abs(found["pde/b"]["x"]).mean()
    assert found["pde/b"]["t"].mean() > 1.4 > found["pde/a"]["t"].mean()


def test_fresh_points_are_new_at_every_draw_and_need_no_residual() -> None:
    feed = PointFeed({"pde": Sampling(20, box, Fresh(every=10))}, 0)
    before = feed.take(0, 1).fixed()["pde"]["x"]
    assert feed.blind("pde") and feed.due(10) == ["pde"]
    for step in (10, 20):
        assert (feed.adopt("pde", step, feed.propose("pde", step), {}) == NEW).all()
        now = feed.take(step, 1).fixed()["pde"]["x"]
        assert len(now) == 20 and not set(now) & set(before)
        before = now


def build(problem: Any, workers: int = 1, **points: Any) -> Any:
    return problem.build(Parts(network=MLP(width=4, depth=1), points=points, workers=workers))


def test_points_of_a_boundary_are_adapted_and_spread_along_it_and_stay_on_it() -> None:
    task = build(Poisson(), bc=Points(count=40, adapt=Rard(add=20, spread=0.3)))
    feed = task.feed(0)
    assert len(feed.take(0, 1).fixed()["boundary"]["x"]) == 80, "a capacity that is not said is twice the count"
    for step in (500, 1000):
        candidates = feed.propose("boundary", step)
        feed.adopt("boundary", step, candidates, {"bc": candidates["y"]})
    at = feed.take(0, 1).fixed()["boundary"]
    distance = np.minimum(np.minimum(at["x"], 1 - at["x"]), np.minimum(at["y"], 1 - at["y"]))
    assert feed.active["boundary"] == 80
    assert np.abs(distance).max() < 1e-12
    assert at["y"][40:].mean() > 0.55, "they are drawn where the residual is large"


@pytest.mark.parametrize(
    ("problem", "workers", "points", "told"),
    [
        (Kovasznay(), 1, {"pde": Points(count=20, adapt=Rad(by=("pde/mas",)))}, "did you mean 'pde/mass'"),
        (Kovasznay(), 1, {"pde": Points(count=20, adapt=Rad(by=()))}, "names no term"),
        (Poisson(), 1, {"pde": Points(count=16, sampler="grid", adapt=Fresh())}, "a grid is the same at every draw"),
        (Poisson(), 3, {"pde": Points(count=30, adapt=Rard(add=3, capacity=40))}, "to 3 workers; take 42"),
        (Heat(), 1, {"pde": Points(count=20, chunk=15, adapt=Rard(capacity=40, add=2))}, "15 does not divide the 40"),
    ],
    ids=["unknown term", "no term", "grid", "workers", "chunk"],
)
def test_rules_that_do_not_suit_the_region_are_refused(problem: Any, workers: int, points: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(problem, workers, **points)


def test_filling_repeats_the_points_that_count() -> None:
    assert filled({"x": np.arange(5.0)}, 2, 5)["x"].tolist() == [0, 1, 0, 1, 0]


def test_a_set_of_another_count_has_room_in_proportion() -> None:
    sampling = Sampling(20, box, Rard(capacity=50, add=5))
    assert (sampling.of(10).count, sampling.of(10).size) == (10, 25)
    assert Sampling(20, box, Rad()).of(7).size == 7
