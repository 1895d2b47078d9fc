"""The benchmarks can be imported, know their names, and write results that can be repeated."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import NAMES, accuracy
from benchmarks.accuracy import merged
from benchmarks.processes import ROOT
from benchmarks.results import RESULTS, Section, page, sections, table, table_rows, write


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


def test_rows_that_are_not_measured_again_are_kept_in_the_order_of_the_experiments():
    old = [["`heat/heat.yaml`", "jax", "1e-6"], ["`gone.yaml`", "jax", "1"], ["`kdv/kdv.yaml`", "torch", "1e-2"]]
    text = page("Errors:", table(["a", "b", "c"], old), "The end.")
    assert table_rows(text, ["a", "b", "c"]) == old
    assert table_rows(text, ["a", "b"]) == []
    new = [["`kdv/kdv.yaml`", "torch", "1e-3"], ["`heat/heat.yaml`", "torch", "2e-6"]]
    assert merged(table_rows(text, ["a", "b", "c"]), new, accuracy.PROBLEMS) == [old[0], new[1], new[0]]


def test_every_experiment_that_is_measured_ships():
    for name in (*accuracy.PROBLEMS, *accuracy.OTHERS):
        assert (ROOT / "experiments" / f"{name}.yaml").is_file(), name


def test_paragraphs_are_joined_and_tables_keep_their_lines():
    assert page("one\n    line", table(["a", "b"], [[1, "x"]])) == "one line\n\n| a | b |\n| --- | --- |\n| 1 | x |"
