"""Callbacks that observe or steer a run: what they record, ask for and remember, in real runs on both backends."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_backend import use

from backends import checkpoint
from backends.errors import UserError
from backends.stages import Adam
from backends.task import Draw
from orchestrator import Ask, Moment, RunResult, resume, run
from orchestrator.callbacks import ReduceOnPlateau
from orchestrator.callbacks.gradient_norms import layer_of, norms
from orchestrator.callbacks.monitors import MIB
from orchestrator.callbacks.plateau import ReducesRate
from orchestrator.folder import read_jsonl
from orchestrator.knobs import Knobs, initial
from orchestrator.timeline import Position, Timeline
from orchestrator.watched_feed import WatchedFeed


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "name": "watched",
        "task": {"kind": "poisson", "k": 1},
        "network": {"kind": "mlp", "width": 4, "depth": 2},
        "points": {"pde": 24, "bc": 8},
        "stages": [{"kind": "adam", "lr": 1e-2, "steps": 20}],
        "evaluate": {"every": 5, "points": 20},
        "checkpoint": {"every": 10},
        "resources": {"workers": 0},
        "tracking": {"enabled": False, "every": 10},
        "compile": "never",
        **changes,
    }


def records(result: RunResult) -> dict[int, dict[str, float]]:
    return {r["step"]: r["metrics"] for r in read_jsonl(result.folder.metrics)[0]}


@pytest.fixture
def numpy_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    made: list[Any] = []
    use(monkeypatch, made)
    monkeypatch.setenv("ORCHESTRATOR_RUNS", str(tmp_path / "runs"))
    return made


@pytest.fixture(scope="module", params=["jax", "torch"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One run of each backend with everything that observes it."""
    pytest.importorskip(request.param)
    callbacks = [
        {"kind": "gradient_norms", "every": 10},
        {"kind": "memory", "every": 10},
        {"kind": "profiler", "start": 7, "steps": 3},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.figures.draw_all", lambda *args: [])
        file = tree(backend=request.param, precision="float64", callbacks=callbacks)
        return run(file, out=tmp_path_factory.mktemp("watched") / "run")


# --- the rate on a plateau ---


def scales(spec: ReduceOnPlateau, values: list[float]) -> list[float]:
    callback, found = ReducesRate(spec), []
    for i, value in enumerate(values):
        callback.step(Moment(i, "warm", (), np.zeros((0, 0)), {}, {spec.metric: value}))
        found.append(callback.scale)
    return found


@given(
    st.lists(st.floats(0.1, 10), max_size=25),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-4, 0.3]),
    st.sampled_from(["min", "max"]),
)
def test_the_rate_falls_where_torchs_scheduler_lowers_it(
    values: list[float], patience: int, cooldown: int, threshold: float, mode: Any
):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, patience=patience, threshold=threshold, cooldown=cooldown, eps=0.0
    )
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    spec = ReduceOnPlateau(factor=0.5, patience=patience, cooldown=cooldown, threshold=threshold, mode=mode)
    assert scales(spec, values) == expected


