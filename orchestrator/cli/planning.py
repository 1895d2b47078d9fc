"""The verb that tells what a run will need: plan."""

from __future__ import annotations

from orchestrator.cli.app import NONE, File, Json, Set, app


@app.command()
def plan(file: File, set: Set = NONE, json_: Json = False) -> None:
    """Say what a run will need: settings and their origin, time, memory, terms, resources, upload. Only probes."""
    from orchestrator import planning
    from orchestrator.planning.show import show

    show(planning.plan(file, list(set)), as_json=json_)
