"""The one loop: in which order things happen, and what a run that was stopped anywhere does next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy_backend import NumpyBackend, use

from backends import checkpoint
from backends.errors import NonFinite, UserError
from orchestrator import RunResult, hooks, resume, run
from orchestrator.folder import RunFolder, read_json, read_jsonl, status
from orchestrator.pieces import Pieces

Tree = dict[str, Any]

TREE: Tree = {
    "name": "loop",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {"pde": {"count": 24, "adapt": {"kind": "rad", "every": 7}}, "bc": 8},
    "stages": [
        {"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 17},
        {"name": "polish", "kind": "lbfgs", "steps": 13},
    ],
    "weights": {"kind": "relobralo", "every": 6},
    "callbacks": [{"kind": "early_stopping", "patience": 50}],
    "evaluate": {"every": 10, "points": 20},
    "checkpoint": {"every": 8, "keep": 50},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 5},
}


@pytest.fixture
def made() -> list[NumpyBackend]:
    return []


@pytest.fixture(autouse=True)
def _numpy(monkeypatch: pytest.MonkeyPatch, made: list[NumpyBackend]) -> None:
    use(monkeypatch, made)


def last(result: RunResult) -> checkpoint.Snapshot:
    found = checkpoint.newest(result.folder.checkpoints, pytest.fail)
    assert found is not None
    return found


def records(result: RunResult) -> dict[int, Tree]:
    return {r["step"]: r["metrics"] for r in read_jsonl(result.folder.metrics)[0]}


def events(result: RunResult, kind: str) -> list[Tree]:
    return [e for e in read_jsonl(result.folder.events)[0] if e["event"] == kind]


class Plugged:
    """A callback of the test, named by a file for every run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "plugged.py"
        self.file.write_text("from test_loop import CURRENT\n\n\ndef Plug():\n    return CURRENT[0]\n")

    def tree(self, callback: Any, **changes: Any) -> Tree:
        CURRENT[:] = [callback]
        spec = {"kind": "custom", "target": f"{self.file}:Plug"}
        return {**TREE, "callbacks": [spec], **changes}


CURRENT: list[Any] = []


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Plugged]:
    yield Plugged(tmp_path)
    CURRENT.clear()


# --- when things happen ---


def test_dispatches_end_at_every_event_and_no_step_is_done_twice(tmp_path: Path, made: list[NumpyBackend]):
    result = run(TREE, out=tmp_path / "run")
    boundaries = {5, 6, 7, 8, 10, 12, 14, 15, 16, 17, 18, 20, 21, 24, 25, 28, 30}
    assert [step + n for step, n in made[-1].calls] == sorted(boundaries)
    assert [step for step, _ in made[-1].calls] == [0, *sorted(boundaries)[:-1]]
    assert sorted(records(result)) == [0, 5, 10, 15, 20, 25, 30]
    assert [p.name[-2:] for p in checkpoint.listing(result.folder.checkpoints)][-1] == "30"
    saved = {int(p.name[5:]) for p in checkpoint.listing(result.folder.checkpoints)}
    assert {8, 16, 24, 30} <= saved
    assert last(result).points["versions/interior"] == 4, "drawn again after 7, 14, 21 and 28 steps"


def test_an_evaluation_stands_at_the_beginning_at_its_period_and_at_the_end(tmp_path: Path):
    found = records(run({**TREE, "evaluate": {"every": 9, "points": 20}}, out=tmp_path / "run"))
    assert [s for s, m in found.items() if "validation/total" in m] == [0, 9, 18, 27, 30]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = {0: 9.0, 10: 5.0, 20: 1.0, 30: 3.0}
    measured: list[int] = []

    def evaluate(self: NumpyBackend, state: Any, batches: Any) -> dict[str, float]:
        measured.append(0)
        return {"pde": list(values.values())[len(measured) - 1], "bc": 0.0}

    monkeypatch.setattr(NumpyBackend, "evaluate", evaluate)
    result = run({**TREE, "checkpoint": {"every": 4, "keep": 1}}, out=tmp_path / "run")
    assert [p.name for p in checkpoint.listing(result.folder.checkpoints)] == ["step-000000020", "step-000000030"]
    assert [e["step"] for e in events(result, "checkpoint") if e["best"]] == [10, 20]
    assert last(result).loop["best"] == {"metric": "validation/total", "value": records(result)[20]["validation/total"]}


