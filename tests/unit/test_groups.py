"""Parameter groups as a file gives them: who belongs to which, what is refused, rates as curves, fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import checkpoint
from backends.errors import UserError
from backends.groups import Group, Grouping, check_stages, columns
from backends.stages import Adam, Lbfgs
from backends.stages.custom import CustomOptimizer
from backends.task import Term
from orchestrator import run
from orchestrator.folder import RunFolder, read_jsonl

NAMES = ["encoder/b0", "encoder/w0", "decoder/w0", "frozen/B"]
TREE: dict[str, Any] = {
    "name": "groups",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 4, "depth": 2},
    "points": {"pde": 12, "bc": 4},
    "stages": [{"kind": "adam", "lr": 1e-2, "steps": 6, "schedule": {"kind": "cosine"}}],
    "compile": "never",
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 1},
}


def test_patterns_find_trained_parameters_and_the_rest_is_a_group():
    groups = {"slow": Group(params=("encoder/*",), rate=0.1), "still": Group(params=("*/b?",), freeze=True)}
    with pytest.raises(UserError, match="'encoder/b0' is in two groups, 'slow' and 'still'"):
        Grouping.of(groups, NAMES)
    found = Grouping.of({**groups, "slow": Group(params=("encoder/w*",))}, NAMES)
    assert found.members == (("slow", ("encoder/w0",)), ("rest", ("decoder/w0",)))
    assert found.frozen == {"encoder/b0"} and not found.free("frozen/B") and found.free("decoder/w0")
    assert columns(groups) == ("lr/slow", "sign/slow", "on/slow")


def test_groups_that_only_freeze_leave_the_optimizer_whole():
    found = Grouping.of({"still": Group(params=("encoder/*",), freeze=True)}, NAMES)
    assert found.members == () and found.frozen == {"encoder/b0", "encoder/w0"}


@pytest.mark.parametrize(
    ("groups", "terms", "message"),
    [
        ({"a": Group(params=("encodr/*",))}, (), "'encodr/\\*' matches no parameter that is trained; did you mean"),
        ({"a": Group(params=("frozen/*",))}, (), "matches no parameter that is trained"),
        ({"a": Group(params=("*",), freeze=True)}, (), "all parameters are frozen"),
        ({"rest": Group(params=("*",))}, (), "'rest' is what the parameters without a group are called"),
        (
            {},
            (Term("judge", "loss", "rows", groups=("critic",)),),
            "trains the group 'critic', which the file does not",
        ),
        (
            {"critics": Group(params=("*",))},
            (Term("judge", "loss", "rows", groups=("critic",)),),
            "did you mean 'critics'",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: dict[str, Group], terms: tuple[Term, ...], message: str):
    with pytest.raises(UserError, match=message):
        Grouping.of(groups, NAMES, terms)


@pytest.mark.parametrize("way", [{"rate": 0.5}, {"every": 2}, {"sign": -1}])
def test_line_searches_only_know_frozen_groups(way: dict[str, Any]):
    stages = (Adam(steps=5), Lbfgs(name="polish", steps=5))
    check_stages({"a": Group(params=("*",), freeze=True)}, stages, ())
    with pytest.raises(
        UserError, match=f"'polish' .lbfgs.*the group 'a' can't have its own `{next(iter(way))}`"
    ) as found:
        check_stages({"a": Group(params=("*",), **way)}, stages, ())
    assert found.value.path == f"groups.a.{next(iter(way))}"
    with pytest.raises(UserError, match="the term 'judge' trains only a"):
        check_stages({"a": Group(params=("*",))}, stages, (Term("judge", "loss", "rows", groups=("a",)),))


def test_an_optimizer_of_ones_own_knows_frozen_groups_only():
    own = CustomOptimizer(name="mine", steps=5, target="mine.py:Fisher", lr=1e-3)
    check_stages({"a": Group(params=("*",), freeze=True)}, [own], (Term("judge", "loss", "rows", groups=("a",)),))
    with pytest.raises(UserError, match="'mine' has an own optimizer, which alone decides"):
        check_stages({"a": Group(params=("*",), rate=0.5)}, [own], ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 2, "offset": 2}, "an offset of 2 is never reached"),
        ({"freeze": True, "rate": 0.1}, "a frozen group never moves, so `rate` has no meaning"),
        ({"rate": 0}, "greater than 0"),
        ({"params": []}, "at least 1 item"),
    ],
)
def test_fields_that_contradict_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Group.model_validate({"params": ["*"], **fields})


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_group_rates_follow_the_schedule_and_are_recorded(backend: str, tmp_path: Path):
    pytest.importorskip(backend)
    groups = {"slow": {"params": ["w0"], "rate": 0.1}, "still": {"params": ["b*"], "freeze": True}}
    result = run({**TREE, "backend": backend, "groups": groups}, out=tmp_path / "run")
    records = [r["metrics"] for r in read_jsonl(RunFolder(tmp_path / "run").metrics)[0]]
    rates = [(m["lr"], m["lr/slow"]) for m in records if "lr/slow" in m]
    assert len(rates) > 3 and all(np.isclose(slow, 0.1 * lr) for lr, slow in rates)
    assert not any("still" in name or name.startswith(("on/", "sign/")) for m in records for name in m)
    assert result.status == "finished"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fine_tuning_starts_from_a_run_and_moves_what_is_not_frozen(backend: str, tmp_path: Path):
    pytest.importorskip(backend)
    run({**TREE, "backend": backend}, out=tmp_path / "first")
    groups = {"still": {"params": ["w0", "w1", "b0", "b1"], "freeze": True}}
    start = {"groups": groups, "start_from": str(tmp_path / "first")}
    stages = [*TREE["stages"], {"kind": "lbfgs", "steps": 3}]
    run({**TREE, "backend": backend, **start, "stages": stages}, out=tmp_path / "second")
    before, after = (newest(tmp_path / name) for name in ("first", "second"))
    for name in ("w0", "w1", "b0", "b1"):
        assert np.array_equal(before[f"params/{name}"], after[f"params/{name}"]), name
    assert not np.array_equal(before["params/w2"], after["params/w2"])


def newest(folder: Path) -> dict[str, Any]:
    found = checkpoint.newest(RunFolder(folder).checkpoints, pytest.fail)
    assert found is not None
    return dict(found.arrays)