def test_the_scale_stops_at_its_lowest_and_goes_on_from_a_checkpoint():
    spec = ReduceOnPlateau(factor=0.5, patience=1, lowest=0.2)
    assert scales(spec, [1.0] * 9)[-1] == 0.2
    first, second = ReducesRate(spec), ReducesRate(spec)
    for _ in range(4):
        first.step(Moment(0, "warm", (), np.zeros((0, 0)), {}, {spec.metric: 1.0}))
    second.load(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()


PLATEAU = {"kind": "reduce_on_plateau", "patience": 1, "threshold": 0.9, "factor": 0.5}


def test_a_reduced_rate_is_what_the_steps_use_and_survives_a_resume(numpy_runs: list[Any], tmp_path: Path):
    file = tree(callbacks=[PLATEAU], stages=[{"kind": "adam", "lr": 1e-2, "steps": 40}])
    whole = run(file, out=tmp_path / "whole")
    tables = np.concatenate(numpy_runs[-1].tables)
    assert tables[0, 0] == 1e-2 and tables[-1, 0] < 0.3e-2, "the rate fell more than once"
    assert records(whole)[40]["lr"] == tables[-1, 0]

    class StopsAt20:
        def step(self, moment: Moment) -> Ask | None:
            return Ask(stop="enough") if moment.step == 20 else None

    part = run(file, out=tmp_path / "part", callbacks=[StopsAt20()])
    assert part.status == "stopped" and part.step == 20
    resumed = resume(tmp_path / "part")
    again = checkpoint.newest(resumed.folder.checkpoints, pytest.fail)
    once = checkpoint.newest(whole.folder.checkpoints, pytest.fail)
    assert again is not None and once is not None
    assert again.loop["callbacks"] == once.loop["callbacks"] and again.loop["knobs"] == once.loop["knobs"]
    assert all(np.array_equal(again.arrays[k], once.arrays[k]) for k in once.arrays)


def test_a_file_without_a_rate_or_with_two_owners_of_it_is_refused(numpy_runs: list[Any]):
    with pytest.raises(UserError, match="no stage of this run has a learning rate"):
        run(tree(callbacks=[PLATEAU], stages=[{"kind": "lbfgs", "steps": 5}]))
    with pytest.raises(UserError, match="'lr_scale' has two owners: callbacks.0 and this one"):
        run(tree(callbacks=[PLATEAU, PLATEAU]))
    with pytest.raises(UserError, match="'validation/pdf' is not a metric"):
        run(tree(callbacks=[{**PLATEAU, "metric": "validation/pdf"}]))


# --- gradients ---


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("w0", "0"),
        ("b12", "12"),
        ("encoder/w1", "encoder/1"),
        ("b_u", "u"),
        ("net.2.weight", "net.2"),
        ("net.2.bias", "net.2"),
        ("block/norm.scale", "block/norm"),
        ("params/Dense_0/kernel", "params/Dense_0"),
        ("unknown/kappa", "unknown/kappa"),
        ("weight", "weight"),
    ],
)
def test_weights_and_biases_of_a_layer_belong_together(name: str, layer: str):
    assert layer_of(name) == layer


def test_norms_are_those_of_the_pieces_and_of_the_whole():
    gradient = np.arange(1.0, 8.0)
    found = norms(gradient, [("0", 2), ("1", 3), ("0", 2)])
    assert found == {
        "gradient": pytest.approx(np.linalg.norm(gradient)),
        "gradient/0": pytest.approx(np.linalg.norm([1, 2, 6, 7])),
        "gradient/1": pytest.approx(np.linalg.norm([3, 4, 5])),
    }


def test_gradient_norms_of_a_run_are_those_of_a_probe(watched: RunResult):
    from orchestrator.assemble import assemble
    from orchestrator.reader import read_experiment

    found = records(watched)
    layers = {"gradient/0", "gradient/1", "gradient/2"}
    for step in (0, 10, 20):
        assert layers | {"gradient"} <= found[step].keys()
        assert found[step]["gradient"] == pytest.approx(math.sqrt(sum(found[step][k] ** 2 for k in layers)), rel=1e-12)
    assert not layers & found[5].keys(), "only every ten steps"
    made = assemble(read_experiment(watched.folder.experiment).experiment, watched.folder.path)
    (stage,), feed, state = made.stages, made.task.feed(0), made.backend.init(0)
    row = Knobs(initial(made.task, {"pde": 1.0, "bc": 1.0}), task=made.task).table(stage, 0, 0, 1)[0]
    slope = made.backend.probe(state, frozenset({"gradient"}), feed, 0, row)["gradient"]
    assert found[0]["gradient"] == pytest.approx(np.linalg.norm(slope), rel=1e-12)