def test_callbacks_see_the_stage_that_was_stepped_and_all_its_losses(tmp_path: Path, plugged: Plugged):
    seen: list[hooks.Moment] = []
    callback = SimpleNamespace(start=lambda m: seen.append(m), step=lambda m: seen.append(m))
    run(plugged.tree(callback), out=tmp_path / "run")
    assert (seen[0].step, seen[0].stage, len(seen[0].losses)) == (0, "warm", 0)
    assert "validation/total" in seen[0].metrics
    assert sum(len(m.losses) for m in seen) == 30, "every step once"
    assert {m.stage for m in seen if m.step <= 17} == {"warm"}
    assert {m.stage for m in seen if m.step > 17} == {"polish"}
    assert all(("lr" in m.knobs) == (m.stage == "warm") for m in seen)
    assert [m.step for m in seen if m.metrics] == [0, 10, 20, 30]
    assert seen[1].terms == ("pde", "bc")


def test_what_a_callback_asks_for_is_done_in_order(tmp_path: Path, plugged: Plugged):
    def step(moment: hooks.Moment) -> hooks.Ask | None:
        if moment.step == 7:
            return hooks.Ask(metrics={"mine/number": 4}, save=True)
        return hooks.Ask(stop="that is enough") if moment.step == 15 else None

    ends: list[hooks.Outcome] = []
    callback = SimpleNamespace(step=step, end=lambda moment, outcome: ends.append(outcome))
    result = run(plugged.tree(callback), out=tmp_path / "run")
    assert records(result)[7]["mine/number"] == 4, "recorded, though nothing else was due"
    assert result.metrics["mine/number"] == 4
    assert (result.status, result.step, result.reason) == ("stopped", 15, "that is enough")
    assert {7, 15} <= {int(p.name[5:]) for p in checkpoint.listing(result.folder.checkpoints)}
    assert [(o.status, o.step, o.checkpoint) for o in ends] == [("stopped", 15, "step-000000015")]


def test_a_knob_that_a_callback_sets_is_live_from_the_next_step(
    tmp_path: Path, plugged: Plugged, made: list[NumpyBackend]
):
    callback = SimpleNamespace(step=lambda m: hooks.Ask(knobs={"weight/bc": 5.0}) if m.step == 10 else None)
    run(plugged.tree(callback, weights={"kind": "fixed"}), out=tmp_path / "run")
    tables = dict(zip([s for s, _ in made[-1].calls], made[-1].tables, strict=True))
    assert {float(t[:, 5].max()) for s, t in tables.items() if s < 10} == {1.0}
    assert {float(t[:, 5].min()) for s, t in tables.items() if 10 <= s < 17} == {5.0}


# --- how stages end ---


def test_a_stage_that_stalls_gets_new_points_once_and_ends_the_second_time(
    tmp_path: Path, made: list[NumpyBackend], monkeypatch: pytest.MonkeyPatch
):
    stalls = {19: "line search stalled", 23: "line search stalled"}
    monkeypatch.setattr(NumpyBackend, "__init__", _with_ends(NumpyBackend.__init__, stalls))
    result = run(TREE, out=tmp_path / "run")
    assert (result.status, result.step) == ("finished", 30), "after 20 and 21 it had gone on: not twice in a row"
    stalls[20] = "line search stalled"
    result = run(TREE, out=tmp_path / "other")
    assert (result.status, result.step) == ("finished", 20)
    assert last(result).points["versions/interior"] == 3, "7, 14, and at 19 out of turn"


def test_a_stage_that_converged_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ends = {4: "gradient below tolerance"}
    monkeypatch.setattr(NumpyBackend, "__init__", _with_ends(NumpyBackend.__init__, ends))
    stages = [TREE["stages"][1], TREE["stages"][0]]
    result = run({**TREE, "stages": stages}, out=tmp_path / "run")
    assert (result.status, result.step) == ("finished", 4 + 17)
    assert 4 in records(result), "the last step of a stage that ended early is recorded"
    assert last(result).loop["position"] == {"step": 21, "stage": 1, "within": 17}
    (noted,) = events(result, "stage")
    assert noted["message"] == "stage 'polish' ended at step 4: gradient below tolerance"


def _with_ends(init: Any, ends: dict[int, str]) -> Any:
    def made(self: NumpyBackend, *arguments: Any) -> None:
        init(self, *arguments)
        self.ends = ends

    return made


