"""From what was measured to what a run will need: seconds, bytes, checkpoints; how far the terms lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RAY_S = 6.0
"""What a cluster of one's own and a worker on it cost before the first step (benchmarks/RESULTS.md, startup)."""
COMMAND_S = 0.8
"""What the interpreter and our own imports cost once more: the command line executes itself again with the environment
of the backend."""
SPREAD = 1e4
"""Terms that lie farther apart at step 0 are warned about: the optimizer sees only the large ones."""
BETWEEN = ("evaluate", "points", "weights", "checkpoint")
Found = Mapping[str, Any]


def rate(stage: Found, clock: str = "wall") -> float:
    """Seconds per step of a stage, from the later half of its dispatches; of the first one where there is no other."""
    laps = [lap for lap in stage["laps"] if lap["done"]]
    late = laps[len(laps) // 2 :]
    if not late:
        return float(stage["first"][clock])
    return sum(lap[clock] for lap in late) / sum(lap["done"] for lap in late)


def events(stages: Sequence[Found], every: Sequence[int | None], *, last: bool, first: bool = False) -> list[int]:
    """How often something that is due at multiples of any of `every` happens in each stage; also after the last step,
    and before the first one."""
    periods = [e for e in every if e]
    counts, start = [], 0
    total = sum(s["steps"] for s in stages)
    for stage in stages:
        end = start + stage["steps"]
        at = {step for e in periods for step in range((start // e + 1) * e, end + 1, e)}
        counts.append(len(at | ({end} if last and end == total else set())))
        start = end
    if first:
        counts[0] += 1
    return counts


def happenings(found: Found, best: bool) -> dict[str, list[int]]:
    """Per stage how often each thing between the steps happens. A best checkpoint is counted at every evaluation."""
    stages, every = found["stages"], found["every"]
    saves = [every["checkpoint"], *([every["evaluate"]] if best else [])]
    return {
        "evaluate": events(stages, [every["evaluate"]], last=True, first=True),
        "points": events(stages, every["points"], last=False),
        "weights": events(stages, [every["weights"]], last=False),
        "checkpoint": events(stages, saves, last=True),
        "figures": events(stages, [every["figures"]], last=True, first=bool(every["figures"])),
    }


def once(found: Found, clock: str) -> float:
    """Seconds of everything that is done for the first time: compiling, or reading from the cache; imports."""
    firsts = sum(s["first"][clock] + sum(s[f"{name}_compile"][clock] for name in BETWEEN) for s in found["stages"])
    return float(firsts + found["evaluate_compile"][clock] + found["figure_compile"][clock])


def eta(found: Found, cold: Found, *, best: bool, ray: bool) -> dict[str, Any]:
    """Seconds of a run whose compiled programs are in the cache, by what they are spent on, on the clock on the wall
    and of the CPU; and what compiling took besides, here."""
    counts = happenings(found, best)
    out: dict[str, Any] = {}
    for clock, total in (("wall", "seconds"), ("cpu", "cpu_s")):
        rates = [rate(s, clock) for s in found["stages"]]
        parts = {"start": RAY_S if ray else COMMAND_S}
        parts["start"] += sum(found[name][clock] for name in ("check", "prepare", "setup"))
        done_once = sum(s[name][clock] for s in found["stages"] for name in BETWEEN) + found["figure"][clock]
        parts["load"] = max(once(found, clock) - sum(rates) - done_once, 0.0)
        parts["train"] = sum(s["steps"] * r for s, r in zip(found["stages"], rates, strict=True))
        for name in BETWEEN:
            parts[name] = sum(n * s[name][clock] for n, s in zip(counts[name], found["stages"], strict=True))
        parts["figures"] = sum(counts["figures"]) * found["figure"][clock]
        out[total] = sum(parts.values())
        out["parts" if clock == "wall" else "cpu_parts"] = parts
    out["compile_s"] = max(once(cold, "wall") - once(found, "wall"), 0.0)
    out["happenings"] = {name: sum(n) for name, n in counts.items()}
    return out


def stages(found: Found) -> list[dict[str, Any]]:
    """One entry per stage."""
    out = []
    for s in found["stages"]:
        laps = s["laps"] or [s["first"]]
        out.append(
            {
                "name": s["name"],
                "kind": s["kind"],
                "steps": s["steps"],
                "precision": s["precision"],
                "optimizer_bytes": s["optimizer_bytes"],
                "compiled": s["compiled"],
                "steps_per_s": 1.0 / max(rate(s), 1e-9),
                "evaluations_per_step": sum(x["evaluations"] for x in laps) / max(sum(x["done"] for x in laps), 1),
                "train_s": s["steps"] * rate(s),
                "peak_bytes": s["peak"],
                "chunks": s["chunks"],
            }
        )
    return out


def memory(found: Found, cold: Found) -> dict[str, Any]:
    """Bytes of the training process at most: with programs from the cache, and where it has to compile them."""
    told = found["memory"]
    optimizer = max(s["optimizer_bytes"] for s in found["stages"])
    parameters = max(s["parameter_bytes"] for s in found["stages"])
    return {
        "peak_bytes": told["peak"],
        "peak_compiling_bytes": max(cold["memory"]["peak"], told["peak"]),
        "framework_bytes": told["framework"],
        "parameter_bytes": parameters,
        "optimizer_bytes": optimizer,
        "working_bytes": max(told["peak"] - told["framework"] - parameters - optimizer, 0),
        "device": told.get("device", {}),
    }


def checkpoints(found: Found, keep: int, best: bool) -> dict[str, Any]:
    """How many are written at most, how many stay, and the bytes of those that stay (the largest ones)."""
    written = happenings(found, best)["checkpoint"]
    sizes = [s["checkpoint_bytes"] for s in found["stages"]]
    newest = [size for n, size in zip(written, sizes, strict=True) for _ in range(min(n, keep + 1))][-keep:]
    kept = [*newest, *([max(sizes)] if best and sum(written) > keep else [])]
    return {"written": sum(written), "kept": len(kept), "bytes_each": sizes, "bytes_kept": sum(kept)}


def magnitudes(found: Found) -> dict[str, dict[str, float]]:
    """Mean of each trained term at step 0 on the held-out points, its weight, and their product."""
    out = {}
    for name, weight in found["terms"].items():
        value = float(found["magnitudes"][f"validation/{name}"])
        out[name] = {"value": value, "weight": float(weight), "weighted": value * float(weight)}
    return out


def advice(terms: Mapping[str, Mapping[str, float]]) -> str:
    """A warning where the weighted terms spread over more than SPREAD; empty where they do not."""
    sized = {name: t["weighted"] for name, t in terms.items() if t["weighted"] > 0}
    if len(sized) < 2 or max(sized.values()) / min(sized.values()) <= SPREAD:
        return ""
    large, small = max(sized, key=lambda n: sized[n]), min(sized, key=lambda n: sized[n])
    ratio = sized[large] / sized[small]
    return (
        f"at step 0 the term {large!r} is {ratio:.0e} times the term {small!r}, so the optimizer will hardly see the "
        f"latter: -s weights.values.{small}={terms[small]['weight'] * ratio:.0e}, or adaptive weights "
        "(-s weights.kind=gradient_norms); check the units of both (`scaling.fields`)"
    )
