"""Code that a file names by `target` is found, loaded once, and answered with file and line where it is wrong."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from backends.errors import UserError
from backends.own.code import load, parse, sha256


def test_a_file_beside_the_experiment_file_and_a_module_are_both_targets(tmp_path: Path):
    (tmp_path / "mine.py").write_text("class Outer:\n    class Inner:\n        value = 3\n")
    assert load("mine.py:Outer.Inner.value", tmp_path) == 3
    assert load(f"{tmp_path / 'mine.py'}:Outer", Path("/elsewhere")).Inner.value == 3
    assert load("fractions:Fraction", tmp_path)(1, 2) == 0.5
    assert parse("mine.py:A", tmp_path).file == tmp_path / "mine.py"
    assert parse("package.module:A", tmp_path).file is None


def test_a_file_is_imported_once_and_again_when_it_changed(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("value = []\n")
    first = load("mine.py:value", tmp_path)
    assert load("mine.py:value", tmp_path) is first
    file.write_text("value = [1]\n")
    assert load("mine.py:value", tmp_path) == [1]


def test_two_files_of_one_name_do_not_meet(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("class Thing: pass\n")
    first, second = (load("mine.py:Thing", tmp_path / name) for name in ("a", "b"))
    assert first is not second
    assert "mine" not in sys.modules, "nothing that is called mine elsewhere is hidden"


def test_a_file_is_known_by_the_hash_of_its_bytes(tmp_path: Path):
    (tmp_path / "mine.py").write_bytes(b"x = 1\n")
    assert sha256(tmp_path / "mine.py") == hashlib.sha256(b"x = 1\n").hexdigest()


@pytest.mark.parametrize("target", ["mine.py", "mine.py:", ":Fisher", "mine.py:a b", "dir/mine:Fisher", ""])
def test_what_has_not_the_form_of_a_target_is_refused(target: str, tmp_path: Path):
    with pytest.raises(UserError, match="is not a target|must end in .py"):
        load(target, tmp_path)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mime.py:Fisher", "there is no file .*mime.py; did you mean 'mine.py'?"),
        ("mine.py:Fischer", "mine.py has no 'Fischer'; did you mean 'Fisher'?"),
        ("mine.py:Fisher.rate", "mine.py has no 'rate'"),
        ("no_such_package.module:A", "there is no module 'no_such_package.module'; install it"),
        ("json.no_such:A", "there is no module 'json.no_such'"),
        ("json:dump_all", "json has no 'dump_all'; did you mean 'dump'"),
    ],
)
def test_what_is_missing_is_answered_with_the_nearest(target: str, message: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text("class Fisher: pass\n")
    with pytest.raises(UserError, match=message):
        load(target, tmp_path)


PROBLEM = "from backends.pde.problem import Problem, residual\n\n\nclass Mine(Problem):\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\ny = x +\n", 2, "invalid syntax"),
        ("import math\n\n\ndef f():\n    return 1 / 0\n\n\nf()\n", 5, "raised ZeroDivisionError: division by zero"),
        ("import math\nimport helpers_of_mine\n", 2, "No module named 'helpers_of_mine'. Own code is one file"),
        (
            PROBLEM + "    nu = 0.3\n    coords = {'x': (0, 1)}\n    fields = ('u',)\n",
            4,
            "`nu = 0.3` needs a type, so that the file can set it: write `nu: float = 0.3`",
        ),
        (PROBLEM + "    coords = {'x': (0, 1)}\n    fields = ('u',)\n", 4, "Mine: no method is marked @residual"),
    ],
    ids=["syntax", "raises", "helper module", "annotation", "problem"],
)
def test_code_that_can_not_be_imported_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        load("mine.py:Mine", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.py'}:{line}: ")
    assert message in str(caught.value)
    with pytest.raises(UserError, match=f":{line}: "):
        load("mine.py:Mine", tmp_path)
