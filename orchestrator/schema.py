"""The JSON schema of experiment files, with the attribute docstrings as hover text."""

from __future__ import annotations

from typing import Any

from orchestrator.config import Experiment


def json_schema() -> dict[str, Any]:
    """Schema (draft 2020-12) of an experiment file, short forms included."""
    schema = Experiment.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "orchestrator experiment"
    points = schema["$defs"]["Points"]
    # `pde: 4000` is short for `pde: {count: 4000}`.
    schema["$defs"]["Points"] = {
        "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, points],
        "description": points.get("description", ""),
    }
    # A file that changes another one need not say everything again.
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    # `conserve: [mass]` and `multiscale: {pde: 3}` are short forms, too.
    chosen = schema["properties"]["conserve"]
    names = {"type": "array", "items": {"type": "string"}}
    about = {key: chosen.pop(key) for key in ("default", "description", "title") if key in chosen}
    schema["properties"]["conserve"] = {"anyOf": [names, chosen], **about}
    for name, short in (("Conserve", {"enum": ["term", "projection", "both", None]}), ("Bands", {"type": "integer"})):
        whole = schema["$defs"][name]
        schema["$defs"][name] = {"anyOf": [short, whole], "description": whole.get("description", "")}
    return schema
