"""docs/points.md: its file can be trained, its Python blocks print what the page says, its tables name every kind."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from backends.spec import Adapt, Pointwise
from orchestrator.runs import checked

PAGE = (Path(__file__).parents[2] / "docs" / "points.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_file_of_the_page_is_sound(tmp_path: Path) -> None:
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    file = tmp_path / "page.yaml"
    file.write_text(text, encoding="utf-8")
    assert checked(file).experiment.points.by_term()["pde"].pointwise is not None


def test_the_python_of_the_page_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for (language, text), (below, said) in itertools.pairwise(BLOCKS):
        if language == "python":
            assert below == "text"
            exec(compile(text, "docs/points.md", "exec"), names)
            assert capsys.readouterr().out == said


def test_the_tables_name_every_kind() -> None:
    for union in (Adapt, Pointwise):
        kinds = TypeAdapter(union).json_schema()["$defs"].values()
        assert len(kinds) == 3
        for kind in kinds:
            assert f"\n| `{kind['properties']['kind']['const']}` |" in PAGE
