"""The benchmarks can be imported, know their names, and write results that can be repeated."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import NAMES
from benchmarks.results import RESULTS, Section, page, sections, table, write


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_can_be_imported_without_measuring_anything(name: str):
    assert callable(importlib.import_module(f"benchmarks.{name}").measure)


@pytest.mark.parametrize("name", sections(RESULTS.read_text(encoding="utf-8")))
def test_each_section_of_the_results_says_how_it_was_made_and_what_it_should_reach(name: str):
    section = sections(RESULTS.read_text(encoding="utf-8"))[name]
    assert section.startswith(f"## {name}\n\n`python -m benchmarks {name}`, 20")
    assert "\nTarget: " in section


def test_no_other_sections_are_left_behind():
    assert set(sections(RESULTS.read_text(encoding="utf-8"))) <= set(NAMES)


def test_a_section_is_replaced_in_its_place_and_the_others_stay(tmp_path: Path):
    path = tmp_path / "RESULTS.md"
    for name, text in (("one", "old"), ("two", "kept"), ("one", "new")):
        write(path, name, Section("a target", text), (0.5, 1.5))
    found = sections(path.read_text(encoding="utf-8"))
    assert list(found) == ["one", "two"]
    assert "new" in found["one"] and "old" not in found["one"]
    assert "kept" in found["two"]
    assert path.read_text(encoding="utf-8").startswith("# Results\n")


def test_paragraphs_are_joined_and_tables_keep_their_lines():
    assert page("one\n    line", table(["a", "b"], [[1, "x"]])) == "one line\n\n| a | b |\n| --- | --- |\n| 1 | x |"
