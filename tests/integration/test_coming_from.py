"""Every block of ours in docs/coming-from.md runs as it stands there, section by section."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
BEGINNING, *SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)
NAMES = [section.splitlines()[0] for section in SECTIONS]


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_all_seven_systems_have_a_section_with_their_words_and_ours():
    assert NAMES == ["Quantum Training Agent", "Artifex", "JEPA", "AV-PINO", "Opifex", "Lightning", "DeepXDE"]
    for section in SECTIONS:
        assert blocks(section)
        assert "```py\n" in section or "```yaml\n" in section


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_the_blocks_of_a_section_run(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In one program, one after the other, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    program = "\n".join([*blocks(BEGINNING), *blocks(section)])
    (tmp_path / "shown.py").write_text(program, encoding="utf-8")
    runpy.run_path(str(tmp_path / "shown.py"), run_name="__main__")
