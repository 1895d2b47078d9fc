"""A run that was stopped, killed or damaged goes on as if nothing had happened, and nothing else is called resuming."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import (
    EVERYTHING,
    INVERSE,
    VAE,
    Tree,
    assert_same_bits,
    events,
    last,
    no_pictures,  # noqa: F401 (a fixture)
    records,
    small,
    stopped,
    stopping_at,
)

from backends.errors import UserError
from orchestrator import resume, run
from orchestrator.cli import main
from orchestrator.folder import RunFolder, status

BACKENDS = ("jax", "torch")


# --- the same bits ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tree", "stops"),
    [
        pytest.param(EVERYTHING, (20, 45, 55), id="in a schedule, between stages, in a quasi-Newton stage"),
        pytest.param(VAE, (35,), id="minibatches and noise"),
        pytest.param(INVERSE, (10, 30), id="momentum, a trained constant, L-BFGS"),
    ],
)
def test_a_stopped_and_resumed_run_has_the_bits_of_one_that_was_never_stopped(
    backend: str, tree: Tree, stops: tuple[int, ...], tmp_path: Path
):
    tree = {**tree, "backend": backend}
    whole = run(tree, out=tmp_path / "whole")
    parts = stopped(tree, tmp_path / "parts", *stops)
    assert whole.status == parts.status == "finished"
    assert whole.step == parts.step == sum(s["steps"] for s in tree["stages"])
    assert_same_bits(whole.path, parts.path)


SLOW = """
import os, time

class Slow:
    def step(self, moment):
        time.sleep(float(os.environ.get("SLOW_S", "0")))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(backend: str, tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    slow = {"kind": "custom", "target": f"{tmp_path}/slow.py:Slow"}
    tree = {**EVERYTHING, "backend": backend, "callbacks": [*EVERYTHING["callbacks"], slow]}
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(tree))
    whole, out = run(tree, out=tmp_path / "whole"), tmp_path / "killed"
    moment = random.Random(backend).uniform(0.0, 0.6)
    kill_while_it_trains([str(file), "--out", str(out)], out, after=5, wait_s=moment)
    assert status(RunFolder(out)) == "killed"
    result = resume(out)
    assert result.status == "finished"
    assert [step for step, _ in records(out)] == sorted({step for step, _ in records(out)}), "each step once"
    assert_same_bits(whole.path, out)


