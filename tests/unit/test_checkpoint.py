"""Checkpoints: what is acknowledged can be loaded, whatever fails; what is damaged is never loaded."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends import checkpoint
from backends.checkpoint import Snapshot
from backends.errors import StorageFailed, UserError


@pytest.fixture(autouse=True)
def disk_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that was written: flushing is tested by its order, not by waiting for disks."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def snapshot(step: int, value: float | None = None) -> Snapshot:
    """A state that shows in every file which step (or `value`) it belongs to."""
    value = float(step) if value is None else value
    return Snapshot(
        step,
        {
            "params/net/w0": np.full((2, 3), value),
            "params/net/b0": np.full(3, value, dtype=np.float32),
            "optimizer/adam/mu/net/w0": np.full((2, 3), -value),
            "optimizer/adam/count": np.array(step, dtype=np.int64),
            "aux/seen": np.array([True, False]),
            "constants/nu": np.array(value),
        },
        {"stage": 0, "precision": "float64", "backend": "jax"},
        {"knobs": {"weight/pde": value}, "callbacks": [None, {"best": float("inf")}]},
        {"pde/x": np.full(4, value)},
    )


def assert_equal(a: Snapshot, b: Snapshot) -> None:
    assert a.step == b.step
    for mine, theirs in ((a.arrays, b.arrays), (a.points, b.points)):
        assert set(mine) == set(theirs)
        for name, array in mine.items():
            assert theirs[name].dtype == np.asarray(array).dtype, name
            assert theirs[name].shape == np.shape(array), name
            np.testing.assert_array_equal(theirs[name], array)
    assert dict(a.meta) == dict(b.meta)
    assert dict(a.loop) == dict(b.loop)


def silent(message: str) -> None:
    """Warnings that a test does not look at."""


# --- what goes in comes out ---


def test_a_snapshot_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", snapshot(5000))
    assert path == tmp_path / "checkpoints" / "step-000005000"
    assert_equal(snapshot(5000), checkpoint.load(path))


def test_the_folder_holds_the_files_of_the_design_and_no_pickle(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(1))
    names = {p.name for p in path.iterdir()}
    tensors = {f"{n}.safetensors" for n in ("params", "optimizer", "aux", "points", "constants")}
    assert names == tensors | {"loop.json", "meta.json"}
    about = json.loads((path / "meta.json").read_text())
    assert set(about["files"]) == names - {"meta.json"}
    assert about["format"] == 1 and about["step"] == 1 and about["meta"]["backend"] == "jax"
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"], "nothing temporary stays"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12.0).reshape(3, 4)[::2, 1::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(5.0)[::-1],
        np.array(3.5),
        np.array(7, dtype=np.int64),
        np.array(True),
        np.zeros((0, 4), dtype=np.float32),
        np.arange(3, dtype=">f8"),
        np.array([1 + 2j], dtype=np.complex64),
        np.array([np.nan, np.inf, -0.0]),
    ],
    ids=lambda a: f"{a.dtype} {a.shape} {a.strides}",
)
def test_memory_layout_and_dtype_do_not_matter(tmp_path: Path, array: np.ndarray) -> None:
    loaded = checkpoint.load(checkpoint.save(tmp_path, Snapshot(1, {"params/a": array}))).arrays["params/a"]
    assert loaded.shape == array.shape and loaded.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)


_NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60) | st.booleans() | st.none() | st.text(max_size=5)
_STATE = st.recursive(_NUMBERS, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3))
_ARRAYS = st.dictionaries(
    st.from_regex(r"(params|aux|optimizer/adam|constants)/[a-z0-9_/.]{1,12}", fullmatch=True),
    st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_, np.uint8]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
    max_size=5,
)


@settings(max_examples=20, deadline=None, database=None)
@given(st.integers(0, 10**12), _ARRAYS, _ARRAYS, st.dictionaries(st.text(max_size=5), _STATE, max_size=4))
def test_any_state_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, step: int, arrays: Any, points: Any, loop: Any
) -> None:
    folder = tmp_path_factory.mktemp("round")
    given_ = Snapshot(step, arrays, loop, loop, points)
    assert_equal(given_, checkpoint.load(checkpoint.save(folder, given_)))
    shutil.rmtree(folder)


def test_numpy_numbers_in_the_loop_state_are_numbers_again(tmp_path: Path) -> None:
    loop = {"best": np.float64(0.5), "steps": np.array([1, 2]), "at": np.int64(3)}
    loaded = checkpoint.load(checkpoint.save(tmp_path, Snapshot(1, {}, loop=loop))).loop
    assert loaded == {"best": 0.5, "steps": [1, 2], "at": 3}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Snapshot(1, {"aux/x": np.array([object()])}), "aux/… can't be kept in a checkpoint (object)"),
        (Snapshot(1, {"params/x": np.zeros(2, dtype=complex)}), "complex128"),
        (Snapshot(1, {}, loop={"callbacks": [{1, 2}]}), "only numbers, text, lists and dicts can"),
    ],
)
def test_state_that_no_checkpoint_can_hold_is_refused_and_nothing_stays(
    tmp_path: Path, bad: Snapshot, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        checkpoint.save(tmp_path, bad)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- which one is the newest ---


def test_the_newest_step_wins_however_many_digits_it_has(tmp_path: Path) -> None:
    for step in (7, 10**10, 999_999_999):
        checkpoint.save(tmp_path, snapshot(step))
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["step-000000007", "step-999999999", "step-10000000000"]
    found = checkpoint.newest(tmp_path, silent)
    assert found is not None and found.step == 10**10


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, silent) is None
    assert checkpoint.newest(tmp_path / "missing", silent) is None
    assert checkpoint.listing(tmp_path / "missing") == []


def test_foreign_files_are_neither_listed_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-best").mkdir()
    (tmp_path / ".hidden").mkdir()
    checkpoint.save(tmp_path, snapshot(1))
    checkpoint.clean(tmp_path)
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["step-000000001"]
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "step-best", ".hidden", "step-000000001"}


def test_files_are_on_the_disk_before_they_get_their_name_and_the_name_before_save_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda d: calls.append(("fsync", Path(f"/proc/self/fd/{d}").readlink().name)))
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append(("rename", Path(b).name)), rename(a, b))[1])
    folder = tmp_path / "checkpoints"
    path = checkpoint.save(folder, snapshot(1))
    assert calls[0] == ("fsync", tmp_path.name), "the new folder itself"
    written = calls[1 : calls.index(("rename", path.name))]
    assert {name for _, name in written[:-1]} == {p.name for p in path.iterdir()}
    assert written[-2] == ("fsync", "meta.json") and written[-1][1].startswith(".tmp-")
    assert calls[-2:] == [("rename", path.name), ("fsync", "checkpoints")]


def test_a_step_that_is_reached_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, snapshot(10, 1.0))
    checkpoint.save(tmp_path, snapshot(10, 2.0))
    assert_equal(snapshot(10, 2.0), checkpoint.load(tmp_path / "step-000000010"))
    assert len(list(tmp_path.iterdir())) == 1


# --- damage ---


def damages() -> Iterator[tuple[str, Callable[[bytes], bytes | None]]]:
    yield "first bit flipped", lambda data: bytes([data[0] ^ 1]) + data[1:]
    yield (
        "middle bit flipped",
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :],
    )
    yield "last bit flipped", lambda data: data[:-1] + bytes([data[-1] ^ 1])
    yield "truncated", lambda data: data[: len(data) // 2]
    yield "emptied", lambda data: b""
    yield "extended", lambda data: data + b"{}"
    yield "deleted", lambda data: None


@pytest.mark.parametrize(
    "name", ["meta.json", "loop.json", *(f"{g}.safetensors" for g in ("params", "optimizer", "aux", "points"))]
)
def test_a_damaged_file_is_reported_by_name_and_the_older_checkpoint_taken(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, snapshot(1))
    path = checkpoint.save(tmp_path, snapshot(2))
    intact = (path / name).read_bytes()
    for what, damage in damages():
        damaged = damage(intact)
        (path / name).unlink()
        if damaged is not None:
            (path / name).write_bytes(damaged)
        said: list[str] = []
        found = checkpoint.newest(tmp_path, said.append)
        assert found is not None and found.step == 1, what
        assert len(said) == 1 and name in said[0], what
        with pytest.raises(StorageFailed, match=name):
            checkpoint.load(path)
        (path / name).write_bytes(intact)
    assert checkpoint.load(path).step == 2


def test_no_single_flipped_bit_of_the_description_changes_what_is_read(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(3))
    intact = (path / "meta.json").read_bytes()
    for position in range(0, len(intact), 5):
        flipped = bytearray(intact)
        flipped[position] ^= 1 << (position // 5 % 8)
        (path / "meta.json").write_bytes(flipped)
        try:
            loaded = checkpoint.load(path)
        except StorageFailed:
            continue
        assert_equal(snapshot(3), loaded)


def test_the_message_of_a_damaged_file_gives_both_hashes(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(2))
    written = json.loads((path / "meta.json").read_text())["files"]["params.safetensors"]["sha256"]
    content = bytearray((path / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "params.safetensors").write_bytes(content)
    with pytest.raises(StorageFailed) as caught:
        checkpoint.load(path)
    assert written in str(caught.value) and str(path / "params.safetensors") in str(caught.value)


def test_files_of_two_checkpoints_can_not_be_mixed(tmp_path: Path) -> None:
    a, b = checkpoint.save(tmp_path, snapshot(1)), checkpoint.save(tmp_path, snapshot(2))
    (b / "optimizer.safetensors").write_bytes((a / "optimizer.safetensors").read_bytes())
    with pytest.raises(StorageFailed, match=r"optimizer\.safetensors is damaged"):
        checkpoint.load(b)


def test_a_newer_format_is_refused_with_the_remedy_and_not_skipped(tmp_path: Path, monkeypatch: Any) -> None:
    checkpoint.save(tmp_path, snapshot(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        checkpoint.save(tmp_path, snapshot(2))
    with pytest.raises(UserError, match=r"format 2.*up to 1: upgrade"):
        checkpoint.newest(tmp_path, silent)


# --- what is kept ---


def steps(folder: Path) -> list[int]:
    return [int(p.name.removeprefix("step-")) for p in checkpoint.listing(folder)]


def test_pruning_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint.save(tmp_path, snapshot(step))
    removed = checkpoint.prune(tmp_path, 2, {3, 99})
    assert [p.name for p in removed] == ["step-000000001", "step-000000002", "step-000000004"]
    assert steps(tmp_path) == [3, 5, 6]
    assert not list(tmp_path.glob(".*"))


def test_the_only_sound_checkpoint_is_never_pruned(tmp_path: Path) -> None:
    for step in range(1, 5):
        path = checkpoint.save(tmp_path, snapshot(step))
        if step > 2:
            (path / "aux.safetensors").unlink()
    checkpoint.prune(tmp_path, 1)
    assert steps(tmp_path) == [2, 4]
    found = checkpoint.newest(tmp_path, silent)
    assert found is not None and found.step == 2


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, snapshot(1))
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".tmp-step-000000002-00000000")
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".trash-step-000000002-00000000")
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".old-step-000000001-00000000")
    checkpoint.clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


def test_a_checkpoint_that_was_being_replaced_is_found_and_put_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(1))
    path.rename(tmp_path / ".old-step-000000001-0a0b0c0d")
    found = checkpoint.newest(tmp_path, silent)
    assert found is not None and found.step == 1
    checkpoint.clean(tmp_path)
    assert_equal(snapshot(1), checkpoint.load(path))


# --- failing disks ---


def two_checkpoints(folder: Path) -> Path:
    checkpoint.save(folder, snapshot(1))
    checkpoint.save(folder, snapshot(2, 1.0))
    return folder


@contextmanager
def failing_at(number: int, error: int, patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The call number `number` among those that change the disk raises OSError; counts all of them."""
    count = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                raise OSError(error, os.strerror(error))
            return real(*args, **kwargs)

        return call

    with patch.context() as inner:
        for name in ("write", "fsync", "rename", "mkdir"):
            inner.setattr(os, name, wrapped(getattr(os, name)))
        yield count


