"""The JSON schema knows every setting, explains it, and accepts what the reader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from orchestrator.schema import json_schema
from orchestrator.yaml_text import read_file

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_the_experiments_that_ship_fit_the_schema(file: Path):
    jsonschema.validate(read_file(file).tree, json_schema())


@pytest.mark.parametrize(
    "change",
    [{"sed": 1}, {"backend": "tensorflow"}, {"stages": []}, {"points": {"pde": 0}}, {"task": {"kind": "burger"}}],
    ids=lambda c: next(iter(c)),
)
def test_the_schema_refuses_what_the_reader_refuses(change: dict[str, object]):
    tree = {**read_file(EXPERIMENTS[0]).tree, **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, json_schema())


def test_every_setting_has_hover_text():
    schema = json_schema()
    silent = [
        f"{model}.{name}"
        for model, definition in [("Experiment", schema), *schema["$defs"].items()]
        for name, field in definition.get("properties", {}).items()
        if name != "kind" and not field.get("description")
    ]
    assert silent == []


def test_the_schema_is_plain_json():
    assert json.loads(json.dumps(json_schema()))["title"] == "orchestrator experiment"