def kill_while_it_trains(arguments: list[str], out: Path, *, after: int, wait_s: float) -> None:
    """kill -9 a run some time after it has recorded a step above `after`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run", *arguments, "-q"], env={**os.environ, "SLOW_S": "0.1"}
    )
    try:
        deadline = time.monotonic() + 120
        while not ((out / "metrics.jsonl").exists() and records(out) and records(out)[-1][0] > after):
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(wait_s)
        assert child.poll() is None, "it ended before it could be killed"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_taken(tmp_path: Path):
    whole = run(EVERYTHING, out=tmp_path / "whole")
    out = tmp_path / "damaged"
    with stopping_at(40):
        run(EVERYTHING, out=out)
    file = out / "checkpoints" / "step-000000040" / "params.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    result = resume(out)
    assert any("step-000000040" in w and "is damaged" in w for w in result.warnings)
    assert_same_bits(whole.path, out)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_and_records_each_step_once(tmp_path: Path):
    first = run(small(), out=tmp_path / "first")
    tree, out = small(start_from=str(first.path)), tmp_path / "second"
    whole = run(tree, out=tmp_path / "whole")
    with stopping_at(10):
        run(tree, out=out)
    shutil.rmtree(out / "checkpoints")
    result = resume(out)
    assert result.status == "finished"
    assert_same_bits(whole.path, out)


# --- further steps ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_steps_are_what_a_longer_run_would_have_done(backend: str, tmp_path: Path):
    def of(steps: int) -> Tree:
        tree = {**EVERYTHING, "backend": backend, "evaluate": {"every": 10, "points": 60}}
        return {**tree, "stages": [{"name": "warm", "kind": "adam", "lr": 1e-2, "steps": steps}]}

    long = run(of(50), out=tmp_path / "long")
    short = run(of(30), out=tmp_path / "short")
    more = resume(short.path, more=20)
    assert (more.status, more.step) == ("finished", 50)
    assert_same_bits(long.path, short.path)
    (said,) = events(short.path, "resumed")
    assert said["more"] == 20
    assert said["changes"] == {"stages.0.steps": [30, 50]}


def test_more_steps_leave_the_schedule_where_it_ended(tmp_path: Path):
    tree = small(stages=[{"kind": "adam", "lr": 1e-2, "steps": 20, "schedule": {"kind": "cosine", "final": 0.1}}])
    short = run(tree, out=tmp_path / "run")
    more = resume(short.path, more=10)
    steps, rates = more.history["lr"]
    assert rates[list(steps).index(30)] == pytest.approx(1e-3)
    assert rates[list(steps).index(20)] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * 19 / 20))))


def test_a_finished_run_refuses_to_be_resumed_and_says_what_can_be_done(tmp_path: Path, capsys: Any):
    result = run(small(), out=tmp_path / "run")
    assert exit_code("resume", str(result.path)) == 2
    said = capsys.readouterr().err
    assert "has finished" in said
    assert exit_code("resume", str(result.path), "--more", "10", "-q") == 0
    assert exit_code(*command(said), "--out", str(tmp_path / "new"), "-q") == 0
    assert records(tmp_path / "new")[0][1]["validation/total"] == records(result.path)[-1][1]["validation/total"]


# --- starting from another run's weights ---


@pytest.mark.parametrize("other", BACKENDS)
def test_a_new_run_starts_from_the_weights_of_another(other: str, tmp_path: Path):
    old = run(small(precision="float64"), out=tmp_path / "old")
    new = run(small(precision="float64", backend=other, seed=7), out=tmp_path / "new", start_from=str(old.path))
    ended, began = records(old.path)[-1], records(new.path)[0]
    assert began[0] == 0
    assert began[1]["validation/total"] == pytest.approx(ended[1]["validation/total"], rel=1e-12)
    assert yaml.safe_load((new.path / "experiment.yaml").read_text())["start_from"] == str(
        old.path / "checkpoints" / "step-000000020"
    )


def test_weights_that_do_not_fit_are_refused_before_anything_starts(tmp_path: Path):
    old = run(small(), out=tmp_path / "old")
    wider = small(network={"kind": "mlp", "width": 7, "depth": 2})
    with pytest.raises(UserError, match=r"start_from: .*params/b0 is \(6,\) there and \(7,\) here"):
        run(wider, out=tmp_path / "new", start_from=str(old.path))
    assert not (tmp_path / "new").exists()


# --- what is refused, with a way out that works ---


def command(said: str) -> list[str]:
    """The arguments of the `orchestrator run …` command that a message prints."""
    line = next(line for line in said.splitlines() if "orchestrator run " in line)
    return shlex.split(line[line.index("orchestrator run ") :])[1:]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped at step 10 of 20."""
    out = tmp_path_factory.mktemp("runs") / "halfway"
    with stopping_at(10):
        run(small(precision="float64"), out=out)
    return out