@pytest.mark.parametrize("again", [False, True], ids=["new step", "step reached again"])
def test_whichever_call_fails_the_acknowledged_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    before = two_checkpoints(tmp_path / "before")
    number = 0
    while True:
        number += 1
        folder = Path(shutil.copytree(before, tmp_path / str(number)))
        error = errno.ENOSPC if number % 2 else errno.EIO
        step = 2 if again else 3
        failure: StorageFailed | None = None
        with failing_at(number, error, monkeypatch) as count:
            try:
                checkpoint.save(folder, snapshot(step, 5.0))
            except StorageFailed as caught:
                failure = caught
        found = checkpoint.newest(folder, pytest.fail)
        assert found is not None
        if failure is None:
            assert count[0] < number, "a failed call went unnoticed"
            assert_equal(snapshot(step, 5.0), found)
            break
        assert f"step {step} could not be written" in str(failure) and os.strerror(error) in str(failure)
        assert "\n" not in str(failure)
        assert float(found.arrays["constants/nu"]) in ((1.0, 5.0) if found.step == step else (1.0,))
        assert not list(folder.glob(".tmp-*")), "the temporary folder is removed"
        assert_equal(snapshot(1), checkpoint.load(folder / "step-000000001"))
        if number % 5 == 0:
            checkpoint.save(folder, snapshot(4))  # the next one succeeds and leaves nothing behind
            assert not list(folder.glob(".*"))
    assert number > 15


