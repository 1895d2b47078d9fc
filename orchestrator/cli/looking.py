"""Verbs that look at runs: list, show."""

from __future__ import annotations

from orchestrator.cli.app import Json, Run, Storage, app


@app.command("list")
def list_(storage: Storage = None, json_: Json = False) -> None:
    """List the runs of a storage folder."""
    from orchestrator.folder import list_runs, storage_of
    from orchestrator.printing import show_runs

    show_runs(list_runs(storage_of(storage)), as_json=json_)


@app.command()
def show(name: Run, storage: Storage = None, json_: Json = False) -> None:
    """Show one run: status, metrics, figures, checkpoints, how to go on."""
    from orchestrator import folder
    from orchestrator.printing import show_run

    show_run(folder.find(name, storage), as_json=json_)
