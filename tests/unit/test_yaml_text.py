"""YAML is read by the rules of YAML 1.2, with the place of every value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError
from orchestrator.yaml_text import flatten, read_text, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("1.5e3", 1500.0), (".5", 0.5), ("5.", 5.0), ("-2", -2), ("+3", 3), ("010", 10),
        ("0x1F", 31), ("1_000", 1000), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("no", "no"), ("on", "on"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("'1'", "1"), ('"true"', "true"), ("a b", "a b"),
        ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: object):
    assert read_value(text, "-s x") == value
    assert type(read_value(text, "-s x")) is type(value)


def test_every_value_knows_its_line_and_column():
    document = read_text("a: 1\nb:\n  - {c: 2}\n  - 3\n", "f.yaml")
    assert document.tree == {"a": 1, "b": [{"c": 2}, 3]}
    assert (document.mark(("b", 0, "c")).line, document.mark(("b", 0, "c")).column) == (3, 6)
    assert document.mark(("b", 1)).line == 4
    assert document.mark(("b", 7, "d")).line == 2, "an unknown place is that of its nearest known parent"


def test_a_plain_alias_repeats_a_value():
    assert read_text("a: &x {k: 1}\nb: *x\n", "f").tree == {"a": {"k": 1}, "b": {"k": 1}}


def test_all_duplicate_keys_are_reported_not_only_the_first():
    document = read_text("a: 1\na: 2\nb: {c: 1, c: 2}\n", "f")
    assert [(p.line, p.path) for p in document.problems] == [(2, "a"), (3, "b.c")]


def test_windows_line_endings_and_a_byte_order_mark_do_no_harm(tmp_path):
    from orchestrator.yaml_text import read_file

    file = tmp_path / "w.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_file(file).tree == {"a": 1, "b": 2}


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_with_a_problem(text: str):
    try:
        read_text(text, "f")
    except ConfigError as error:
        assert error.problems


def test_flattening_names_every_leaf_by_its_path():
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": []}) == {"a.b.0": 1, "a.b.1.c": 2, "d": []}
