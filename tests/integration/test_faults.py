"""Whatever goes wrong is told once, with the place and the way on, and what was saved before stays good."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import (
    EVERYTHING,
    Tree,
    assert_same_bits,
    events,
    last,
    no_pictures,  # noqa: F401 (a fixture)
    records,
    small,
)

from backends import checkpoint
from orchestrator import resume, run
from orchestrator.cli import main
from orchestrator.folder import RunFolder, read_json, status


def outcome(capfd: Any, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command; nothing may be on stdout, nor a traceback anywhere."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    said = capfd.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err, said.err
    return int(left.value.code or 0), said.err


def written(tmp_path: Path, tree: Tree) -> Path:
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


# --- places that can't be written ---


def test_storage_that_is_no_folder_is_refused_before_anything_is_written(here: Path, capfd: Any):
    file = written(here, small(storage=str(here / "taken" / "runs")))
    (here / "taken").write_text("a file")
    code, said = outcome(capfd, "run", str(file))
    assert code == 2
    assert re.search(r"storage.*taken/runs.*can't be written", said), said
    assert {p.name for p in here.iterdir()} == {"taken", "file.yaml"}


@pytest.fixture
def limit() -> Iterator[None]:
    """A limit on the size of files that a test sets ends with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = """
import resource

class Fills:
    def step(self, moment):
        if moment.step == 50:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


def test_a_disk_that_is_full_at_checkpoint_time_costs_that_checkpoint_only(tmp_path: Path, limit: None, capfd: Any):
    # In the second stage a checkpoint holds a matrix that is larger than the limit; all other files are smaller.
    (tmp_path / "own.py").write_text(FULL)
    tree = {**EVERYTHING, "callbacks": [*EVERYTHING["callbacks"], {"kind": "custom", "target": "own.py:Fills"}]}
    file, out = written(tmp_path, tree), tmp_path / "run"
    code, said = outcome(capfd, "run", str(file), "--out", str(out), "-q")
    room = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    assert code == 3
    assert "the checkpoint of step 50 could not be written" in said
    assert "older checkpoints are untouched" in said
    assert f"go on with: orchestrator resume {out}" in said
    assert said.count("could not be written") == 1, said
    assert read_json(out / "result.json")["status"] == status(RunFolder(out)) == "failed"
    for path in checkpoint.listing(out / "checkpoints"):
        checkpoint.verify(path)
    assert last(out).step == 40
    assert not list((out / "checkpoints").glob(".*")), "no half-written rest"
    assert resume(out, {"callbacks": EVERYTHING["callbacks"]}).status == "finished", "with room again"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_term_and_step(backend: str, tmp_path: Path, capfd: Any):
    (tmp_path / "own.py").write_text(
        "from orchestrator import Ask\n\n"
        "class Breaks:\n"
        "    def step(self, moment):\n"
        "        return Ask(knobs={'task/nu': 1e200}) if moment.step == 10 else None\n"
    )
    file = written(tmp_path, small(backend=backend, callbacks=[{"kind": "custom", "target": "own.py:Breaks"}]))
    out = tmp_path / "run"
    code, said = outcome(capfd, "run", str(file), "--out", str(out), "-q")
    assert code == 3
    assert "step 10: the loss is not finite in pde." in said
    result = read_json(out / "result.json")
    assert (result["status"], result["step"]) == ("failed", 10)
    assert result["reason"].startswith("step 10: the loss is not finite in pde.")
    assert all(np.isfinite(a).all() for a in last(out).arrays.values())
    final = [e for e in events(out, "status") if e.get("final")]
    assert [e["status"] for e in final] == ["failed"]
    assert "not finite in pde" in (out / "log.txt").read_text()


# --- the user's own code ---

PROBLEM = """
from orchestrator import Problem, residual
{top}

