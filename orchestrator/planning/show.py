"""A plan as tables for people."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console

from orchestrator.console import console
from orchestrator.planning import Plan
from orchestrator.printing import tabular


def show(plan: Plan, *, as_json: bool) -> None:
    """Print the plan on stdout; with `as_json` as data."""
    if as_json:
        typer.echo(json.dumps(plan.as_dict(), default=str))
        return
    out = console(stderr=False)
    _config(plan, out)
    _program(plan, out)
    _needs(plan, out)
    _places(plan, out)
    for message in plan.warnings:
        out.print(f"warning: {message}")
    for message in plan.lacking:
        out.print(f"lacking: {message}")


def _config(plan: Plan, out: Console) -> None:
    table = tabular(out, "setting", "value", "from", title=plan.file)
    for origin in plan.config:
        table.add_row(origin.path, _value(origin.value), origin.origin)
    out.print(table)


def _program(plan: Plan, out: Console) -> None:
    """Parameters, samples, stages, terms."""
    parts = ", ".join(f"{name} {size:,}" for name, size in plan.parameters["by_prefix"].items())
    out.print(f"\nparameters: {plan.parameters['total']:,} ({plan.parameters['trained']:,} trained): {parts}")
    out.print("samples per step: " + ", ".join(f"{name} {count:,}" for name, count in plan.samples.items()))
    right = ("steps", "optimizer", "steps/s", "evaluations", "time", "peak")
    table = tabular(
        out, "stage", "kind", "precision", "compiled", "chunks", *right, title=f"stages on {plan.device}", right=right
    )
    for s in plan.stages:
        chunks = ", ".join(f"{name} {c['chunk']:,}" for name, c in s["chunks"].items())
        compiled = {True: "yes", False: "no", None: "?"}[s["compiled"]]
        table.add_row(
            s["name"],
            s["kind"],
            s["precision"],
            compiled,
            chunks,
            f"{s['steps']:,}",
            size(s["optimizer_bytes"]),
            f"{s['steps_per_s']:.4g}",
            f"{s['evaluations_per_step']:.2f}",
            duration(s["train_s"]),
            size(s["peak_bytes"]),
        )
    out.print(table)
    table = tabular(out, "term", "at step 0", "weight", "weighted", right=("at step 0", "weight", "weighted"))
    for name, term in plan.terms.items():
        table.add_row(name, *(f"{term[k]:.3g}" for k in ("value", "weight", "weighted")))
    out.print(table)


def _needs(plan: Plan, out: Console) -> None:
    """Time and memory."""
    eta, memory = plan.eta, plan.memory
    parts = ", ".join(
        f"{name} {duration(spent)}" + (f" ({eta['happenings'][name]}x)" if name in eta["happenings"] else "")
        for name, spent in eta["parts"].items()
        if spent >= 0.05
    )
    out.print(f"\nETA: {duration(eta['seconds'])} ({parts}); CPU {duration(eta['cpu_s'])}")
    out.print(f"compiling took {duration(eta['compile_s'])} here; the programs are in the cache now")
    kinds = ("framework", "parameter", "optimizer", "working")
    shares = ", ".join(f"{kind} {size(memory[f'{kind}_bytes'])}" for kind in kinds)
    out.print(
        f"memory of a training process: {size(memory['peak_bytes'])} ({shares}); where it must compile "
        f"{size(memory['peak_compiling_bytes'])}"
    )
    if memory["device"]:
        out.print(f"memory of its device: {size(memory['device'].get('peak', 0))}")
    kept = plan.checkpoints
    out.print(
        f"checkpoints: at most {kept['written']} written, {kept['kept']} kept, {size(kept['bytes_kept'])} on the disk"
    )


def _places(plan: Plan, out: Console) -> None:
    """Where it runs, and where results go."""
    asked, job = plan.resources["asked"], plan.upload
    where = plan.resources["where"]
    have = [", ".join(f"{v:g} {k}" for k, v in n.items() if k != "memory" and v) for n in plan.resources["nodes"]]
    who = f"{asked['workers']} Ray worker{'s' * (asked['workers'] != 1)}" if asked["workers"] else "in this process"
    out.print(f"resources: {who}, {asked['cpus']:g} CPU, {asked['gpus']:g} GPU; {where} has {'; '.join(have) or '?'}")
    out.print(f"storage: {plan.storage['folder']} ({size(plan.storage['free_bytes'])} free)")
    tracking = plan.tracking
    to = f"{tracking['uri']}, experiment {tracking['experiment']!r}" if tracking["enabled"] else "off"
    out.print(f"tracking: {to}")
    out.print(f"a Ray job would upload {size(job.bytes)} in {job.files} files from {job.folder}:")
    for name, bytes_ in job.largest:
        out.print(f"  {size(bytes_):>10}  {name}")


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d} h" if hours else f"{rest // 60}:{rest % 60:02d} min"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, dict | list | tuple | bool) else str(value)