def test_gradient_norms_by_parameter_and_by_group(numpy_runs: list[Any], tmp_path: Path):
    groups = {"first": {"params": ["?0"]}, "still": {"params": ["b1"], "freeze": True}}
    by = [{"kind": "gradient_norms", "every": 10, "by": part} for part in ("parameter", "group")]
    found = records(run(tree(callbacks=by, groups=groups), out=tmp_path / "run"))[10]
    assert {"gradient/w0", "gradient/b0", "gradient/first", "gradient/rest"} <= found.keys()
    assert found["gradient/first"] == pytest.approx(math.hypot(found["gradient/w0"], found["gradient/b0"]))


# --- monitors ---


def test_rates_momentum_and_decay_are_recorded_at_a_period_of_their_own(numpy_runs: list[Any], tmp_path: Path):
    stages = [
        {"kind": "adamw", "lr": 1e-2, "steps": 20, "schedule": {"kind": "cosine"}, "weight_decay": 0.3},
        {"kind": "sgd", "lr": 1e-3, "steps": 10, "momentum": 0.7},
    ]
    spec = {"kind": "lr_monitor", "every": 4, "momentum": True, "weight_decay": True}
    found = records(run(tree(callbacks=[spec], stages=stages), out=tmp_path / "run"))
    assert {4, 8, 12, 16, 20, 24, 28} <= found.keys()
    assert found[4]["lr"] == pytest.approx(1e-2 * 0.5 * (1 + math.cos(math.pi * 3 / 20)), rel=1e-12)
    assert (found[8]["momentum"], found[8]["weight_decay"]) == (0.9, 0.3)
    assert (found[24]["momentum"], found[24]["lr"], found[24]["weight_decay"]) == (0.7, 1e-3, 0.0)


def test_throughput_counts_samples_and_time(numpy_runs: list[Any], tmp_path: Path):
    found = records(run(tree(callbacks=[{"kind": "throughput", "every": 10}]), out=tmp_path / "run"))
    for step in (10, 20):
        rate = found[step]["time/samples_per_s"] / found[step]["time/steps_per_s"]
        assert rate == pytest.approx(24 + 8)
        assert 0 <= found[step]["time/data_wait"] <= 1
    assert "time/samples_per_s" not in found[5]


class Slow:
    """A feed of minibatches of 8 beside 5 samples that stay."""

    def take(self, step: int, n: int) -> Draw:
        rows = {"index": np.zeros((n, 8), np.int64)}
        whole = {"rows": {"x": np.zeros(100)}, "ends": {"x": np.zeros(5)}}
        return Draw(0, lambda: whole, {"rows": rows})

    def arrays(self) -> dict[str, Any]:
        return {}

    def load(self, arrays: Any) -> None:
        assert not arrays


def test_a_watched_feed_counts_what_steps_read_however_often_arrays_are_asked_for():
    feed = WatchedFeed(Slow())
    for _ in range(3):
        draw = feed.take(0, 10)
        draw.fixed()
    assert feed.samples == 3 * 10 * (8 + 5)
    assert feed.waited_s > 0
    assert feed.arrays() == {} and feed.load({}) is None


def test_memory_is_that_of_the_process_and_of_a_device_where_there_is_one(watched: RunResult):
    found = records(watched)
    for step in (10, 20):
        assert 20 < found[step]["memory/process"] <= found[step]["memory/process_peak"] < 1e6
        assert "memory/device" not in found[step], "a CPU's memory is the process's"


def test_memory_of_a_device_comes_from_the_backend(numpy_runs: list[Any], tmp_path: Path):
    found = records(run(tree(callbacks=[{"kind": "memory", "every": 10}]), out=tmp_path / "run"))[10]
    assert (found["memory/device"], found["memory/device_peak"]) == (2.0**20 / MIB, 2.0**21 / MIB)


# --- the profiler ---


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 40))
def test_dispatches_end_at_the_edges_of_a_window(start: int, length: int, period: int):
    timeline = Timeline([Adam(steps=60)], (period,), 500, (start, start + length))
    at, ends = Position(), [0]
    while not timeline.over(at):
        at = timeline.after(at, timeline.dispatch(at))
        ends.append(at.step)
    assert {start, min(start + length, 60)} <= set(ends)
    assert ends[-1] == 60