class Mine(Problem):
    coords = {{"x": (0, 1)}}
    fields = ("u",)

    @residual
    def pde(self, f):
        u, u_xx = f("u", "u_xx")
        {pde}

    @residual(x="ends")
    def bc(self, f):
        return f("u")
{more}
"""
IN_WORKER = '"/code/" in __file__'
"""The copy in the run folder, which the worker loads."""


@pytest.mark.parametrize(
    ("parts", "code", "said"),
    [
        ({"top": "import not_there"}, 2, r"own.py: No module named 'not_there'|own.py:3: No module named 'not_there'"),
        ({"top": "1 / 0"}, 2, r"own.py:3: raised ZeroDivisionError: division by zero"),
        ({"top": "def ("}, 2, r"own.py:3: "),
        ({"pde": "return u_xx + missing"}, 2, r"own.py:12: Mine.pde: raised NameError: name 'missing' is not defined"),
        ({"pde": "return (u_xx + u)[1:]"}, 2, r"own.py:\d+: Mine.pde: returns an array of shape"),
        (
            {"more": "    def solution(self, points):\n        return {'u': open('/no/such.npy')}"},
            2,
            r"own.py:18: Mine.solution: raised FileNotFoundError: .*/no/such.npy",
        ),
        (
            {"pde": f"if {IN_WORKER}:\n            raise RuntimeError('only there')\n        return u_xx"},
            2,
            r"own.py:13: Mine.pde: raised RuntimeError: only there",
        ),
    ],
    ids=["import", "top level", "syntax", "name", "shape", "reference file", "worker"],
)  # fmt: skip
def test_a_problem_of_ones_own_that_fails_is_told_with_file_and_line(
    parts: dict[str, str], code: int, said: str, tmp_path: Path, capfd: Any
):
    text = PROBLEM.format(**{"top": "", "pde": "return u_xx", "more": "", **parts})
    (tmp_path / "own.py").write_text(text)
    tree = small(task={"kind": "custom", "target": "own.py:Mine"}, points={"pde": 16, "bc": 2})
    found = outcome(capfd, "run", str(written(tmp_path, tree)), "--out", str(tmp_path / "run"), "-q")
    assert found[0] == code, found
    assert re.search(said, found[1]), found[1]
    if (tmp_path / "run").exists():
        assert read_json(tmp_path / "run" / "result.json")["status"] == "failed"


@pytest.mark.parametrize(
    ("body", "keys", "code", "said"),
    [
        ("def step(self, moment):\n        return 1 / 0", {}, 3, r"own.py:5: Mine.step: raised ZeroDivisionError"),
        ("def step(self, moment):\n        return {'stop': 'now'}", {}, 3, "Mine.step returned dict; it must return"),
        ("def __init__(self):\n        raise OSError('no')\n    step = None", {}, 3, "own.py:5: .*raised OSError: no"),
        ("def step(self, moment): ...", {"limit": 3}, 2, "can't be made with the keys given here: .*'limit'"),
        ("def steps(self, moment): ...", {}, 2, "has none of the methods start, step, end"),
        (
            "def step(self, moment):\n        return orchestrator.Ask(knobs={'weight/pd': 2.0})",
            {},
            2,
            "asks for the knob 'weight/pd', which it can't set; did you mean 'weight/pde'",
        ),
        (
            "def step(self, moment): ...\n    def state(self):\n        return {'when': object()}",
            {},
            3,
            r"own.py:Mine: state\(\) must return what JSON can hold",
        ),
        ("def end(self, moment, outcome):\n        {}['x']", {}, 3, "own.py:5: Mine.end: raised KeyError: 'x'"),
    ],
    ids=["step", "answer", "constructor", "keys", "methods", "knob", "state", "end"],
)  # fmt: skip
def test_a_callback_of_ones_own_that_fails_is_told_with_file_and_line(
    body: str, keys: Tree, code: int, said: str, tmp_path: Path, capfd: Any
):
    (tmp_path / "own.py").write_text(f"import orchestrator\n\nclass Mine:\n    {body}\n")
    tree = small(callbacks=[{"kind": "custom", "target": "own.py:Mine", **keys}])
    out = tmp_path / "run"
    found = outcome(capfd, "run", str(written(tmp_path, tree)), "--out", str(out), "-q")
    assert found[0] == code, found
    assert re.search(said, found[1]), found[1]
    assert out.exists() == (not keys and "steps" not in body), "mistakes that can be seen before start nothing"
    if out.exists():
        assert status(RunFolder(out)) == "failed"
        for path in checkpoint.listing(out / "checkpoints"):
            checkpoint.verify(path)


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        return {body}
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("self.layer(x) + missing", 3, "own.py:10: the network Net raised NameError .*name 'missing' is not defined"),
        ("self.layer(x)[:2]", 2, r"the network Net returned a tensor of the shape \[2, 1\]"),
    ],
    ids=["raises", "shape"],
)
def test_a_network_of_ones_own_that_fails_is_told_once(body: str, code: int, said: str, tmp_path: Path, capfd: Any):
    (tmp_path / "own.py").write_text(NETWORK.format(body=body))
    tree = small(backend="torch", network={"kind": "custom", "target": "own.py:Net"})
    found = outcome(capfd, "run", str(written(tmp_path, tree)), "--out", str(tmp_path / "run"), "-q")
    assert found[0] == code, found
    assert re.search(said, found[1]), found[1]
    assert status(RunFolder(tmp_path / "run")) == "failed"


@pytest.mark.parametrize("target", ["own.py:Missing", "gone.py:Mine", "no_such_package.module:Mine"])
def test_own_code_that_is_missing_starts_nothing(target: str, tmp_path: Path, capfd: Any):
    (tmp_path / "own.py").write_text("class Mine: ...\n")
    for key, value in (("task", {}), ("network", {}), ("callbacks", [])):
        spec = {"kind": "custom", "target": target}
        tree = small(**{key: [spec] if value == [] else spec})
        code, said = outcome(capfd, "run", str(written(tmp_path, tree)), "--out", str(tmp_path / "run"))
        assert code == 2
        assert re.search(rf"file.yaml:\d+:\d+: {key}", said), said
        assert not (tmp_path / "run").exists()


def test_a_data_file_that_is_missing_starts_nothing(tmp_path: Path, capfd: Any):
    data = {"kind": "table", "path": "gone.csv", "inputs": ["a"], "outputs": ["b"]}
    tree = {k: v for k, v in small(task={"kind": "regression"}, data=data).items() if k != "points"}
    code, said = outcome(capfd, "run", str(written(tmp_path, tree)), "--out", str(tmp_path / "run"))
    assert code == 2
    assert re.search(r"file.yaml:\d+:\d+: data.path: there is no file .*gone.csv", said), said


# --- tracking ---


def test_an_unreachable_tracking_server_is_one_warning_and_costs_nothing_else(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.uploader.FINISH_S", 15.0)  # the uploader is nice: it may not even have started
    file, out = written(tmp_path, small(tracking={"uri": "http://127.0.0.1:9"})), tmp_path / "run"
    code, said = outcome(capfd, "run", str(file), "--out", str(out), "-q")
    assert code == 0
    assert len([line for line in said.splitlines() if line.strip()]) == 1, said
    assert f"warning: MLflow does not have everything yet; it is kept in {out}" in said
    assert f"orchestrator sync {out}" in said
    result = read_json(out / "result.json")
    assert result["status"] == "finished"
    assert result["run_id"] is None
    assert result["unsent"] > 20
    code, said = outcome(capfd, "sync", str(out))
    assert code == 3
    assert "points have not reached MLflow (nothing answers at http://127.0.0.1:9)" in said
    assert len(records(out)) == 3, "the spool is untouched"
    assert json.loads((out / "run.json").read_text())["uri"] == "http://127.0.0.1:9"


def test_a_broken_picture_is_a_warning(tmp_path: Path, monkeypatch: Any):
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no such font")

    monkeypatch.setattr("orchestrator.figures.draw_all", broken)
    plain = run(small(), out=tmp_path / "plain")
    assert plain.status == "finished"
    assert plain.warnings == ("figures of step 20 could not be drawn: no such font",)
    monkeypatch.undo()
    assert_same_bits(plain.path, run(small(), out=tmp_path / "other").path)