def test_a_folder_that_can_not_be_made_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"step 1 could not be written to .*checkpoints"):
        checkpoint.save(tmp_path / "file" / "checkpoints", snapshot(1))


# --- dying processes ---


def forked(child: Callable[[], None]) -> int:
    """Run `child` in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(7)
    return os.waitpid(pid, 0)[1]


def die_everywhere(folder: Path, again: bool) -> int:
    """Die at the N-th call for every N until a save completes; check after each. Returns the number of calls."""
    os.fsync = lambda fd: None  # nothing is lost with a process; counted below all the same
    before = two_checkpoints(folder / "before")
    number = 0
    while True:
        number += 1
        here = Path(shutil.copytree(before, folder / str(number)))

        def child(number: int = number, here: Path = here) -> None:
            count = 0

            def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count == number:
                        os._exit(9)
                    return real(*args, **kwargs)

                return call

            for name in ("write", "fsync", "rename", "mkdir", "unlink", "rmdir"):
                setattr(os, name, wrap(getattr(os, name)))
            checkpoint.save(here, snapshot(2 if again else 3, 5.0))
            checkpoint.prune(here, 1)
            os._exit(0)

        code = os.waitstatus_to_exitcode(forked(child))
        assert code in (0, 9), code
        said: list[str] = []
        found = checkpoint.newest(here, said.append)
        assert found is not None and not said, said
        assert (found.step, float(found.arrays["constants/nu"])) in ((2, 1.0), (2 if again else 3, 5.0))
        checkpoint.clean(here)
        left = checkpoint.newest(here, said.append)
        assert left is not None and left.step == found.step and not list(here.glob(".*"))
        if code == 0:
            return number


def kill_often(folder: Path, kills: int) -> int:
    """Kill -9 a process that saves and prunes without pause; every acknowledged step must be loadable."""
    os.fsync = lambda fd: None
    dice = random.Random(0)
    acknowledged = 0
    for _ in range(kills):
        reading, writing = os.pipe()

        def child(start: int = acknowledged, writing: int = writing) -> None:
            for step in range(start, start + 10**6):  # the first one again: a resumed run reaches it once more
                checkpoint.save(folder, snapshot(step))
                os.write(writing, f"{step}\n".encode())
                checkpoint.prune(folder, 2)

        pid = os.fork()
        if pid == 0:
            os.close(reading)
            try:
                child()
            finally:
                os._exit(7)
        os.close(writing)
        lines = b""
        wanted = dice.randint(1, 3)
        while lines.count(b"\n") < wanted:
            lines += os.read(reading, 1000)
        for _ in range(dice.randint(0, 20_000)):  # somewhere within the following saves
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while rest := os.read(reading, 1000):
            lines += rest
        os.close(reading)
        acknowledged = int(lines.split()[-1])
        said: list[str] = []
        found = checkpoint.newest(folder, said.append)
        assert found is not None and found.step >= acknowledged, (found, acknowledged)
        assert not said, said
        assert_equal(snapshot(found.step), found)
    return acknowledged


def in_a_process_of_its_own(call: str) -> str:
    """Forking wants a process without threads: run `call` of this file in one."""
    text = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    text += textwrap.dedent(f"from test_checkpoint import *\nprint({call})")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("again", [False, True], ids=["new step", "step reached again"])
def test_wherever_the_process_dies_an_acknowledged_checkpoint_loads(tmp_path: Path, again: bool) -> None:
    assert int(in_a_process_of_its_own(f"die_everywhere(Path({str(tmp_path)!r}), {again})")) > 20


def test_after_every_kill_9_the_last_acknowledged_step_loads(tmp_path: Path) -> None:
    assert int(in_a_process_of_its_own(f"kill_often(Path({str(tmp_path)!r}), 15)")) > 0
