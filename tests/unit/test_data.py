"""Data sets, their files, and minibatches."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from backends.data import BatchFeed, DataSpec, Diabetes, Digits, Samples, Table, split
from backends.errors import UserError

CSV = "name,x, y ,z\na,0.5,1,2\n\nb,-1e-3,2,3\nc,1.5,3,4\n"


def table(folder: Path, text: str | bytes, **fields: object) -> Samples:
    (folder / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return Table(path="t.csv", **{"inputs": ["x"], "outputs": ["y"], "holdout": 0, **fields}).load(folder)


def test_a_csv_file_is_read_by_the_names_of_its_first_line(tmp_path: Path) -> None:
    samples = table(tmp_path, CSV, inputs=["z", "x"])
    assert samples.inputs == ("z", "x")
    assert samples.columns["x"].tolist() == [0.5, -1e-3, 1.5]
    assert samples.columns["y"].tolist() == [1.0, 2.0, 3.0]
    assert samples.columns["z"].tolist() == [2.0, 3.0, 4.0]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    assert table(tmp_path, b"\xef\xbb\xbfx,y\r\n1,2\r\n").columns["x"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"t\.csv is empty; its first line must name the columns"),
        ("x,y\n", "there are no rows"),
        ("x,Y\n1,2\n", "t.csv:1: there is no column 'y'.*(did you mean 'Y'|allowed here: Y, x)"),
        ("x;y\n1;2\n", "separated by commas, not semicolons"),
        ("x,y,x\n1,2,3\n", "the column 'x' is there 2 times"),
        ("x,y\n1,2\n3\n", "t.csv:3: 1 cells where the first line names 2 columns"),
        ("x,y\n1,2\n3,4,5\n", "t.csv:3: 3 cells where the first line names 2 columns"),
        ("x,y\n1,2\n3,four\n", "t.csv:3: column 'y': 'four' is not a number"),
        ("x,y\n1, \n", "t.csv:2: column 'y': the cell is empty"),
        ("x,y\n1,2\n3,nan\n", "column 'y' is nan in row 2 of 2"),
        ("x,y\n-inf,2\n3,4\n", "column 'x' is -inf in row 1 of 2"),
        (b"x,y\n\xff\xfe,2\n", "is not UTF-8 text"),
        ('x,y\n"1,2\n', "not a table of comma separated values"),
    ],
)
def test_a_bad_csv_file_is_answered_with_the_place_of_the_first_mistake(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        table(tmp_path, text)
    assert caught.value.path == "data.path"


def test_a_missing_file_is_answered_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text(CSV)
    with pytest.raises(UserError, match=r"there is no file .*mesured\.csv; did you mean 'measured\.csv'\?"):
        Table(path="mesured.csv", inputs=["x"], outputs=["y"]).load(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"folder\.csv can't be read"):
        Table(path="folder.csv", inputs=["x"], outputs=["y"]).load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones(3)}, "there is no array 'y'"),
        ({"x": np.ones(3), "y": np.ones(4)}, "the arrays differ in length: {'x': 3, 'y': 4}"),
        ({"x": np.ones((3, 2)), "y": np.ones(3)}, r"'x' has shape \(3, 2\)"),
        ({"x": np.array([None, "a"], object), "y": np.ones(2)}, "no archive of plain arrays of numbers"),
        ({"x": np.array(["a", "b"]), "y": np.ones(2)}, "'x' holds <U1, not real numbers"),
        ({"x": np.ones(2, complex), "y": np.ones(2)}, "'x' holds complex128"),
        ({"x": np.empty(0), "y": np.empty(0)}, "there are no rows"),
        ({"x": np.array([1.0, np.inf]), "y": np.ones(2)}, "column 'x' is inf in row 2 of 2"),
    ],
)
def test_a_bad_npz_file_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], told: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=told):
        Table(path="t.npz", inputs=["x"], outputs=["y"]).load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 broken"])
def test_a_damaged_npz_file_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.npz"):
        Table(path="t.npz", inputs=["x"], outputs=["y"]).load(tmp_path)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_an_npz_file_with_any_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    np.savez_compressed(path, x=np.arange(50) / 7, y=np.arange(50) / 3)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        Table(path=path.name, inputs=["x"], outputs=["y"]).load(path.parent)


def test_an_npz_file_gives_its_arrays_as_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.arange(4), y=np.array([True, False, True, True]), z=np.ones((2, 2)))
    columns = Table(path="t.npz", inputs=["x"], outputs=["y"]).load(tmp_path).columns
    assert columns["x"].dtype == columns["y"].dtype == np.float64
    assert columns["y"].tolist() == [1.0, 0.0, 1.0, 1.0]


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_text_makes_the_reader_fail_with_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    with contextlib.suppress(UserError):
        table(tmp_path_factory.getbasetemp(), text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"inputs": ["x"], "outputs": ["x"]}, "'x' is named twice"),
        ({"inputs": ["row"], "outputs": ["y"]}, "'row' is a name that the project uses itself"),
        ({"inputs": [], "outputs": ["y"]}, "at least 1 item"),
        ({"inputs": ["x"], "outputs": ["y"], "path": "t.txt"}, "should match pattern"),
        ({"inputs": ["x"], "outputs": ["y"], "holdout": 1.0}, "less than 1"),
        ({"inputs": ["x"], "outputs": ["y"], "batch": 0}, "greater than 0"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_when_the_file_is_read(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(DataSpec).validate_python({"kind": "table", "path": "t.csv", **fields})


def test_digits_are_1797_images_with_pixels_between_0_and_1() -> None:
    samples = Digits().load(Path())
    image = samples.columns["image"]
    assert image.shape == (1797, 8, 8)
    assert (image.min(), image.max()) == (0.0, 1.0)
    assert samples.columns["label"][:10].tolist() == list(range(10))
    assert samples.held_out.size == 359
    assert samples.training.size == 1438


def test_diabetes_are_442_patients_in_their_own_units() -> None:
    samples = Diabetes().load(Path())
    assert samples.inputs == ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    assert samples.columns["age"].max() == 79.0
    assert samples.columns["progression"].shape == (442,)


@given(st.integers(1, 500), st.floats(0, 0.999))
def test_every_row_is_either_trained_on_or_held_out(rows: int, holdout: float) -> None:
    training, held_out = split(rows, holdout)
    assert sorted([*training, *held_out]) == list(range(rows))
    assert training.size >= 1
    assert (held_out.size > 0) == (holdout > 0 and rows > 1)


def test_the_split_never_changes() -> None:
    # A change of these numbers would make runs incomparable with all earlier ones.
    assert split(10, 0.3)[1].tolist() == [1, 8, 9]


def feed(rows: int = 10, batch: int | None = 4, seed: int = 0) -> BatchFeed:
    return BatchFeed({"x": np.arange(rows) * 1.0, "row": np.arange(rows)}, batch, seed, "data")


def test_an_epoch_sees_every_row_once_and_the_next_one_in_another_order() -> None:
    index = feed().take(0, 5).stacked["data"]["index"]
    assert index.shape == (5, 4)
    epochs = index.reshape(2, 10)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (2, 1)))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(feed(seed=1).take(0, 5).stacked["data"]["index"], index)


@given(st.integers(1, 30), st.integers(1, 29), st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 40))
def test_batches_do_not_depend_on_how_steps_are_split_into_dispatches(
    rows: int, batch: int, lengths: list[int], start: int
) -> None:
    if batch >= rows:
        return
    whole = feed(rows, batch).take(start, sum(lengths)).stacked["data"]["index"]
    other, parts, step = feed(rows, batch), [], start
    for n in lengths:
        parts.append(other.take(step, n).stacked["data"]["index"])
        step += n
    assert np.array_equal(np.concatenate(parts), whole)


def test_data_stays_on_the_device_and_without_a_batch_size_every_step_reads_all_rows() -> None:
    whole, minibatches = feed(batch=None).take(0, 3), feed().take(7, 3)
    assert whole.version == minibatches.version == feed().take(0, 1).version
    assert feed(rows=11).take(0, 1).version != whole.version
    assert whole.stacked == feed(batch=10).take(0, 3).stacked == {}
    assert minibatches.fixed()["data"]["x"].shape == (10,)


def test_a_feed_of_data_has_nothing_to_save_and_takes_nothing_else() -> None:
    rows = feed()
    assert rows.arrays() == {}
    rows.load({})
    with pytest.raises(UserError, match="'points/interior/x' is unknown; this task draws rows of its data"):
        rows.load({"points/interior/x": np.ones(3)})


def test_workers_must_be_able_to_share_a_batch(tmp_path: Path) -> None:
    samples = table(tmp_path, "x,y\n" + "1,2\n" * 9)
    samples.shared_by(3)
    with pytest.raises(
        UserError, match="2 workers can't share the 9 rows of a step evenly; take a `batch` below 9 that"
    ):
        samples.shared_by(2)
    table(tmp_path, "x,y\n" + "1,2\n" * 9, batch=4).shared_by(2)
