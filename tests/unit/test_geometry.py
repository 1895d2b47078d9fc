"""Shapes: distances, normals, uniform samples inside and on boundaries, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import UserError
from backends.geometry import Ball, Box, Disk, Ellipse, Interval, Polygon, Rectangle, Shape, Triangle
from backends.geometry.sampling import boundary, inside, on_boundary, parts, volume

AXES = ("x", "y", "z", "a", "b")
ELL = Polygon([(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)], edges=("inlet", "", "", "", "outlet", ""))
SHAPES: dict[str, Shape] = {
    "interval": Interval(-1, 3),
    "rectangle": Rectangle((-1, 0), (2, 1)),
    "box5": Box((0,) * 5, (1, 2, 1, 1, 3)),
    "disk": Disk((1, 2), 0.5),
    "ball": Ball((0, 1, 0), 2.0),
    "ball4": Ball((0, 0, 0, 0), 1.0),
    "ellipse": Ellipse((1, 0), (2, 0.5)),
    "triangle": Triangle([(0, 0), (0, 1), (2, 0)]),
    "ell": ELL,
    "turned": Ellipse((0, 0), (1, 0.3)).rotated(0.7, about=(1, 1)).scaled(2.0).shifted(3, -1),
    "turned3": Box((0, 0, 0), (1, 2, 3)).rotated(0.5, axis=(1, 1, 0)),
    "plate": Rectangle((-1, -1), (1, 1), name="frame") - Disk((0, 0), 0.3, name="hole"),
    "keyhole": Disk((0, 0), 1, name="head") | Rectangle((-0.3, -2), (0.3, 0), name="slot"),
    "lens": Disk((0, 0), 1) & Disk((1, 0), 1),
    "octant": Ball((0, 0, 0), 1) & Box((0, 0, 0), (2, 2, 2)),
    "nested": (Rectangle((0, 0), (4, 2)) - Disk((1, 1), 0.5) - Disk((3, 1), 0.5)).rotated(0.3) | Disk((0, 0), 0.5),
    "two intervals": Interval(0, 3) - Interval(1, 2, name="gap"),
}
EACH = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


def columns(found: dict, shape: Shape, prefix: str = "") -> np.ndarray:
    return np.stack([found[prefix + c] for c in AXES[: shape.dimension]], 1)


def drawn(shape: Shape, count: int, part: str = "boundary", sampler="uniform", seed: int = 0):
    found = on_boundary(shape, part, AXES[: shape.dimension], count, sampler, np.random.default_rng(seed))
    return columns(found, shape), columns(found, shape, "normal_")


@EACH
def test_samples_lie_on_the_boundary_and_normals_point_out_of_it(shape: Shape):
    points, normals = drawn(shape, 400)
    assert np.abs(shape.signed_distance(points)).max() < 1e-9
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-12)
    step = 1e-5 * shape.size
    assert (shape.signed_distance(points + step * normals) > 0).mean() > 0.995, "but for corners"
    assert (shape.signed_distance(points - step * normals) < 0).mean() > 0.995


@EACH
@pytest.mark.parametrize("sampler", ["uniform", "sobol", "halton", "latin_hypercube"])
def test_samples_inside_are_inside(shape: Shape, sampler):
    found = inside(shape, AXES[: shape.dimension], 64, sampler, np.random.default_rng(0), {"t": (0.0, 2.0)})
    points = columns(found, shape)
    assert points.shape == (64, shape.dimension)
    assert (shape.signed_distance(points) <= 0).all()
    assert found["t"].shape == (64,) and found["t"].min() >= 0 and found["t"].max() <= 2


@EACH
def test_the_distance_is_at_most_that_to_any_boundary_point_and_its_gradient_is_a_unit(shape: Shape):
    rng = np.random.default_rng(1)
    low, high = map(np.array, shape.bounds())
    points = rng.uniform(low - 0.5, high + 0.5, (200, shape.dimension))
    on, _ = drawn(shape, 4000 if shape.dimension > 1 else 4)
    nearest = np.linalg.norm(points[:, None] - on[None], axis=2).min(axis=1)
    distance = shape.signed_distance(points)
    assert (np.abs(distance) <= nearest + 1e-9).all()
    slope = np.linalg.norm(shape.normals(points), axis=1)
    assert np.median(np.abs(slope - 1.0)) < 1e-6
    if len(shape.leaves()) == 1 and shape.dimension < 4:
        assert (nearest - np.abs(distance)).max() < 0.05 * shape.size


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.2, 2.0), st.floats(0.2, 2.0), st.floats(0, 6.3))
@settings(max_examples=200, deadline=None)
def test_the_distance_to_an_ellipse_is_that_to_its_nearest_point(x, y, a, b, angle):
    shape = Ellipse((0, 0), (a, b)).rotated(angle)
    t = np.linspace(0, 2 * np.pi, 20001)
    on = np.stack([a * np.cos(t), b * np.sin(t)], 1) @ np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    nearest = np.linalg.norm(on - np.array([x, y]), axis=1).min()
    distance = float(shape.signed_distance(np.array([[x, y]]))[0])
    assert -1e-9 < nearest - abs(distance) < 4e-4, "at most half the distance of two of those points"


@given(st.lists(st.tuples(st.floats(0.3, 1.0), st.floats(0.05, 1.0)), min_size=3, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_star_shaped_polygon_contains_what_its_angles_say_in_either_sense(spokes):
    turns = np.cumsum([w for _, w in spokes])
    angles = 2 * np.pi * turns / turns[-1]
    if np.diff([*angles, angles[0] + 2 * np.pi]).max() > 3.0:
        return  # the centre would be outside
    corners = [(r * math.cos(a), r * math.sin(a)) for (r, _), a in zip(spokes, angles, strict=True)]
    shape, other = Polygon(corners), Polygon(corners[::-1])
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (300, 2))
    expected = np.zeros(len(points), bool)
    for k in range(len(corners)):
        a, b = np.array(corners[k - 1]), np.array(corners[k])
        u, v = np.linalg.solve(np.stack([a, b], 1), points.T)
        expected |= (u >= 0) & (v >= 0) & (u + v <= 1)
    sure = np.abs(shape.signed_distance(points)) > 1e-9
    assert (shape.contains(points) == expected)[sure].all()
    assert np.allclose(shape.signed_distance(points), other.signed_distance(points), atol=1e-12)
    assert shape.volume == pytest.approx(other.volume)


@given(
    st.sampled_from(["|", "&", "-"]),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.floats(0.2, 1.5),
    st.floats(0, 3),
    st.floats(0.5, 2),
)
@settings(max_examples=150, deadline=None)
def test_the_sign_of_a_combination_is_its_logic(operation, x, y, radius, angle, factor):
    a = Rectangle((-1, -1), (1, 0.5)).rotated(angle).scaled(factor)
    b = Disk((x, y), radius)
    whole = {"|": a | b, "&": a & b, "-": a - b}[operation]
    points = np.random.default_rng(0).uniform(-3, 3, (300, 2))
    p, q = a.signed_distance(points) < 0, b.signed_distance(points) < 0
    expected = {"|": p | q, "&": p & q, "-": p & ~q}[operation]
    assert ((whole.signed_distance(points) < 0) == expected).all()
    low, high = map(np.array, whole.bounds())
    assert ((points >= low - 1e-12) & (points <= high + 1e-12)).all(1)[expected].all()


CHI2_99 = {7: 18.5, 15: 30.6}


@pytest.mark.parametrize("name", ["disk", "plate", "ell", "keyhole"])
def test_the_density_inside_is_uniform(name: str):
    """Counts in bins of equal area, found from a fine grid: chi squared below its 99 % quantile."""
    shape = SHAPES[name]
    found = inside(shape, ("x", "y"), 4000, "uniform", np.random.default_rng(3))
    low, high = map(np.array, shape.bounds())
    mesh = np.stack(np.meshgrid(*[np.linspace(a, b, 401)[:-1] for a, b in zip(low, high)], indexing="ij"), -1)
    fine = (mesh.reshape(-1, 2) + (high - low) / 800)[shape.contains(mesh.reshape(-1, 2) + (high - low) / 800)]
    x = np.quantile(fine[:, 0], [0.25, 0.5, 0.75])
    rows = np.searchsorted(x, fine[:, 0])
    cuts = [np.quantile(fine[rows == k, 1], [0.25, 0.5, 0.75]) for k in range(4)]
    strip = np.searchsorted(x, found["x"])
    cell = [np.searchsorted(cuts[k], y) for k, y in zip(strip, found["y"], strict=True)]
    counts = np.bincount(strip * 4 + np.array(cell), minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < CHI2_99[15], counts


@pytest.mark.parametrize("name", ["disk", "ellipse", "ell", "keyhole", "ball", "octant"])
def test_the_density_on_the_boundary_is_uniform(name: str):
    """Pairs of points are as far apart as pairs of a far larger, independent sample (its octiles of the distance)."""
    shape = SHAPES[name]
    points, _ = drawn(shape, 4000, seed=1)
    # An independent sample: points of a thin shell around the boundary, found by rejection.
    rng = np.random.default_rng(2)
    low, high = map(np.array, shape.bounds())
    cloud = rng.uniform(low - 0.01, high + 0.01, (500_000, shape.dimension))
    shell = cloud[np.abs(shape.signed_distance(cloud)) < 0.004 * shape.size]
    direction = np.array([0.6, 0.8, 0.3])[: shape.dimension]
    cuts = np.quantile(shell @ direction, np.arange(1, 8) / 8)
    counts = np.bincount(np.searchsorted(cuts, points @ direction), minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 2.5 * CHI2_99[7], counts  # the shell is thick at corners


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plate", 4 - 0.09 * math.pi),
        ("lens", 2 * math.pi / 3 - math.sqrt(3) / 2),
        ("octant", math.pi / 6),
        ("ell", 0.75),
        ("ball4", math.pi**2 / 2),
        ("two intervals", 2.0),
        ("turned", 4 * 0.3 * math.pi),
    ],
)
def test_volumes_are_those_of_the_textbook(name: str, expected: float):
    assert volume(SHAPES[name]) == pytest.approx(expected, rel=0.01)


def test_what_is_left_of_a_boundary_has_the_textbooks_length():
    kept = {r.patch.tags: r.measure for r in boundary(SHAPES["keyhole"])}
    reach = math.asin(0.3)
    assert kept[("head",)] == pytest.approx(2 * math.pi - 2 * reach, rel=1e-3)
    assert kept[("slot", "left")] == pytest.approx(2 - math.cos(reach), rel=2e-3)
    assert ("slot", "top") not in kept, "it lies inside the disk"
    assert kept[("slot", "bottom")] == 0.6


def test_parts_are_found_by_the_names_of_shapes_sides_and_edges():
    plate = SHAPES["plate"]
    assert set(parts(plate)) == {"frame", "hole", "left", "right", "bottom", "top"}
    points, normals = drawn(plate, 50, "hole")
    assert np.allclose(normals, -points / 0.3), "out of the plate is into the hole"
    points, normals = drawn(plate, 50, "left")
    assert (points[:, 0] == -1).all() and (normals == [-1, 0]).all()
    for polygon in (ELL, Polygon(ELL.corners[::-1], edges=(*ELL.edges[-2::-1], ELL.edges[-1]))):
        points, normals = drawn(polygon, 20, "inlet")
        assert (points[:, 1] == 0).all() and (normals == [0, -1]).all()
        points, normals = drawn(polygon, 20, "outlet")
        assert (points[:, 1] == 1).all() and (normals == [0, 1]).all()


def test_a_wall_that_two_shapes_share_is_sampled_once():
    same = Rectangle((0, 0), (1, 1), name="a") & Rectangle((0, 0), (2, 1), name="b")
    assert sum(r.measure for r in boundary(same)) == pytest.approx(4.0, rel=1e-3)
    beside = Rectangle((0, 0), (1, 1), name="a") | Rectangle((1, 0), (2, 1), name="b")
    assert sum(r.measure for r in boundary(beside)) == pytest.approx(6.0, rel=1e-3), "not the wall between them"
    cut = Rectangle((0, 0), (1, 1)) - Rectangle((0.5, 0), (1, 1), name="cut")
    assert sum(r.measure for r in boundary(cut)) == pytest.approx(3.0, rel=1e-3)


def test_low_discrepancy_fills_a_disk_more_evenly_than_chance():
    shape = Disk((0, 0), 1)

    def unevenness(sampler) -> float:
        total = 0.0
        for seed in range(8):
            found = inside(shape, ("x", "y"), 1024, sampler, np.random.default_rng(seed))
            square = np.sort(found["x"] ** 2 + found["y"] ** 2)  # uniform on [0, 1]
            total += float(((square - (np.arange(1024) + 0.5) / 1024) ** 2).mean())
        return total

    assert unevenness("sobol") < 0.2 * unevenness("uniform")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "edge 1 from (0, 0) to (1, 1) and edge 3 from (1, 0)"),
        (lambda: Polygon([(0, 0), (1, 0), (1, 0), (0, 1)]), "corner 2 of the polygon, (1, 0), is there twice"),
        (lambda: Polygon([(0, 0), (2, 0), (1, 0), (1, 1)]), "crosses itself: edge 1"),
        (lambda: Polygon([(0, 0), (1, 0)]), "three corners or more, not 2"),
        (lambda: Polygon([(0, 0), (1, 0), (1, float("nan"))]), "must be finite numbers"),
        (lambda: Polygon([(0, 0), (1, 0), (1, 1)], edges=("a",)), "of 3 edges can't have 1 names"),
        (lambda: Rectangle((0, 0), (1, 0)), "must lie below the upper one"),
        (lambda: Disk((0, 0), -1), "a radius must be a number above 0, not -1"),
        (lambda: Disk((0, 0, 0), 1), "a Disk has two axes, not 3"),
        (lambda: Disk((0, 0), 1) | Ball((0, 0, 0), 1), "in 2 dimensions can't be combined with one in 3"),
        (lambda: Disk((0, 0), 1) - 3, "is combined with a shape, not with 3"),
        (lambda: Disk((0, 0), 1).scaled(0), "by a factor above 0"),
        (lambda: Ball((0, 0, 0), 1).rotated(1.0), "in three about `axis=(x, y, z)`"),
        (lambda: volume(Disk((0, 0), 1) - Disk((0, 0), 2)), "the geometry is empty"),
        (lambda: volume(Disk((0, 0), 1) & Disk((5, 0), 1)), "the geometry is empty"),
        (lambda: drawn(SHAPES["plate"], 5, "hol"), "no part 'hol'; did you mean 'hole'?"),
        (lambda: drawn(SHAPES["keyhole"], 5, "top"), "nothing of 'top' is on the boundary"),
        (lambda: drawn(ELL, 5, sampler="grid"), "take sobol"),
    ],
)
def test_what_is_no_shape_is_refused(make, expected: str):
    with pytest.raises(UserError) as caught:
        make()
    assert expected in str(caught.value)
