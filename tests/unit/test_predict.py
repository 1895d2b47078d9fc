"""`orchestrator predict`: points from files and grids, any checkpoint, pieces, and answers to whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_backend import use

from backends.errors import UserError
from orchestrator import RunResult, cli, predict, run
from orchestrator.points_given import Grid, Table, grid
from orchestrator.predictions import snapshot_of

TREE: dict[str, Any] = {
    "name": "poisson",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {"pde": 16, "bc": 8},
    "stages": [{"kind": "adam", "steps": 6, "lr": 0.1}],
    "evaluate": {"every": 3, "points": 20},
    "checkpoint": {"every": 3},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 1},
}


@pytest.fixture
def trained(here: Path, monkeypatch: pytest.MonkeyPatch) -> RunResult:
    """Six steps on the numpy backend, checkpoints at 3 and 6."""
    use(monkeypatch)
    monkeypatch.setattr("orchestrator.figures.draw_all", lambda *args: [])
    return run(TREE)


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", *arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def table(text: str) -> tuple[list[str], np.ndarray]:
    header, *rows = csv.reader(io.StringIO(text))
    return header, np.array(rows, np.float64)


# --- points ---


@given(
    st.dictionaries(
        st.sampled_from(["t", "x", "y"]),
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 7)),
        min_size=1,
    ),
    st.integers(1, 50),
)
def test_a_grid_is_all_points_in_c_order_whatever_the_pieces(axes: dict[str, tuple[float, float, int]], size: int):
    made = grid(",".join(f"{n}={a!r}:{b!r}:{k}" for n, (a, b, k) in axes.items()))
    pieces = list(made.pieces(list(axes), size))
    assert all(len(p[n]) <= size for p in pieces for n in p)
    meshed = np.meshgrid(*(np.linspace(*a) for a in axes.values()), indexing="ij")
    for name, expected in zip(axes, meshed, strict=True):
        assert np.array_equal(np.concatenate([p[name] for p in pieces]), expected.ravel())


@given(st.text(max_size=30))
def test_any_other_text_is_refused_with_what_a_grid_is(text: str):
    try:
        made = grid(text)
    except UserError as error:
        assert str(error).startswith("--grid: ")
    else:
        assert all(np.isfinite(a).all() for a in made.axes.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not NAME=LOW:HIGH:COUNT"),
        ("x", "is not NAME=LOW:HIGH:COUNT"),
        ("x=", "is not LOW:HIGH:COUNT or one finite number"),
        ("x=0:1", "is not LOW:HIGH:COUNT or one finite number"),
        ("x=0:1:2:3", "is not LOW:HIGH:COUNT"),
        ("x=nan", "one finite number"),
        ("x=0:inf:3", "one finite number"),
        ("x=0:1:1.5", "is not LOW:HIGH:COUNT"),
        ("x=0:1:0", "the count must be at least 2"),
        ("x=0:1:1", "the count must be at least 2"),
        ("x=0:1:-5", "the count must be at least 2"),
        ("x=0,x=1", "'x' is given twice"),
        ("x=0:1:99999999999999", "the count is above"),
        ("x=0:1:100000,y=0:1:100000", "are more than"),
    ],
)
def test_a_wrong_grid_is_answered(text: str, message: str):
    with pytest.raises(UserError, match=f"--grid.*{message}"):
        grid(text)


def test_a_grid_has_the_coordinates_of_the_problem():
    made = grid("x=0:1:3,z=2")
    assert (made.shape, made.axes["z"].tolist()) == ((3, 1), [2.0])
    with pytest.raises(UserError, match=r"no coordinate 'z'; allowed here: t, x"):
        list(made.pieces(["t", "x"]))
    with pytest.raises(UserError, match="the coordinate 't' is missing: write t=LOW:HIGH:COUNT"):
        list(Grid({"x": np.zeros(1)}).pieces(["x", "t"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("x,y\n", "there are no rows"),
        ("x,yy\n1,2\n", "p.csv:1: there is no column 'y'; did you mean 'yy'?"),
        ("x;y\n1;2\n", "separated by commas"),
        ("x,x,y\n1,2,3\n", "the column 'x' is there 2 times"),
        ("x,y\n1,2\n1\n", "p.csv:3: 1 cells where the first line names 2"),
        ("x,y\n1,2\n\n1,nan\n", "p.csv:4: column 'y' is nan; remove such rows"),
        ("x,y\n-inf,2\n", "p.csv:2: column 'x' is -inf"),
        ("x,y\n1,\n", "p.csv:2: column 'y': the cell is empty"),
        ("x,y\n1,two\n", "p.csv:2: column 'y': 'two' is not a number"),
        ('x,y\n"1,2\n', "not a table"),
        ("x,y\n1,\xff\n", "is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_told_with_its_line(content: str, message: str, here: Path):
    (here / "p.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("?", r"\?")):
        list(Table(Path("p.csv")).pieces(["x", "y"]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [1.0], "yy": [1.0]}, "there is no array 'y'; did you mean 'yy'"),
        ({"x": [1.0, 2.0], "y": [1.0]}, "differ in length"),
        ({"x": [1.0, np.nan], "y": [1.0, 2.0]}, "'x' is not finite in row 2 of 2"),
        ({"x": ["a"], "y": [1.0]}, "not real numbers"),
        ({"x": 1.0, "y": [1.0]}, "is a single number"),
        ({"x": [], "y": []}, "there are no rows"),
        ({"x": [1j], "y": [1.0]}, "not real numbers"),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_told(arrays: dict[str, Any], message: str, here: Path):
    np.savez(here / "p.npz", **arrays)
    with pytest.raises(UserError, match=message):
        list(Table(Path("p.npz")).pieces(["x", "y"]))


def test_a_file_that_is_no_archive_or_not_there_is_told(here: Path):
    (here / "p.npz").write_text("no")
    with pytest.raises(UserError, match="no archive of plain arrays"):
        list(Table(Path("p.npz")).pieces(["x"]))
    np.save(here / "q", np.zeros(3))
    (here / "q.npy").rename(here / "q.npz")
    with pytest.raises(UserError, match="holds a single array"):
        list(Table(Path("q.npz")).pieces(["x"]))
    with pytest.raises(UserError, match=r"there is no file pp.npz; did you mean 'p.npz'"):
        list(Table(Path("pp.npz")).pieces(["x"]))


def test_files_come_in_pieces_without_the_columns_that_nobody_asked_for(here: Path):
    rows = [(i, i / 7, f"name {i}") for i in range(10)]
    (here / "p.csv").write_text("x,y,who\n" + "".join(f"{a},{b!r},{c}\n" for a, b, c in rows))
    np.savez(here / "p.npz", x=np.arange(10), y=np.arange(10) / 7, who=np.zeros((10, 2)))
    for name in ("p.csv", "p.npz"):
        pieces = list(Table(Path(name)).pieces(["y", "x"], 4))
        assert [len(p["x"]) for p in pieces] == [4, 4, 2]
        assert all(list(p) == ["y", "x"] for p in pieces)
        assert np.concatenate([p["y"] for p in pieces]).tolist() == [b for _, b, _ in rows]


# --- the verb ---


def test_a_grid_goes_to_stdout_as_csv_or_into_files(trained: RunResult, here: Path, capsys: Any):
    code, out, err = call(capsys, "poisson", "--grid", "x=0:1:3,y=0.5", "--outputs", "u,u_x,residual/pde")
    assert (code, err) == (0, "")
    header, values = table(out)
    assert header == ["x", "y", "u", "u_x", "residual/pde"]
    x, y = np.linspace(0, 1, 3), np.full(3, 0.5)
    expected = trained.predict({"x": x, "y": y}, ["u", "u_x", "residual/pde"])
    assert np.array_equal(values.T, [x, y, *expected.values()]), "every digit is written"
    code, out, err = call(capsys, "poisson", "--grid", "y=0:1:2,x=0:1:3", "--out", "g.npz")
    assert (code, out) == (0, "")
    assert "wrote g.npz (6 points, step 6)" in err
    with np.load("g.npz") as data:
        assert {k: v.shape for k, v in data.items()} == {"y": (2,), "x": (3,), "u": (2, 3)}
        meshed = np.meshgrid(data["y"], data["x"], indexing="ij")
        again = trained.predict({"y": meshed[0].ravel(), "x": meshed[1].ravel()})["u"]
        assert np.array_equal(data["u"].ravel(), again)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_points_from_a_file_come_back_with_their_predictions(
    suffix: str, trained: RunResult, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 25))
    (here / "p.csv").write_text("y,x\n" + "".join(f"{b!r},{a!r}\n" for a, b in zip(x.tolist(), y.tolist())))
    np.savez(here / "p.npz", x=x, y=y)
    monkeypatch.setattr(Table.pieces, "__defaults__", (7,))
    code, out, err = call(capsys, "latest", "--points", f"p.{suffix}", "--out", f"o.{suffix}")
    assert (code, out) == (0, "")
    assert "25 points" in err
    if suffix == "csv":
        header, values = table((here / "o.csv").read_text())
        found = dict(zip(header, values.T, strict=True))
    else:
        with np.load("o.npz") as data:
            found = dict(data)
    assert list(found) == ["x", "y", "u"]
    assert np.array_equal(found["x"], x)
    assert np.array_equal(found["u"], trained.predict({"x": x, "y": y})["u"])
    assert not [p for p in here.iterdir() if p.name.startswith(".")]


def test_every_checkpoint_can_be_asked(trained: RunResult, capsys: Any):
    def value(*more: str) -> float:
        return table(call(capsys, "poisson", "--grid", "x=0.3,y=0.4", *more)[1])[1][0, 2]

    first, last = (snapshot_of(trained.folder, name) for name in ("step-000000003", "last"))
    assert (first.step, last.step) == (3, 6)
    assert value() == value("--checkpoint", "last") == value("--checkpoint", "6")
    assert value("--checkpoint", "3") == value("--checkpoint", "step-000000003") != value()
    events = [json.loads(line) for line in trained.folder.events.read_text().splitlines()]
    best = [e for e in events if e["event"] == "checkpoint" and e["best"]][-1]["step"]
    assert value("--checkpoint", "best") == value("--checkpoint", str(best))
    assert trained.predict({"x": [0.3], "y": [0.4]}, checkpoint="3")["u"][0] == value("--checkpoint", "3")


def test_points_outside_the_domain_are_a_warning(trained: RunResult, capsys: Any):
    code, out, err = call(capsys, "poisson", "--grid", "x=0:2:3,y=0.5")
    assert code == 0
    assert len(out.splitlines()) == 4
    assert "1 of 3 points have x outside 0 … 1, where the network was never trained" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poisson",), "say where: --points"),
        (("poisson", "--grid", "x=0", "--points", "p.csv"), "one of them"),
        (("poisson", "--grid", "x=0,z=0"), "there is no coordinate 'z'"),
        (("poisson", "--grid", "x=0"), "the coordinate 'y' is missing"),
        (("poisson", "--points", "p.txt"), "must end in .csv or .npz"),
        (("poisson", "--points", "no.csv"), "there is no file no.csv"),
        (("poisson", "--points", "p.csv", "--out", "p.csv"), "is the file of the points"),
        (("poisson", "--grid", "x=0,y=0", "--out", "o.txt"), "must end in .csv or .npz"),
        (("poisson", "--grid", "x=0,y=0", "--out", "no/o.csv"), "there is no folder no"),
        (("poisson", "--grid", "x=0,y=0", "--outputs", "v"), "'v' is not known here"),
        (("poisson", "--grid", "x=0,y=0", "--outputs", "u_z"), "u_z"),
        (("poisson", "--grid", "x=0,y=0", "--outputs", "residual/pdf"), "did you mean 'pde'?"),
        (("poisson", "--grid", "x=0,y=0", "--outputs", ","), "name each output once"),
        (("poisson", "--grid", "x=0,y=0", "--outputs", "u,u"), "name each output once"),
        (("poisson", "--grid", "x=0,y=0", "--checkpoint", "lats"), "did you mean 'last'?"),
        (("poisson", "--grid", "x=0,y=0", "--checkpoint", "4"), "no checkpoint 'step-000000004'"),
        (("poisson", "--grid", "x=0,y=0", "-s", "seed=3"), "can only change backend and device"),
        (("poisson", "--grid", "x=0,y=0", "-s", "backend=numpy"), "must be one of jax, torch"),
        (("poison", "--grid", "x=0,y=0"), "did you mean 'poisson'?"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, trained: RunResult, here: Path, capsys: Any
):
    (here / "p.csv").write_text("x,y\n0.1,0.2\n")
    before = {p.name for p in here.iterdir()}
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert {p.name for p in here.iterdir()} == before


def test_a_file_that_breaks_off_in_the_middle_leaves_no_output(
    trained: RunResult, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    (here / "p.csv").write_text("x,y\n0.1,0.2\n0.1,0.2\n0.1,nan\n")
    monkeypatch.setattr(Table.pieces, "__defaults__", (2,))
    for out in ("o.csv", "o.npz"):
        assert call(capsys, "poisson", "--points", "p.csv", "--out", out)[0] == 2
    assert {p.name for p in here.iterdir()} == {"p.csv", "runs"}


def test_a_run_without_a_best_checkpoint_says_so(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    use(monkeypatch)
    run({**TREE, "checkpoint": {"best": None}})
    code, _, err = call(capsys, "poisson", "--grid", "x=0,y=0", "--checkpoint", "best")
    assert code == 2
    assert "has no best checkpoint" in err


def test_python_gives_the_same_answers(trained: RunResult, here: Path):
    points = {"x": [0.1, 0.2], "y": [0.3, 0.4]}
    values = [predict(r, points)["u"] for r in (trained, trained.folder, trained.path, "poisson")]
    assert all(np.array_equal(v, values[0]) for v in values)
    for wrong, message in (
        ({"x": [0.1]}, "the column 'y' is missing"),
        ({"x": [0.1, 0.2], "y": [0.1]}, "of one length"),
        ({"x": [0.1], "y": [math.inf]}, "'y' is not finite in row 0"),
        ({"x": ["a"], "y": [0.1]}, "not real numbers"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, r"'x' has the shape \[2, 3\]; \[samples\] is needed"),
    ):
        with pytest.raises(UserError, match=message):
            predict(trained, wrong)


# --- other tasks ---


def test_a_term_on_measured_points_reads_the_files_columns(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    use(monkeypatch)
    result = run({**TREE, "name": "inverse", "task": {"kind": "inverse_heat", "measurements": 5}, "points": {"pde": 8}})
    (here / "p.csv").write_text("t,x,measured\n0.5,0.5,2.0\n0.1,0.2,3.0\n")
    code, out, err = call(capsys, "inverse", "--points", "p.csv", "--outputs", "u,residual/data,residual/ic")
    assert (code, err) == (0, "")
    header, values = table(out)
    assert header == ["t", "x", "u", "residual/data", "residual/ic"]
    assert values[:, 3] == pytest.approx(values[:, 2] - [2.0, 3.0])
    assert result.predict({"t": [0.5], "x": [0.5], "measured": [2.0]}, ["residual/data"])


def test_observations_of_a_file_are_a_term_that_can_be_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    use(monkeypatch)
    (here / "seen.csv").write_text("x,y,u\n0.1,0.2,0.3\n0.4,0.5,0.6\n")
    run({**TREE, "data": {"kind": "observations", "path": "seen.csv"}})
    (here / "p.csv").write_text("x,y,observed_u\n0.5,0.5,2.0\n")
    code, out, err = call(capsys, "poisson", "--points", "p.csv", "--outputs", "u,residual/data")
    assert (code, err) == (0, "")
    assert table(out)[1][0, 3] == pytest.approx(table(out)[1][0, 2] - 2.0)


def test_a_regression_is_asked_by_its_inputs(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    use(monkeypatch)
    (here / "data.csv").write_text("a,b,y\n" + "".join(f"{i},{i * i},{2 * i}\n" for i in range(20)))
    data = {"kind": "table", "path": "data.csv", "inputs": ["a", "b"], "outputs": ["y"]}
    tree = {k: v for k, v in TREE.items() if k != "points"}
    run({**tree, "name": "lines", "task": {"kind": "regression"}, "data": data})
    code, out, err = call(capsys, "lines", "--points", "data.csv")
    assert (code, err) == (0, "")
    assert table(out)[0] == ["a", "b", "y"]
    (here / "half.csv").write_text("a\n1\n")
    assert "there is no column 'b'" in call(capsys, "lines", "--points", "half.csv")[2]


def test_images_come_from_npz_and_latent_rows_become_columns(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    use(monkeypatch)
    tree = {k: v for k, v in TREE.items() if k != "points"}
    network = {"kind": "vae", "latent": 2, "width": 4, "depth": 1}
    run({**tree, "name": "digits", "task": {"kind": "vae"}, "data": {"kind": "digits"}, "network": network})
    np.savez(here / "p.npz", image=np.random.default_rng(0).uniform(0, 1, (5, 8, 8)))
    code, out, err = call(capsys, "digits", "--points", "p.npz", "--outputs", "mean,log_variance")
    assert (code, err) == (0, "")
    header, values = table(out)
    assert header == ["mean_0", "mean_1", "log_variance_0", "log_variance_1"]
    assert values.shape == (5, 4)
    assert call(capsys, "digits", "--points", "p.npz", "--out", "o.npz")[0] == 0
    with np.load("o.npz") as data:
        assert data["reconstruction"].shape == data["image"].shape == data["sample"].shape == (5, 8, 8)
    for arguments, message in (
        (("--points", "p.npz", "--out", "o.csv"), "which no CSV cell holds: --out FILE.npz"),
        (("--points", "p.csv"), "give an npz file"),
        (("--points", "wrong.npz"), "[samples, 8, 8] is needed"),
    ):
        (here / "p.csv").write_text("image\n1\n")
        np.savez(here / "wrong.npz", image=np.zeros((2, 8, 9)))
        code, _, err = call(capsys, "digits", *arguments)
        assert code == 2
        assert message in err


@pytest.mark.slow
def test_a_run_of_one_backend_predicts_on_the_other(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr("orchestrator.figures.draw_all", lambda *args: [])
    run({**TREE, "backend": "jax", "precision": "float64"})
    values = [
        table(call(capsys, "poisson", "--grid", "x=0:1:4,y=0:1:3", "--outputs", "u,u_xx", *more)[1])[1]
        for more in ((), ("-s", "backend=torch"))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-12)