def test_a_trace_holds_the_window_and_is_handed_to_the_tracker(watched: RunResult):
    folder = watched.folder.path / "profile" / "step-000000007"
    events = [e for e in read_jsonl(watched.folder.events)[0] if e["event"] == "artifact"]
    assert [(e["step"], e["path"]) for e in events] == [(10, "profile/step-000000007")]
    if (folder / "trace.json").exists():  # torch
        trace = json.loads((folder / "trace.json").read_text())
    else:
        (packed,) = folder.rglob("*.trace.json.gz")
        trace = json.loads(gzip.decompress(packed.read_bytes()))
    assert len(trace["traceEvents"]) > 20
    assert any("aten::" in str(e.get("name")) or "Execut" in str(e.get("name")) for e in trace["traceEvents"])


def test_a_run_that_ends_inside_the_window_keeps_its_trace(numpy_runs: list[Any], tmp_path: Path):
    class Stops:
        def step(self, moment: Moment) -> Ask | None:
            return Ask(stop="enough") if moment.step == 10 else None

    file = tree(callbacks=[{"kind": "profiler", "start": 5, "steps": 10}])
    result = run(file, out=tmp_path / "run", callbacks=[Stops()])
    assert (result.status, result.step) == ("stopped", 10)
    assert (result.folder.path / "profile" / "step-000000005" / "trace.json").is_file()
    assert [e["step"] for e in read_jsonl(result.folder.events)[0] if e["event"] == "artifact"] == [10]


def test_a_window_behind_the_last_step_is_refused(numpy_runs: list[Any]):
    with pytest.raises(UserError, match=r"the window ends at step 25, after the run's last step \(20\)"):
        run(tree(callbacks=[{"kind": "profiler", "start": 5, "steps": 20}]))


# --- objects of a program ---


class Watch:
    every = 4
    needs = frozenset({"grad_norms"})

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[str]]] = []
        self.folder = ""

    def attach(self, surroundings: Any) -> None:
        self.folder = surroundings.folder.name

    def step(self, moment: Moment) -> Ask:
        self.seen.append((moment.step, sorted(moment.probe)))
        return Ask(metrics={"mine": float(moment.step)})

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load(self, state: Any) -> None:
        self.seen = [(step, names) for step, names in state["seen"]]


def test_an_object_is_asked_at_its_own_period_and_shown_what_it_needs(numpy_runs: list[Any], tmp_path: Path):
    watch = Watch()
    result = run(tree(), out=tmp_path / "run", callbacks=[watch])
    assert watch.folder == "run"
    assert [step for step, _ in watch.seen] == [4, 5, 8, 10, 12, 15, 16, 20]
    assert [step for step, names in watch.seen if names == ["grad_norms"]] == [4, 8, 12, 16, 20]
    assert records(result)[12]["mine"] == 12


def test_an_objects_state_goes_into_the_checkpoint_and_comes_back(numpy_runs: list[Any], tmp_path: Path):
    run(tree(), out=tmp_path / "run", callbacks=[Watch()])
    again = Watch()
    resume(tmp_path / "run", more=8, callbacks=[again])
    assert [step for step, _ in again.seen] == [4, 5, 8, 10, 12, 15, 16, 20, 24, 25, 28]
    quiet = resume(tmp_path / "run", more=4)
    warnings = [e["message"] for e in read_jsonl(quiet.folder.events)[0] if e["event"] == "warning"]
    assert warnings == ["the callback 'Watch', whose state the checkpoint keeps, is no longer in this run"]


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        (Watch(), {"resources": {"workers": 1}}, "Watch: objects of this program work in this process alone.*kind: cu"),
        (Watch, {}, r"Watch is a class; pass an object of it: Watch\(…\)"),
        (3, {}, "int has none of the methods start, step, end"),
    ],
)
def test_an_object_that_can_not_work_is_refused(given: Any, changes: Any, message: str, numpy_runs: list[Any]):
    with pytest.raises(UserError, match=message):
        run(tree(**changes), callbacks=[given])
