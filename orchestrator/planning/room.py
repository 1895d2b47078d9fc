"""What a run asks for, against what this machine or the cluster at RAY_ADDRESS has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil

from orchestrator.config import Experiment
from orchestrator.ray_cluster import look


def resources(experiment: Experiment, peak_bytes: int) -> dict[str, Any]:
    """`asked`, `nodes`, and what is `lacking` (a list of sentences, empty where nothing is)."""
    asked = experiment.resources
    workers = max(asked.workers, 1)
    nodes, who, lacking = look(asked.model_copy(update={"workers": workers}))
    if not asked.workers and "CPU" in lacking:
        lacking = ""  # in process, more threads than cores are slow, not impossible
    found = [lacking] if lacking else []
    free = psutil.virtual_memory().available
    if who.startswith("this"):
        if workers * peak_bytes > free:
            found.append(_memory(workers, peak_bytes, free, "this machine has free"))
    else:
        room = sum(int(node.get("memory", 0.0) // max(peak_bytes, 1)) for node in nodes)
        if nodes and room < workers:
            total = int(sum(node.get("memory", 0.0) for node in nodes))
            found.append(_memory(workers, peak_bytes, total, "the cluster's nodes have"))
    return {
        "asked": {
            "workers": asked.workers,
            "cpus": workers * asked.cpus_per_worker,
            "gpus": workers * asked.gpus_per_worker,
            "memory_bytes": workers * peak_bytes,
        },
        "where": "this machine" if who.startswith("this") else "the Ray cluster",
        "nodes": [{k: v for k, v in node.items() if k in ("CPU", "GPU", "memory")} for node in nodes],
        "free_memory_bytes": free,
        "lacking": found,
    }


def _memory(workers: int, each: int, have: int, who: str) -> str:
    return (
        f"{workers} worker{'s' * (workers > 1)} of about {each / 1e9:.2f} GB need {workers * each / 1e9:.2f} GB of "
        f"memory, {who} {have / 1e9:.2f} GB; fewer workers, points or a smaller network"
    )


def disk(folder: Path, needed: int) -> dict[str, Any]:
    """Free bytes of the disk that `folder` will lie on, and whether `needed` fits."""
    there = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    lacking = (
        [] if needed < free else [f"{folder} has {free / 1e6:.0f} MB free; checkpoints need {needed / 1e6:.0f} MB"]
    )
    return {"folder": str(folder), "free_bytes": free, "lacking": lacking}
