"""Files that extend one another, overrides, and file names that keep their meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import ConfigError
from orchestrator.merge import override, read_with_bases


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_the_nearer_file_wins_and_stages_merge_by_name(tmp_path: Path):
    write(
        tmp_path,
        "base.yaml",
        "name: a\nseed: 1\nstages:\n  - {name: warm, kind: adam, steps: 5}\n  - {kind: sgd, steps: 7}\n",
    )
    file = write(
        tmp_path,
        "mine.yaml",
        "extends: base.yaml\nname: b\nstages:\n  - {name: sgd, steps: 9}\n  - {kind: lbfgs, steps: 2}\n",
    )
    document = read_with_bases(file)
    assert document.tree == {
        "name": "b",
        "seed": 1,
        "stages": [
            {"name": "warm", "kind": "adam", "steps": 5},
            {"kind": "sgd", "steps": 9, "name": "sgd"},
            {"kind": "lbfgs", "steps": 2},
        ],
    }
    assert document.mark(("seed",)).file.endswith("base.yaml")
    assert document.mark(("stages", 1, "steps")).file.endswith("mine.yaml")
    assert document.mark(("stages", 2, "kind")).line == 5


def test_another_kind_replaces_a_mapping_whole(tmp_path: Path):
    write(tmp_path, "base.yaml", "task: {kind: burgers, nu: 0.1}\n")
    file = write(tmp_path, "mine.yaml", "extends: base.yaml\ntask: {kind: poisson}\n")
    assert read_with_bases(file).tree == {"task": {"kind": "poisson"}}


def test_file_names_are_relative_to_the_file_that_names_them(tmp_path: Path):
    write(tmp_path, "shared/base.yaml", "task: {kind: custom, target: 'mine.py:Fisher'}\ndata: {path: x.csv}\n")
    file = write(
        tmp_path,
        "runs/mine.yaml",
        "extends: ../shared/base.yaml\nnetwork: {kind: custom, target: 'package.module:Net'}\n",
    )
    tree = read_with_bases(file).tree
    assert tree["task"]["target"] == f"{tmp_path}/shared/mine.py:Fisher"
    assert tree["data"]["path"] == f"{tmp_path}/shared/x.csv"
    assert tree["network"]["target"] == "package.module:Net", "a module is found by import, not beside a file"


def test_three_files_in_a_circle_are_refused(tmp_path: Path):
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: c.yaml\n")
    write(tmp_path, "c.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends this file in turn"):
        read_with_bases(tmp_path / "a.yaml")


def test_overrides_reach_stages_by_name_and_short_forms_of_points(tmp_path: Path):
    file = write(tmp_path, "f.yaml", "points: {pde: 100}\nstages:\n  - {name: warm, kind: adam, steps: 5}\n")
    document = read_with_bases(file)
    override(document, ["stages.warm.lr=1e-2", "points.pde.sampler=sobol", "resources.workers=0"], tmp_path)
    assert document.problems == []
    assert document.tree["stages"][0]["lr"] == 1e-2
    assert document.tree["points"]["pde"] == {"count": 100, "sampler": "sobol"}
    assert document.tree["resources"] == {"workers": 0}
    assert document.mark(("stages", 0, "lr")).file == "-s stages.warm.lr=1e-2"


def test_python_overrides_take_values_as_they_are(tmp_path: Path):
    document = read_with_bases(write(tmp_path, "f.yaml", "name: a\n"))
    override(document, {"name": "b", "seed": 3}, tmp_path)
    assert document.tree == {"name": "b", "seed": 3}
