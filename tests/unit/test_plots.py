"""Figures show what they claim to show: scales, signs, boundaries; and the data lies beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from PIL import Image

from backends.task import Picture
from orchestrator import plots

T, X = np.linspace(0, 1, 7), np.linspace(-1, 1, 9)
FIELD = np.sin(np.pi * X)[None, :] * np.exp(-T)[:, None]


def field(error: np.ndarray) -> Picture:
    panels = {"prediction": FIELD + error, "reference": FIELD, "error": error}
    return Picture("solution", "field", panels, {"t": T, "x": X})


def meshes(figure):
    return {axes.get_title().split(",")[0]: axes.collections[0] for axes in figure.axes if axes.collections}


def test_prediction_and_reference_share_their_colours_and_the_error_is_centred_on_zero():
    drawn = meshes(plots.draw(field(0.25 * FIELD)))
    assert drawn["prediction"].get_clim() == drawn["reference"].get_clim() == pytest.approx((-1.25, 1.25), rel=0.02)
    low, high = drawn["error"].get_clim()
    assert low == -high and high == pytest.approx(np.abs(0.25 * FIELD).max())


def test_the_title_of_the_error_says_its_largest_value():
    titles = [axes.get_title() for axes in plots.draw(field(np.full_like(FIELD, -3e-4))).axes]
    assert "error, max |e| = 3.00e-04" in titles


def test_an_exact_prediction_and_one_with_nan_are_drawn_all_the_same():
    plots.draw(field(np.zeros_like(FIELD)))
    plots.draw(field(np.full_like(FIELD, np.nan)))


def test_the_first_coordinate_runs_along_the_horizontal_axis():
    figure = plots.draw(Picture("u", "field", {"prediction": FIELD}, {"t": T, "x": X}))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("t", "x")
    mesh = axes.collections[0]
    assert np.ma.getdata(mesh.get_array()).shape == (len(X), len(T))
    assert np.allclose(np.ma.getdata(mesh.get_array()), FIELD.T)


def test_a_residual_that_spans_decades_has_a_logarithmic_scale():
    size = 10.0 ** np.linspace(-6, 0, T.size * X.size).reshape(T.size, X.size)
    figure = plots.draw(Picture("residual", "field", {"|pde|": size}, {"t": T, "x": X}))
    assert isinstance(figure.axes[0].collections[0].norm, LogNorm)


def test_a_field_over_one_coordinate_is_drawn_as_lines_with_the_error_beside():
    u = np.sin(X)
    figure = plots.draw(Picture("u", "field", {"prediction": u + 0.1, "reference": u, "error": u * 0 + 0.1}, {"x": X}))
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["reference", "prediction"]
    assert right.get_title() == "error, max |e| = 1.00e-01"


def test_rows_of_images_share_one_grey_scale():
    panels = {"data": np.zeros((3, 4, 5)), "reconstruction": np.full((3, 4, 5), 0.5)}
    figure = plots.draw(Picture("digits", "images", panels))
    assert [axes.images[0].get_clim() for axes in figure.axes] == [(0.0, 0.5)] * 2
    assert figure.axes[0].images[0].get_array().shape == (4, 3 * 6 - 1)


def test_scattered_points_keep_their_places_and_colours():
    points = np.stack([T, T**2, np.exp(-9 * T)], 1)
    figure = plots.draw(Picture("points", "scatter", {"7 points": points}, {"t": np.empty(0), "x": np.empty(0)}))
    dots = figure.axes[0].collections[0]
    by_colour = np.argsort(points[:, 2])
    assert np.allclose(dots.get_offsets(), points[by_colour, :2])
    assert np.allclose(dots.get_array(), points[by_colour, 2])


def series(**values):
    return {k.replace("__", "/"): (np.arange(0, 100 * len(v), 100), np.asarray(v, float)) for k, v in values.items()}


def test_histories_group_metrics_and_leave_out_what_was_not_recorded():
    recorded = series(
        loss=[2, 0.1], loss__pde=[1, 0.1], validation__total=[1, 0.5], error__l2=[1, 0.5], time__train_s=[0, 1]
    )
    made = {name: (figure, data) for name, figure, data in plots.histories(recorded)}
    assert list(made) == ["losses", "validation"]
    figure, data = made["losses"]
    assert figure.axes[0].get_yscale() == "log"
    assert [line.get_label() for line in figure.axes[0].lines] == ["loss (weighted)", "loss/pde"]
    assert data["loss/pde"].tolist() == [1, 0.1] and data["loss/pde/step"].tolist() == [0, 100]


def test_a_history_with_negative_values_is_linear_and_gaps_stay_gaps():
    figure = plots.history(series(unknown__k=[-1, np.nan, 1e3]), "unknown", "value")
    axes = figure.axes[0]
    assert axes.get_yscale() == "linear"
    assert np.isnan(axes.lines[0].get_ydata()[1])


def test_the_ends_of_stages_are_marked_at_their_steps():
    figure = plots.history(series(loss=[1, 0.1, 0.01, 0.001]), "loss", "", bounds=[(100, "warm"), (5000, "polish")])
    axes = figure.axes[0]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [100]
    assert [text.get_text() for text in axes.texts] == ["warm ┤"]


def test_a_picture_is_saved_in_every_format_with_its_data_beside(tmp_path: Path):
    picture = field(0.1 * FIELD)
    first = plots.save(
        plots.draw(picture), tmp_path / "figures" / "solution-000000500", ("png", "svg"), plots.data_of(picture)
    )
    assert first == tmp_path / "figures" / "solution-000000500.png"
    assert sorted(p.suffix for p in first.parent.iterdir()) == [".npz", ".png", ".svg"]
    with Image.open(first) as image:
        assert image.width == round((0.5 + 3.3 * 3) * 150)
    with np.load(first.with_suffix(".npz")) as data:
        assert np.array_equal(data["prediction"], picture.panels["prediction"]) and np.array_equal(data["axis/x"], X)


def test_drawing_neither_loads_pyplot_nor_changes_the_users_style():
    code = (
        "import sys, matplotlib as m; import numpy as np\n"
        "style = lambda: {k: m.rcParams[k] for k in m.rcParams if k != 'backend'}\n"  # reading `backend` loads pyplot
        "before = style()\n"
        "from orchestrator import plots\n"
        "plots.history({'loss': (np.arange(3), np.array([1., .1, .01]))}, 'loss', '')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert style() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
