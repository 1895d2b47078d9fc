"""docs/weighting.md: its files can be trained, its Python block runs, and its table names every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from backends.weighting import AnyWeights
from orchestrator.runs import checked

PAGE = (Path(__file__).parents[2] / "docs" / "weighting.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(PAGE)


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"], ids=lambda t: t[2:12])
def test_the_files_of_the_page_are_sound(text: str, tmp_path: Path):
    file = tmp_path / "page.yaml"
    file.write_text(text, encoding="utf-8")
    assert checked(file).experiment.weights.kind != "fixed"


def test_the_python_of_the_page_runs():
    names: dict[str, Any] = {}
    found = [text for language, text in BLOCKS if language == "python"]
    for text in found:
        exec(compile(text, "docs/weighting.md", "exec"), names)
    assert len(found) == 1


def test_the_table_names_every_kind():
    for model in get_args(AnyWeights):
        assert f"\n| `{model.model_fields['kind'].default}` |" in PAGE
