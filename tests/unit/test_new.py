"""`orchestrator new`: what it writes is sound, nothing is ever overwritten, nothing is left half-written."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import UserError
from orchestrator import cli, scaffold
from orchestrator.runs import checked
from orchestrator.scaffold import KINDS, names, new


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_check_and_names_its_schema(kind: str, here: Path):
    made = new("wave-2d", kind=kind)
    assert [f.name for f in made.files] == ["wave_2d.py", "wave_2d.yaml", "README.md", "schema.json"]
    text = made.experiment.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert "own_name" not in text
    assert "OwnName" not in (made.folder / "wave_2d.py").read_text()
    assert json.loads((made.folder / "schema.json").read_text())["title"] == "orchestrator experiment"
    assert len((made.folder / "README.md").read_text().splitlines()) == 5
    assert checked(made.experiment).experiment.name == "wave-2d"
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(f.name for f in made.files)


def test_the_templates_problem_has_the_reference_that_it_claims(here: Path):
    from backends.own.code import load
    from backends.pde.problem import Problem

    made = new("heat")
    problem = load("heat.py:Heat", made.folder)
    assert issubclass(problem, Problem)
    assert problem.has_solution()
    assert problem().fulfilled() == {"ic", "bc"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "can't be the name"),
        ("2d", "begin with a letter"),
        ("a/b", "can't be the name"),
        ("..", "can't be the name"),
        ("-x", "can't be the name"),
        ("wärme", "can't be the name"),
        ("x" * 41, "at most 40"),
    ],
)
def test_a_name_that_can_be_no_folder_file_and_class_is_refused(name: str, message: str, here: Path):
    with pytest.raises(UserError, match=message):
        new(name)
    assert not any(here.iterdir())


def test_an_unknown_kind_is_answered_with_the_nearest(here: Path):
    with pytest.raises(UserError, match="did you mean 'problem'"):
        new("heat", kind="problm")
    assert not any(here.iterdir())


@pytest.mark.parametrize(
    ("name", "module", "cls"),
    [("heat", "heat", "Heat"), ("heat-2d", "heat_2d", "Heat2d"), ("None", "none", "OwnNone"), ("a__b", "a__b", "AB")],
)
def test_files_and_class_follow_from_the_name(name: str, module: str, cls: str):
    assert names(name) == (module, cls)


@given(st.text(string.ascii_letters + string.digits + "_-", min_size=0, max_size=39).map(lambda t: f"a{t}"))
def test_every_allowed_name_gives_identifiers(name: str):
    module, cls = names(name)
    assert cls.isidentifier()
    assert f"own_{module}".isidentifier()


@pytest.mark.parametrize("name", ["problem", "network", "ask", "positiveFloat", "true", "null", "on"])
def test_a_class_never_hides_what_the_template_imports(name: str, here: Path):
    made = new(name)
    assert checked(made.experiment)


@pytest.mark.parametrize("file", ["heat.py", "heat.yaml", "README.md", "schema.json"])
def test_an_existing_file_is_named_and_everything_stays_as_it_was(file: str, here: Path):
    (here / "heat").mkdir()
    (here / "heat" / file).write_text("mine")
    with pytest.raises(UserError, match=f"heat/{file} exists already; nothing was written"):
        new("heat")
    assert [p.name for p in (here / "heat").iterdir()] == [file]
    assert (here / "heat" / file).read_text() == "mine"


def test_other_files_in_the_folder_are_left_alone(here: Path):
    (here / "heat").mkdir()
    (here / "heat" / "notes.txt").write_text("mine")
    new("heat")
    assert (here / "heat" / "notes.txt").read_text() == "mine"
    assert (here / "heat" / "heat.py").exists()


def test_a_file_or_a_dangling_link_in_the_folders_place_is_refused(here: Path):
    (here / "heat").write_text("mine")
    with pytest.raises(UserError, match="is no folder"):
        new("heat")
    (here / "wave").symlink_to(here / "nowhere")
    with pytest.raises(UserError, match="is no folder"):
        new("wave")


def test_a_failure_in_the_middle_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch):
    place = scaffold._place

    def fails(draft: Path, target: Path) -> None:
        if target.suffix == ".md":
            raise OSError(28, os.strerror(28))
        place(draft, target)

    monkeypatch.setattr(scaffold, "_place", fails)
    with pytest.raises(UserError, match="No space left"):
        new("heat", dir="deep/er")
    assert not any(here.iterdir())


def test_a_folder_that_cant_be_written_is_the_users_mistake(here: Path):
    (here / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        new("heat", dir="file")


def test_the_verb_prints_the_files_and_the_next_two_commands(here: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["new", "heat", "--dir", "mine"])
    said = capsys.readouterr()
    assert not left.value.code
    assert said.out.splitlines() == [f"mine/heat/{f}" for f in ("heat.py", "heat.yaml", "README.md", "schema.json")]
    assert "orchestrator agree mine/heat/heat.yaml" in said.err
    assert "orchestrator run mine/heat/heat.yaml" in said.err
    with pytest.raises(SystemExit) as left:
        cli.main(["new", "heat", "--dir", "mine"])
    assert left.value.code == 2
    assert "mine/heat/heat.py exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["new", "wave", "--json"])
    assert json.loads(capsys.readouterr().out)["next"][1] == "orchestrator run wave/wave.yaml"
    assert yaml.safe_load((here / "wave" / "wave.yaml").read_text())["name"] == "wave"
