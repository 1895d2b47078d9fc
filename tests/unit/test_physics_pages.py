"""docs/conservation.md, multilevel.md, inverse.md: files are sound, Python blocks run and print what stands below."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runs import checked

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("conservation", "multilevel", "inverse")


def blocks(page: str) -> list[tuple[str, str]]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_file_of_the_page_is_sound(page: str, tmp_path: Path) -> None:
    (text,) = [text for language, text in blocks(page) if language == "yaml"]
    file = tmp_path / "page.yaml"
    file.write_text(text, encoding="utf-8")
    checked(file)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_page_prints_what_stands_below_it(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    found = blocks(page)
    for (language, text), (below, said) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "python":
            exec(compile(text, f"docs/{page}.md", "exec"), names)
            assert capsys.readouterr().out == (said if below == "text" else "")
