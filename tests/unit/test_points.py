"""Collocation points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from backends.errors import NonFinite, UserError
from backends.points.feed import PointFeed, Sampling, rad, sample_box
from backends.points.samplers import grid_shape
from backends.randomness import generator
from backends.spec import Rad

BOX = {"t": (0.0, 2.0), "x": (-1.0, 1.0)}
ADAPT = Rad(every=100, k=1, c=1, candidates=5)


def box(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return sample_box(BOX, count, "uniform", rng)


def feed(seed: int = 0, adapt: Rad | None = ADAPT) -> PointFeed:
    ends = Sampling(20, lambda count, rng: {"x": rng.choice([-1.0, 1.0], count)})
    return PointFeed({"interior": Sampling(100, box, adapt), "ends": ends}, seed)


@pytest.mark.parametrize("sampler", ["uniform", "sobol", "halton", "latin_hypercube", "grid"])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_every_sampler_fills_the_box_with_exactly_the_count_and_repeats_itself(sampler: str, count: int) -> None:
    if sampler == "grid" and count == 7:
        count = 8
    drawn = sample_box(BOX, count, sampler, generator(0, "a"))  # type: ignore[arg-type]
    again = sample_box(BOX, count, sampler, generator(0, "a"))  # type: ignore[arg-type]
    assert list(drawn) == ["t", "x"]
    for name, (low, high) in BOX.items():
        assert drawn[name].shape == (count,)
        assert ((drawn[name] >= low) & (drawn[name] <= high)).all()
        assert np.array_equal(drawn[name], again[name])
    if sampler != "grid" and count > 1:
        assert not np.array_equal(drawn["x"], sample_box(BOX, count, sampler, generator(1, "a"))["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["sobol", "halton", "latin_hypercube"])
def test_low_discrepancy_samplers_cover_the_box_more_evenly_than_uniform_numbers(sampler: str) -> None:
    def discrepancy(name: str) -> float:
        drawn = sample_box({"a": (0, 1), "b": (0, 1)}, 200, name, generator(3))  # type: ignore[arg-type]
        return float(qmc.discrepancy(np.stack(list(drawn.values()), 1)))

    assert discrepancy(sampler) < 0.7 * discrepancy("uniform")


def test_a_region_without_free_coordinates_has_no_columns_to_draw() -> None:
    assert sample_box({}, 10, "sobol", generator(0)) == {}


def test_a_grid_is_near_cubic_evenly_spaced_and_its_last_axis_the_finest() -> None:
    drawn = sample_box(BOX, 4000, "grid", generator(0))
    t, x = np.unique(drawn["t"]), np.unique(drawn["x"])
    assert (t.size, x.size) == (50, 80)
    assert np.allclose(np.diff(x), 2 / 80)
    assert math.isclose(x[0], -1 + 1 / 80)
    assert len({*zip(drawn["t"], drawn["x"], strict=True)}) == 4000


def test_a_count_without_a_near_cubic_grid_is_answered_with_the_nearest_that_have_one() -> None:
    with pytest.raises(
        UserError,
        match=r"1009 points in 2 coordinates would be a grid of 1 x 1009; take 1007 \(19 x 53\) or 1008 \(28 x 36\)",
    ):
        sample_box(BOX, 1009, "grid", generator(0))


@given(st.integers(1, 400), st.integers(1, 4))
def test_the_factors_of_a_grid_give_its_count_in_ascending_order(count: int, d: int) -> None:
    shape = grid_shape(count, d)
    assert math.prod(shape) == count
    assert list(shape) == sorted(shape)


@given(
    st.lists(st.floats(-1e200, 1e200), min_size=1, max_size=60),
    st.floats(0, 50),
    st.sampled_from([0.0, 1e-3, 1.0]),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_rad_draws_distinct_candidates_for_any_finite_residual(
    residual: list[float], k: float, c: float, seed: int
) -> None:
    count = max(1, len(residual) // 2)
    chosen = rad(np.array(residual), count, k, c, generator(seed))
    assert len(set(chosen.tolist())) == count
    assert chosen.min() >= 0
    assert chosen.max() < len(residual)


def test_rad_draws_by_equation_2_of_wu_et_al() -> None:
    # One draw of one candidate: its frequencies are p itself.
    residual = np.array([0.0, 1.0, -2.0, 5.0])
    p = residual**2 / np.mean(residual**2) + 0.5
    drawn = [int(rad(residual, 1, 2.0, 0.5, generator(0, i))[0]) for i in range(4000)]
    assert np.allclose(np.bincount(drawn, minlength=4) / 4000, p / p.sum(), atol=0.03)


def test_rad_without_residuals_draws_all_candidates_alike_and_with_c_zero_never_takes_a_zero_before_a_residual() -> (
    None
):
    counts = np.zeros(10)
    for i in range(2000):
        counts[rad(np.zeros(10), 3, 2.0, 0.0, generator(0, i))] += 1
    assert np.allclose(counts / 2000, 0.3, atol=0.04)
    residual = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert all({1, 3} <= set(rad(residual, 3, 1.0, 0.0, generator(1, i)).tolist()) for i in range(20))


def test_rad_refuses_what_is_not_finite_and_too_few_candidates() -> None:
    with pytest.raises(UserError, match="2 of 3 residuals are not finite"):
        rad(np.array([1.0, np.nan, np.inf]), 1, 1.0, 1.0, generator(0))
    with pytest.raises(UserError, match="4 points can't be drawn from 3"):
        rad(np.ones(3), 4, 1.0, 1.0, generator(0))


def test_points_follow_from_the_seed_and_sensors_do_not() -> None:
    sets = {"a": Sampling(10, box), "sensors": Sampling(10, box, fixed=True)}
    first, second = (PointFeed(sets, seed).take(0, 5).fixed() for seed in (0, 1))
    assert not np.array_equal(first["a"]["x"], second["a"]["x"])
    assert np.array_equal(first["sensors"]["x"], second["sensors"]["x"])


def test_points_gather_where_the_residual_is_large() -> None:
    points = feed(adapt=Rad(every=100, k=2, c=0))
    candidates = points.propose("interior", 100)
    assert candidates["x"].shape == (500,)
    points.adopt("interior", 100, candidates, np.exp(-100 * candidates["x"] ** 2))
    assert np.abs(points.take(100, 1).fixed()["interior"]["x"]).mean() < 0.2


def test_sets_are_due_every_so_many_steps_but_not_at_the_start() -> None:
    points = feed()
    assert [points.due(s) for s in (0, 99, 100, 150, 200)] == [[], [], ["interior"], [], ["interior"]]
    assert [points.next_due(s) for s in (0, 99, 100, 150)] == [100, 100, 200, 200]
    assert points.periods() == [100]
    assert feed(adapt=None).next_due(0) is None
    assert feed(adapt=None).adaptive() == []


def test_the_version_changes_with_the_points_and_only_then() -> None:
    points = feed()
    version = points.take(0, 100).version
    assert points.take(50, 7).version == version == feed().take(0, 1).version
    assert feed(seed=1).take(0, 1).version != version
    points.adopt("interior", 100, points.propose("interior", 100), np.ones(500))
    assert points.take(100, 1).version != version
    assert points.versions == {"interior": 1, "ends": 0}


def test_a_feed_that_was_saved_and_loaded_goes_on_with_the_same_points() -> None:
    through, before = feed(), feed()
    for points, steps in ((through, (100, 200)), (before, (100,))):
        for step in steps:
            candidates = points.propose("interior", step)
            points.adopt("interior", step, candidates, candidates["t"])
    after = feed()
    after.load(before.arrays())
    assert after.take(100, 1).version == before.take(100, 1).version
    candidates = after.propose("interior", 200)
    after.adopt("interior", 200, candidates, candidates["t"])
    assert after.take(200, 1).version == through.take(200, 1).version
    assert after.versions == through.versions
    assert feed().arrays() == {}


def test_loading_nothing_goes_back_to_the_points_of_the_seed() -> None:
    points = feed()
    version = points.take(0, 1).version
    points.adopt("interior", 100, points.propose("interior", 100), np.ones(500))
    points.load({})
    assert points.take(0, 1).version == version
    assert points.versions == {"interior": 0, "ends": 0}


def test_drawing_twice_at_the_same_step_proposes_other_candidates() -> None:
    points = feed()
    candidates = points.propose("interior", 100)
    points.adopt("interior", 100, candidates, np.ones(500))
    assert not np.array_equal(points.propose("interior", 100)["x"], candidates["x"])


def test_several_terms_of_a_set_are_joined_by_the_root_of_their_squares() -> None:
    one, two = feed(), feed()
    candidates = one.propose("interior", 100)
    a, b = candidates["t"], candidates["x"]
    one.adopt("interior", 100, candidates, {"pde/u": a, "pde/v": b})
    two.adopt("interior", 100, candidates, np.sqrt(a * a + b * b))
    assert one.take(100, 1).version == two.take(100, 1).version


def test_a_residual_that_is_not_finite_names_its_term_and_leaves_the_points() -> None:
    points = feed()
    version, candidates = points.take(0, 1).version, points.propose("interior", 100)
    bad = np.full(500, np.nan)
    with pytest.raises(NonFinite, match=r"step 100: .*candidate points of 'interior' is not finite in pde/v"):
        points.adopt("interior", 100, candidates, {"pde/u": np.ones(500), "pde/v": bad})
    assert points.take(100, 1).version == version


def test_arrays_of_another_experiment_are_refused_by_name() -> None:
    points = feed()
    points.adopt("interior", 100, points.propose("interior", 100), np.ones(500))
    saved = points.arrays()
    with pytest.raises(UserError, match="'points/interior/y' is unknown; did you mean 'points/interior/"):
        feed().load({"points/interior/y": np.ones(100)})
    with pytest.raises(UserError, match=r"points/interior/x has shape \(3,\), this run's is \(100,\)"):
        feed().load({**saved, "points/interior/x": np.ones(3)})
    with pytest.raises(UserError, match="points/interior/t is missing"):
        feed().load({k: v for k, v in saved.items() if not k.endswith("/t")})
    with pytest.raises(UserError, match="'ends' is not adaptive"):
        points.propose("ends", 100)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": np.ones(3), "y": np.ones(2)}, "columns must be arrays of one length"),
        ({"x": np.array([0.0, np.nan])}, "column 'x' is not finite at row 1"),
        ({"x": np.array(["a"])}, "not numbers"),
        ({}, "columns must be arrays"),
    ],
)
def test_a_region_of_the_users_own_that_yields_nonsense_is_named(columns: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(UserError, match=rf"points of 'mine': .*{told}"):
        PointFeed({"mine": Sampling(2, lambda count, rng: columns)}, 0).take(0, 1)


def test_the_version_of_loaded_points_does_not_depend_on_the_order_in_which_they_were_stored():
    sets = {"pde": Sampling(8, lambda n, rng: {"t": rng.random(n), "x": rng.random(n)}, Rad(every=5))}
    feed = PointFeed(sets, seed=0)
    feed.adopt("pde", 5, feed.propose("pde", 5), np.ones(40))
    version = feed.take(5, 1).version
    for order in (sorted(feed.arrays()), sorted(feed.arrays(), reverse=True)):
        again = PointFeed(feed.sets, seed=0)
        again.load({name: feed.arrays()[name] for name in order})
        assert again.take(5, 1).version == version