def test_a_term_that_is_not_finite_is_named_with_its_step_and_nothing_else_is_saved(tmp_path: Path, plugged: Plugged):
    ends: list[hooks.Outcome] = []
    callback = SimpleNamespace(
        step=lambda m: hooks.Ask(knobs={"weight/bc": 1e308}) if m.step == 10 else None,
        end=lambda moment, outcome: ends.append(outcome),
    )
    tree = plugged.tree(callback, weights={"kind": "fixed"})

    def broken(self: NumpyBackend, params: Any, batches: Any, constants: Any, step: int, training: bool = True) -> Any:
        return {"pde": 1.0, "bc": np.nan if step == 12 and training else 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyBackend, "_means", broken)
        with pytest.raises(NonFinite, match="step 12: the loss is not finite in bc") as caught:
            run(tree, out=tmp_path / "run")
    assert (caught.value.step, caught.value.terms) == (12, ("bc",))
    folder = RunFolder(tmp_path / "run")
    assert status(folder) == "failed"
    assert [(o.status, o.step) for o in ends] == [("failed", 10)], "the last boundary"
    assert checkpoint.listing(folder.checkpoints)[-1].name == "step-000000010"


# --- stopped anywhere, resumed, the same ---


@pytest.mark.parametrize("stops", [(0,), (5,), (6, 7, 8), (10,), (16, 17, 18), (21, 25), (28,)])
def test_a_run_stopped_at_any_boundary_goes_on_to_the_same_bits(stops: tuple[int, ...], tmp_path: Path):
    whole = run(TREE, out=tmp_path / "whole")
    for number, step in enumerate(stops):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pieces, "stop", _at(step))
            part = resume(tmp_path / "part") if number else run(TREE, out=tmp_path / "part")
            assert (part.status, part.step) == ("killed", step)
    part = resume(tmp_path / "part")
    assert {s: _timeless(m) for s, m in records(part).items()} == {s: _timeless(m) for s, m in records(whole).items()}
    a, b = last(whole), last(part)
    assert {k: v.tobytes() for k, v in a.arrays.items()} == {k: v.tobytes() for k, v in b.arrays.items()}
    assert {k: v.tobytes() for k, v in a.points.items()} == {k: v.tobytes() for k, v in b.points.items()}
    for loop in (a.loop, b.loop):
        loop["train_s"], loop["latest"] = 0, _timeless(loop["latest"])  # type: ignore[index]
    assert a.loop == b.loop


def _at(step: int) -> Any:
    """`Pieces.stop` that asks for a stop after `step` steps."""

    def stop(self: Pieces) -> Any:
        calls: list[tuple[int, int]] = self.made.backend.calls  # type: ignore[attr-defined]
        return ("killed", "asked to stop") if (sum(calls[-1]) if calls else 0) == step else None

    return stop


def _timeless(metrics: Tree) -> Tree:
    return {k: v for k, v in metrics.items() if not k.startswith("time/")}


def test_adaptive_state_survives_a_change_of_callbacks(tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "stop", _at(20))
        run(TREE, out=tmp_path / "run")
    more = [{"kind": "early_stopping", "metric": "error/l2", "patience": 9}, *TREE["callbacks"]]
    result = resume(tmp_path / "run", {"callbacks": more})
    kept = last(result).loop["callbacks"]
    assert list(kept) == ["early_stopping", "early_stopping#2"]
    assert result.status == "finished"


def test_a_callback_brought_on_resume_travels_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "stop", _at(20))
        run(TREE, out=tmp_path / "run")
    (tmp_path / "own.py").write_text(
        "class Mine:\n    def state(self):\n        return 7\n    def step(self, moment): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    result = resume(tmp_path / "run", {"callbacks": [{"kind": "custom", "target": "own.py:Mine"}]})
    assert last(result).loop["callbacks"] == {"own.py:Mine": 7}
    assert (result.path / "code" / "own.py").exists()
    assert "target: code/own.py:Mine" in result.folder.experiment.read_text()


def test_resuming_in_vain_is_no_use(tmp_path: Path):
    result = run(TREE, out=tmp_path / "run")
    with pytest.raises(UserError, match="has finished"):
        resume(result.path)
    assert read_json(result.folder.result)["status"] == "finished", "and leaves the result as it was"


def test_a_run_that_was_moved_goes_on_where_it_lies_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("class Mine:\n    def step(self, moment): ...\n")
    tree = {**TREE, "callbacks": [{"kind": "custom", "target": "own.py:Mine"}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "stop", _at(20))
        made = run(tree, {"storage": "small"})
    (tmp_path / "own.py").unlink()
    made.path.parent.rename(tmp_path / "large")
    result = resume("loop", {"storage": "large"})
    assert (result.status, result.path) == ("finished", tmp_path / "large" / made.path.name)
    with pytest.raises(UserError, match="has finished"):
        resume("loop", ["storage=large"])