@pytest.fixture
def copy(halfway: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(halfway, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("override", "difference", "weights_fit"),
    [
        ("stages.warm.lr=0.02", "stages.0.lr: 0.01 -> 0.02", True),
        ("seed=3", "seed: 0 -> 3", True),
        ("network.width=9", "network.width: 6 -> 9", False),
        ("weights={kind: relobralo}", "weights.kind: fixed -> relobralo", True),
        ("points.pde.count=40", "points.pde.count: 48 -> 40", True),
    ],
)
def test_another_experiment_is_refused_with_the_difference_and_a_command_that_works(
    copy: Path, here: Path, capsys: Any, override: str, difference: str, weights_fit: bool
):
    before = {p: p.read_bytes() for p in copy.iterdir() if p.is_file()}
    assert exit_code("resume", str(copy), "-s", override) == 2
    said = capsys.readouterr().err
    assert difference in said
    assert {p: p.read_bytes() for p in copy.iterdir() if p.is_file()} == before, "nothing was written"
    advice = command(said)
    assert ("--start-from" in advice) == weights_fit
    assert exit_code(*advice, "-q") == 0
    (new,) = (here / "runs").iterdir()
    path, _, value = override.partition("=")
    assert path.split(".")[-1] in (new / "experiment.yaml").read_text() and value.strip("{}") in (
        new / "experiment.yaml"
    ).read_text().replace("\n  ", " ")


def test_a_mistake_in_an_override_is_a_mistake_first(copy: Path):
    with pytest.raises(UserError, match=r"sed: unknown setting; did you mean 'seed'"):
        resume(copy, ["sed=3"])


def test_an_edited_run_folder_is_refused_with_the_difference_and_a_command_that_works(
    copy: Path, here: Path, capsys: Any
):
    file = copy / "experiment.yaml"
    text = file.read_text()
    file.write_text(text.replace("lr: 0.01", "lr: 0.03"))
    assert exit_code("resume", str(copy)) == 2
    said = capsys.readouterr().err
    assert "stages.0.lr: 0.01 -> 0.03" in said
    assert exit_code(*command(said), "-q") == 0
    file.write_text(text)
    assert resume(copy).status == "finished"


def test_own_code_that_was_edited_in_the_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    tree = small(callbacks=[{"kind": "custom", "target": f"{tmp_path}/slow.py:Slow"}])
    with stopping_at(10):
        run(tree, out=tmp_path / "run")
    with (tmp_path / "run" / "code" / "slow.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(UserError, match=r"code/slow.py: sha256 \w+… -> sha256 \w+…"):
        resume(tmp_path / "run")
    (tmp_path / "slow.py").write_text("raise SystemError('the original is not read any more')")
    (tmp_path / "run" / "code" / "slow.py").write_text(SLOW)
    assert resume(tmp_path / "run").status == "finished"


# --- what may change, and is written down ---


def test_a_run_goes_on_on_the_other_backend_with_its_optimizer_state(copy: Path, tmp_path: Path):
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    stay = resume(copy)
    move = resume(twin, ["backend=torch"])
    assert stay.step == move.step == 20
    ours, theirs = records(copy), records(twin)
    assert [s for s, _ in ours] == [s for s, _ in theirs]
    for (step, a), (_, b) in zip(ours, theirs, strict=True):
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=1e-9), (step, name)
    assert last(twin).meta["backend"] == "torch"
    assert int(last(twin).arrays["optimizer/adam/count"]) == 20
    (said,) = events(twin, "resumed")
    assert said["changes"] == {"backend": ["jax", "torch"]}
    assert any("equal bits are not promised" in w and "backend: jax -> torch" in w for w in move.warnings)
    assert stay.warnings == ()


def test_callbacks_and_checkpoints_may_change_on_resume(copy: Path):
    result = resume(copy, {"callbacks": [{"kind": "early_stopping", "patience": 1}], "checkpoint.best": "error/l2"})
    assert result.status in ("finished", "stopped")
    assert last(copy).loop["best"]["metric"] == "error/l2"
    assert set(last(copy).loop["callbacks"]) == {"early_stopping"}


def test_a_stopped_run_of_early_stopping_can_be_told_to_go_on(tmp_path: Path):
    watch = {"kind": "early_stopping", "metric": "validation/total", "patience": 1, "min_delta": 1e9}
    stages = [{"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 40}]
    first = run(small(callbacks=[watch], stages=stages), out=tmp_path / "run")
    assert (first.status, first.step) == ("stopped", 20)
    assert first.reason == "validation/total has not improved for 1 evaluation"
    again = resume(tmp_path / "run", {"callbacks": []})
    assert (again.status, again.step) == ("finished", 40)


def test_a_running_run_can_not_be_resumed(copy: Path):
    from orchestrator.folder import acquire

    with acquire(RunFolder(copy)), pytest.raises(UserError, match="is running"):
        resume(copy)
