"""The README's blocks do what the README says; its first two commands are CI's own (`make run`, `make test`)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator import Problem
from orchestrator.runs import checked

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_two_blocks_are_the_two_commands_of_a_fresh_machine():
    first, second = re.findall(r"```\w+\n(.*?)```", README, flags=re.DOTALL)[:2]
    assert first.startswith("make run ")
    assert second.startswith("make test ")
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_shown_experiment_is_the_one_that_make_run_trains():
    shown = yaml.safe_load(blocks("yaml")[0].replace("5e-3", "5.0e-3"))
    real = checked(ROOT / "experiments" / "burgers" / "burgers.yaml").experiment.tree()
    assert real["name"] == shown["name"]
    assert real["network"]["width"] == shown["network"]["width"]
    assert [(s["name"], s["kind"], s["steps"]) for s in real["stages"]] == [
        (s["name"], s["kind"], s["steps"]) for s in shown["stages"]
    ]
    assert real["points"]["pde"]["count"] == shown["points"]["pde"]["count"]


def test_the_shown_class_is_the_equation_that_ships():
    from backends.tasks.burgers import Burgers

    names: dict[str, object] = {"__name__": "readme"}
    exec(blocks("python")[0], names)
    shown = names["Burgers"]
    assert isinstance(shown, type)
    assert issubclass(shown, Problem)
    assert list(shown.declared()) == list(Burgers.declared()) == ["pde", "ic", "bc"]
    assert shown.coords == {c: tuple(b) for c, b in Burgers.coords.items()}


def test_the_own_equation_is_checked_and_trained(here: Path):
    for name in ("fisher.py",):
        shutil.copy(ROOT / "experiments" / "fisher" / name, here / name)
    (here / "fisher.yaml").write_text(blocks("yaml")[1])
    commands = [line.split("#")[0] for line in blocks("bash")[3].splitlines() if line.startswith("orchestrator")]
    assert [c.split()[1] for c in commands] == ["check", "agree", "run"]
    small = {
        "check": [],
        "agree": ["--steps", "5"],
        "run": ["-s", "resources.workers=0", "-s", "stages.adam.steps=20", "--json"],
    }
    for command in commands:
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-m", *words, *small[words[1]], *(["-s", "compile=never"] if words[1] != "check" else [])],
            cwd=here, capture_output=True, text=True, check=False, env={**os.environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_the_python_block_runs(here: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "experiments" / "burgers", here / "experiments" / "burgers")
    names: dict[str, object] = {"__name__": "readme"}
    exec(blocks("python")[1], names)
    assert names["u"].shape == (2,)  # type: ignore[attr-defined]
    assert len(names["steps"]) > 1  # type: ignore[arg-type]


def test_every_file_that_the_readme_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_names_every_command():
    from orchestrator.cli import app

    named = {c.name or c.callback.__name__ for c in app.registered_commands}  # type: ignore[union-attr]
    shown = set(re.findall(r"`([a-z]+)(?: [A-Z…]+)*`", README.split("## Commands")[1].split("## ")[0]))
    assert named <= shown, named - shown
