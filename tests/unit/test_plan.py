"""`plan`: where values came from, what is counted, what is lacking; and the whole of it on a small file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError, RunFailed, UserError
from orchestrator import cli, plan
from orchestrator.build import task_of
from orchestrator.config import Experiment
from orchestrator.planning import _decided, estimate, probing, room
from orchestrator.planning.measure import share
from orchestrator.planning.show import duration, size
from orchestrator.planning.sources import origins
from orchestrator.planning.uploads import upload
from orchestrator.reader import read_experiment
from orchestrator.timeline import Position, Timeline, due

TREE: dict[str, Any] = {
    "name": "small",
    "backend": "torch",  # uncompiled here; JAX would compile each part
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 6, "depth": 2},
    "points": {"pde": {"count": 60, "adapt": {"kind": "rad", "every": 4}}, "ic": 10, "bc": 10},
    "stages": [{"name": "warm", "kind": "adam", "steps": 12}, {"kind": "ssbroyden", "steps": 6}],
    "weights": {"kind": "fixed", "values": {"ic": 1e6}},
    "evaluate": {"every": 5, "points": 40},
    "checkpoint": {"every": 6, "keep": 2},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 2},
}


# --- where values came from ---


def test_every_value_says_which_line_of_which_file_override_variable_or_default_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    (here / "base.yaml").write_text(
        "name: base\ntask: {kind: burgers}\npoints: {pde: 50}\nstages:\n  - {kind: adam, steps: 5}\n"
    )
    (here / "file.yaml").write_text("extends: base.yaml\nname: file\nseed: 3\n")
    read = read_experiment(here / "file.yaml", ["stages.adam.lr=5e-3", "evaluate={every: 7}"])
    found = {o.path: o for o in origins(read, _decided(read, here / "runs", "http://127.0.0.1:1", "cpu"))}
    shown = {path: found[path].origin for path in ("name", "seed", "task.kind", "stages.0.steps", "points.pde.count")}
    assert shown == {
        "name": "file.yaml:2",
        "seed": "file.yaml:3",
        "task.kind": "base.yaml:2",
        "stages.0.steps": "base.yaml:5",
        "points.pde.count": "base.yaml:3",
    }
    assert found["points.pde.sampler"].origin == found["task.nu"].origin == "default"
    assert (found["stages.0.lr"].value, found["stages.0.lr"].origin) == (5e-3, "-s stages.adam.lr=5e-3")
    assert found["evaluate.every"].origin == "-s evaluate={every: 7}"
    assert found["evaluate.points"].origin == "default"
    assert (found["tracking.uri"].value, found["tracking.uri"].origin) == ("http://127.0.0.1:1", "MLFLOW_TRACKING_URI")
    assert found["device"].origin == "auto, on this machine"
    assert len(found) == len(origins(read, {})), "no value is told twice"


# --- what is counted ---


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    every=st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=3),
)
def test_what_happens_is_counted_as_the_loop_does_it(steps: list[int], every: list[int | None]):
    stages = Experiment.model_validate(
        {**TREE, "stages": [{"name": f"s{i}", "kind": "sgd", "steps": n} for i, n in enumerate(steps)]}
    ).stages
    timeline, at, seen = Timeline(stages, tuple({e for e in every if e}), 500), Position(), [0] * len(steps)
    while not timeline.over(at):
        stage = at.stage
        at = timeline.after(at, timeline.dispatch(at))
        seen[stage] += any(due(at.step, e) for e in every) or timeline.over(at)
    assert estimate.events([{"steps": n} for n in steps], every, last=True) == seen
    first = estimate.events([{"steps": n} for n in steps], every, last=True, first=True)
    assert first == [seen[0] + 1, *seen[1:]]


def test_checkpoints_that_stay_are_the_newest_and_the_best():
    found = {
        "stages": [{"steps": 100, "checkpoint_bytes": 10}, {"steps": 20, "checkpoint_bytes": 1000}],
        "every": {"checkpoint": 10, "evaluate": 50, "weights": None, "points": [], "figures": None},
    }
    assert estimate.checkpoints(found, 3, True) == {
        **{"written": 12, "kept": 4},
        **{"bytes_each": [10, 1000], "bytes_kept": 10 + 1000 + 1000 + 1000},
    }
    assert estimate.checkpoints(found, 3, False)["bytes_kept"] == 2010


def test_terms_that_lie_far_apart_are_warned_about_with_the_weight_that_would_level_them():
    terms = {name: {"value": v, "weight": w, "weighted": v * w} for name, v, w in (("a", 1e3, 1.0), ("b", 1e-2, 2.0))}
    said = estimate.advice(terms)
    assert "'a' is 5e+04 times the term 'b'" in said
    assert "-s weights.values.b=1e+05" in said
    terms["b"]["weighted"] = 1.0
    assert estimate.advice(terms) == ""
    assert estimate.advice({"a": terms["a"]}) == "", "one term has nothing to be compared with"


def test_a_worker_of_three_has_a_third_of_the_points():
    task = task_of(Experiment.model_validate({**TREE, "resources": {"workers": 1}}), Path())
    counts = {b: s.count for b, s in share(3)(task).sets.samplings.items()}  # type: ignore[attr-defined]
    assert counts == {b: s.count // 3 for b, s in task.sets.samplings.items()}  # type: ignore[attr-defined]
    assert share(1)(task) is task


def test_sizes_and_durations_are_for_people():
    assert [size(n) for n in (0, 999, 12_345, 6_790_000, 5e12)] == ["0 B", "999 B", "12.3 kB", "6.79 MB", "5e+03 GB"]
    assert [duration(s) for s in (0.04, 99, 125, 7325)] == ["0.0 s", "99.0 s", "2:05 min", "2:02:05 h"]


# --- what would be uploaded, what is lacking ---


def test_the_upload_is_what_ray_would_take(here: Path):
    for name, count in (("a.txt", 10), ("keep/b.bin", 3000), ("skip/c.bin", 5000), (".git/d", 70), ("runs/e", 80)):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(b"x" * count)
    (here / ".gitignore").write_text("runs/\n")
    (here / ".rayignore").write_text("skip/\n")
    found = upload(here)
    assert found.largest[:2] == (("keep", 3000), ("a.txt", 10))
    assert {name for name, _ in found.largest} == {"keep", "a.txt", ".gitignore", ".rayignore"}
    assert (found.files, found.bytes, found.problem) == (4, 3000 + 10 + 6 + 6, "")


def test_an_upload_that_ray_refuses_is_told_before_with_what_to_leave_out(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "data").mkdir()
    with (here / "data" / "big.bin").open("wb") as file:
        file.truncate(600_000_000)  # sparse
    assert "600 MB in 1 files, and Ray takes 537 MB; list data in .rayignore" in upload(here).problem
    monkeypatch.setattr("orchestrator.planning.uploads.MOST_FILES", 2)
    for i in range(5):
        (here / f"f{i}").touch()
    assert "over " in upload(here).problem


def test_workers_and_memory_that_are_not_there_are_lacking():
    many = Experiment.model_validate({**TREE, "resources": {"workers": 500, "gpus_per_worker": 1}})
    found = room.resources(many, 10**9)
    assert len(found["lacking"]) == 2
    assert "500 CPUs" in found["lacking"][0]
    assert "500 workers of about 1.00 GB need 500.00 GB of memory" in found["lacking"][1]
    assert found["asked"] == {"workers": 500, "cpus": 500, "gpus": 500, "memory_bytes": 500 * 10**9}
    assert room.resources(Experiment.model_validate(TREE), 10**6)["lacking"] == []
    assert room.disk(Path("/nowhere/at/all"), 10**18)["lacking"][0].startswith("/nowhere/at/all has ")


def test_a_cluster_that_does_not_answer_is_lacking(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = room.resources(Experiment.model_validate({**TREE, "resources": {"workers": 1}}), 10**6)
    assert found["where"] == "the Ray cluster"
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in found["lacking"][0]


def test_a_matrix_that_no_machine_holds_is_refused_before_anything_is_tried(here: Path):
    width = int((psutil.virtual_memory().total / 8 / 3) ** 0.25) + 200
    with pytest.raises(ConfigError, match=r"stages\.1: the stage keeps a dense inverse Hessian .* `kind: lbfgs`"):
        plan({**TREE, "network": {"kind": "mlp", "width": width, "depth": 2}})


def test_mistakes_are_told_before_anything_is_tried(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probing, "_measured", lambda *a: pytest.fail("nothing is measured"))
    (here / "file.yaml").write_text(yaml.safe_dump({**TREE, "sed": 1}))
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", "file.yaml"])
    assert left.value.code == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    with pytest.raises(UserError, match="'nothing' is no run folder"):
        plan({**TREE, "start_from": "nothing"})


# --- the whole ---


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "file.yaml").write_text(yaml.safe_dump(TREE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(probing, "BUDGET_S", 0.05)
        made = plan("file.yaml", ["compile=never"])
    data = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    return data, folder


@pytest.mark.slow
def test_a_plan_says_what_the_run_will_need(planned: tuple[dict[str, Any], Path]):
    data, _ = planned
    assert data["parameters"] == {"total": 67, "trained": 67, "by_prefix": {"network": 67}}
    assert sorted(data["samples"].values()) == [10, 10, 60]
    warm, polish = data["stages"]
    assert (warm["precision"], polish["precision"]) == ("float32", "float64")
    assert (warm["compiled"], polish["compiled"]) == (False, False)
    assert polish["optimizer_bytes"] > 67 * 67 * 8
    assert warm["evaluations_per_step"] == 1 <= polish["evaluations_per_step"]
    assert warm["chunks"].keys() == data["samples"].keys()
    assert data["eta"]["happenings"] == {"evaluate": 5, "points": 4, "weights": 0, "checkpoint": 6, "figures": 1}
    assert data["eta"]["seconds"] == pytest.approx(sum(data["eta"]["parts"].values()))
    assert data["eta"]["parts"]["train"] == pytest.approx(sum(s["train_s"] for s in data["stages"]))
    assert data["memory"]["peak_bytes"] > data["memory"]["framework_bytes"] > 10**7
    assert data["checkpoints"]["written"] == 6 and data["checkpoints"]["kept"] == 3
    assert data["terms"]["ic"]["weighted"] == pytest.approx(1e6 * data["terms"]["ic"]["value"])
    assert any("weights.values." in w for w in data["warnings"]), "ic is weighted up by a million"
    assert data["config"]["compile"] == {"value": "never", "origin": "-s compile=never"}
    assert data["lacking"] == []
    assert data["upload"]["files"] == 1


@pytest.mark.slow
def test_a_plan_leaves_nothing_behind(planned: tuple[dict[str, Any], Path]):
    assert [p.name for p in planned[1].iterdir()] == ["file.yaml"]


@pytest.mark.slow
def test_a_probe_that_fails_is_told_in_one_line(here: Path):
    (here / "own.py").write_text(
        "from orchestrator import Problem, residual\n\n\nclass Own(Problem):\n    coords = {'x': (0, 1)}\n"
        "    fields = ('u',)\n\n    @residual\n    def pde(self, f):\n"
        f"        import os\n        if os.getpid() != {os.getpid()}:\n            raise ValueError('not here')\n"
        "        return f('u_xx')\n"
    )
    tree = {k: TREE[k] for k in ("backend", "network", "resources", "tracking", "stages")}
    with pytest.raises(RunFailed, match="the probe failed: .*not here"):
        plan({**tree, "name": "own", "task": {"kind": "custom", "target": "own.py:Own"}})
