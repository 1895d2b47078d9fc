"""Every mistake in an experiment file is answered with its place and what to do, and never with a traceback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import ConfigError, UserError
from orchestrator.runs import checked

FOLDER = Path(__file__).parents[1] / "bad_inputs"
FILES = sorted(FOLDER.glob("*.yaml"))
GOOD = Path(__file__).parents[2] / "experiments" / "burgers" / "burgers_soft.yaml"


def message_of(file: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        checked(file, overrides or [])
    return str(caught.value)


def expected(file: Path) -> list[str]:
    return [line.removeprefix("# expect: ") for line in file.read_text().splitlines() if line.startswith("# expect: ")]


def test_there_are_at_least_forty_bad_files():
    assert len(FILES) >= 40


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_bad_file_is_answered_with_place_and_remedy(file: Path):
    message = message_of(file)
    assert expected(file), "the file says what it expects"
    for part in expected(file):
        assert part in message, message
    assert message.startswith(str(file)), message
    assert "nothing was started" in message


OVERRIDES = [
    (["stages.warm.lr"], "must have the form path=value"),
    (["=3"], "must have the form path=value"),
    (["stages.wram.lr=1e-3"], "there is no entry 'wram' in stages; did you mean 'warm'?"),
    (["stages.warm.lr=fast"], "stages.0.lr: must be a number, not text"),
    (["stages.warm.steps=[1, 2]"], "stages.0.steps: must be a whole number"),
    (["sed=3"], "sed: unknown setting; did you mean 'seed'?"),
    (["resources.worker=0"], "resources.worker: unknown setting; did you mean 'workers'?"),
    (["seed=[1"], "expected ',' or ']'"),
    (["name.first=x"], "name is a single value here"),
    (["backend=Torch"], "backend: must be one of jax, torch (got 'Torch'); did you mean 'torch'?"),
    (["points.pde.count=-1"], "points.pde.count: must be above 0 (got -1)"),
    (["tracking.uri=ftp://x"], "tracking.uri"),
]


@pytest.mark.parametrize(("overrides", "expected"), OVERRIDES, ids=lambda v: v[0] if isinstance(v, list) else None)
def test_a_bad_override_is_named_as_it_was_written(overrides: list[str], expected: str):
    message = message_of(GOOD, overrides)
    assert expected in message
    assert message.startswith(f"-s {overrides[0]}")


def test_all_mistakes_are_reported_at_once(tmp_path: Path):
    file = tmp_path / "many.yaml"
    file.write_text(GOOD.read_text().replace("seed: 0", "seed: -1").replace("depth: 3", "depth: 0") + "sed: 1\n")
    with pytest.raises(ConfigError) as caught:
        checked(file)
    assert {p.path for p in caught.value.problems} == {"seed", "network.depth", "sed"}
    assert "3 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: caf\xe9\n", "not UTF-8 at byte 9"),
        ("name: x\n".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"\x00\x01\x02", "is not allowed here"),
        (b"# " + b"x" * 1_000_001, "an experiment file has at most 1000000"),
    ],
    ids=["latin-1", "utf-16", "binary", "two megabytes"],
)
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert expected in message_of(file)


def test_a_missing_file_is_answered_with_the_nearest_one():
    assert "did you mean 'burgers_soft.yaml'?" in message_of(GOOD.with_name("burgers_sof.yaml"))
    assert "this is a folder" in message_of(GOOD.parent)


def test_the_command_line_leaves_with_2_and_without_a_traceback(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", str(FOLDER / "unknown_key.yaml")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "unknown_key.yaml:8:1: sed: unknown setting; did you mean 'seed'?" in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


WORDS = st.sampled_from(
    [
        ":",
        "-",
        "{",
        "}",
        "[",
        "]",
        "&a",
        "*a",
        "!!int",
        "~",
        "1e-3",
        "'",
        '"',
        "\n",
        "  ",
        "\t",
        "null",
        "kind",
        "lr",
        "#",
        "|",
        "?",
        ",",
    ]
)


@given(at=st.integers(0, 600), cut=st.integers(0, 40), words=st.lists(WORDS, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_of_a_good_file_gets_a_traceback(tmp_path: Path, at: int, cut: int, words: list[str]):
    text = GOOD.read_text()
    file = tmp_path / "mutant.yaml"
    file.write_text(text[:at] + "".join(words) + text[at + cut :])
    with contextlib.suppress(UserError):  # anything else is our bug
        checked(file)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_get_a_traceback(tmp_path: Path, content: bytes):
    file = tmp_path / "noise.yaml"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        checked(file)
