"""A run from its first line to its last: signals, stop requests, states, results, and what Python gets back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import (
    EVERYTHING,
    Tree,
    assert_same_bits,
    events,
    last,
    no_pictures,  # noqa: F401 (a fixture)
    records,
    small,
)

from backends.errors import UserError
from orchestrator import Experiment, find, resume, run
from orchestrator.cli import main
from orchestrator.folder import RunFolder, list_runs, owner, status

OWN = """
import os, signal
from orchestrator import Ask

class Watch:
    '''Does what the environment says when a step is reached: signals by name, a stop of another process.'''

    def __init__(self, limit=0.0):
        self.seen = 0

    def step(self, moment):
        self.seen += 1
        for word in os.environ.get(f"AT_{moment.step}", "").split():
            if word == "STOP":
                from orchestrator.cli import main
                try:
                    main(["stop", os.environ["RUN"]])
                except SystemExit as left:
                    assert left.code == 0
            else:
                os.kill(os.getpid(), getattr(signal, word))
        return Ask(metrics={"mine/seen": self.seen})

    def state(self):
        return {"seen": self.seen}

    def load(self, state):
        self.seen = state["seen"]
"""


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment whose callback sends signals."""
    (tmp_path / "own.py").write_text(OWN)
    callbacks = [*EVERYTHING["callbacks"], {"kind": "custom", "target": "own.py:Watch", "limit": 2.5}]
    (tmp_path / "file.yaml").write_text(yaml.safe_dump({**EVERYTHING, "callbacks": callbacks}))
    return tmp_path / "file.yaml"


# --- signals ---


def test_every_way_to_stop_a_run_leaves_a_checkpoint_a_status_and_the_same_bits(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    whole, out = run(file, out=tmp_path / "whole"), tmp_path / "stopped"
    monkeypatch.setenv("RUN", str(out))
    monkeypatch.setenv("AT_15", "SIGINT")
    monkeypatch.setenv("AT_30", "SIGTERM")
    monkeypatch.setenv("AT_55", "STOP")
    steps = [
        (("run", str(file), "--out", str(out)), 130, "killed", 15),
        (("resume", str(out)), 143, "preempted", 30),
        (("resume", str(out)), 130, "killed", 55),
    ]
    for arguments, code, word, step in steps:
        assert exit_code(*arguments) == code
        said = capfd.readouterr()
        assert said.out == ""
        assert f"go on with: orchestrator resume {out}" in said.err
        assert ("stopping after this dispatch; a checkpoint will be saved" in said.err) == (step == 15)
        result = json.loads((out / "result.json").read_text())
        assert (result["status"], result["step"]) == (word, step)
        assert result["checkpoint"] == f"checkpoints/step-{step:09d}"
        assert status(RunFolder(out)) == word
        assert owner(RunFolder(out)) is None
        final = [e for e in events(out, "status") if e.get("final")][-1]
        assert (final["status"], final["message"]) == (word, "asked to stop")
    assert exit_code("resume", str(out), "-q") == 0
    assert_same_bits(whole.path, out)
    assert capfd.readouterr().out == ""


def test_a_second_interrupt_ends_the_run_at_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    monkeypatch.setenv("AT_25", "SIGINT SIGINT")
    out = tmp_path / "run"
    assert exit_code("run", str(file), "--out", str(out), "-q") == 130
    result = json.loads((out / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("killed", "interrupted")
    assert result["checkpoint"] == "checkpoints/step-000000020", "the last one before the interrupts"
    monkeypatch.delenv("AT_25")
    assert resume(out).status == "finished"


def test_a_process_of_its_own_ends_with_the_code_of_its_signal(file: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", str(file), "--out", str(tmp_path / "run"), "--json"],
        env={**os.environ, "AT_10": "SIGTERM"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["step"]) == ("preempted", 10)
    assert result["folder"] == str(tmp_path / "run")
    assert (tmp_path / "run" / result["checkpoint"]).is_dir()
    assert "orchestrator" not in done.stderr.replace("orchestrator resume", ""), done.stderr


def test_stop_has_nothing_to_stop_in_a_run_that_has_ended(tmp_path: Path, capsys: Any):
    result = run(small(), out=tmp_path / "run")
    assert exit_code("stop", str(result.path)) == 2
    assert "is finished; there is nothing to stop" in capsys.readouterr().err
    assert not (result.path / "STOP").exists()


# --- the user's own callback ---


def test_a_callback_of_ones_own_asks_remembers_and_is_heard(file: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("AT_30", "SIGTERM")
    out = tmp_path / "run"
    assert exit_code("run", str(file), "--out", str(out), "-q") == 143
    assert last(out).loop["callbacks"]["own.py:Watch"] == {"seen": 6}
    monkeypatch.delenv("AT_30")
    seen = resume(out).history["mine/seen"]
    assert seen[1].tolist() == list(range(1, len(seen[1]) + 1))
    assert (out / "code" / "own.py").read_text() == OWN
    assert "code/own.py:Watch" in (out / "experiment.yaml").read_text()


# --- what is left, and what Python gets ---


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One finished run."""
    return run(small(name="whole", seed=3), out=tmp_path_factory.mktemp("runs") / "whole-12345678")


def test_a_run_folder_holds_what_the_design_says(result: Any):
    assert {p.name for p in result.path.iterdir()} == {
        "experiment.yaml",
        "original.yaml",
        "resolved.json",
        "provenance.json",
        "run.json",
        "metrics.jsonl",
        "events.jsonl",
        "log.txt",
        "checkpoints",
        "result.json",
    }, "no LOCK, no STOP, nothing unasked"
    checkpoint = result.path / "checkpoints" / "step-000000020"
    assert {p.name for p in checkpoint.iterdir()} == {
        *(f"{name}.safetensors" for name in ("params", "optimizer", "aux", "constants", "points")),
        "loop.json",
        "meta.json",
    }
    meta = last(result.path).meta
    assert meta["device"] == "cpu"
    assert meta["world"] == 1
    assert meta["seed"] == 3
    assert meta["versions"]["jax"]
    assert set(result.metrics) >= {"loss", "loss/pde", "validation/total", "error/l2", "lr", "time/steps_per_s"}


def test_the_resolved_file_runs_again_where_it_lies_to_the_same_bits(result: Any, tmp_path: Path):
    tree = yaml.safe_load((result.path / "experiment.yaml").read_text())
    assert tree["device"] == "cpu", "`auto` became what it was"
    again = run(result.path / "experiment.yaml", out=tmp_path / "again")
    assert_same_bits(result.path, again.path)


def test_a_result_is_data(result: Any):
    assert json.loads((result.path / "result.json").read_text()) == result.as_dict()
    assert {"run_id", "folder", "status", "step", "metrics", "checkpoint", "train_s"} <= result.as_dict().keys()
    steps, values = result.history["validation/total"]
    assert steps.tolist() == [0, 10, 20]
    assert values[-1] == result.metrics["validation/total"]
    assert "finished at step 20" in repr(result)
    assert "validation/total" in result._repr_html_()


def test_a_result_predicts_fields_and_derivatives_at_any_points(result: Any):
    t, x = np.full(5, 0.25), np.linspace(-0.5, 0.5, 5)
    found = result.predict({"t": t, "x": x}, ["u", "u_x"])
    step = 1e-3
    shifted = [result.predict({"t": t, "x": x + s})["u"] for s in (step, -step)]
    np.testing.assert_allclose(found["u_x"], (shifted[0] - shifted[1]) / (2 * step), rtol=5e-2, atol=1e-3)
    with pytest.raises(UserError, match="columns must be of one length"):
        result.predict({"t": t, "x": x[:2]})


def test_a_run_is_found_again_from_python(result: Any, monkeypatch: Any):
    assert find("whole", str(result.path.parent)).path == result.path
    (entry,) = list_runs(result.path.parent)
    assert (entry["status"], entry["step"], entry["name"]) == ("finished", 20, "whole")


def test_python_prints_nothing_unless_asked(tmp_path: Path):
    text = f"""
import logging
from orchestrator import Experiment, run
experiment = Experiment.model_validate({small()!r})
first = run(experiment, out={str(tmp_path / "one")!r})
assert first.status == "finished"
second = run(experiment, {{"backend": "torch", "seed": 1}}, out={str(tmp_path / "two")!r})
assert second.status == "finished", "a second run in the same process, on the other backend"
assert logging.getLogger("orchestrator").level == logging.NOTSET
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "MALLOC_", "PJRT_"))}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_experiment_loads_changes_and_runs(tmp_path: Path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(small()))
    experiment = Experiment.load(file, {"stages.warm.steps": 10})
    assert experiment.total_steps == 10
    other = experiment.changed(seed=5)
    assert (experiment.seed, other.seed) == (0, 5)
    one, two = (run(e, out=tmp_path / str(e.seed)) for e in (experiment, other))
    assert one.metrics["validation/total"] != two.metrics["validation/total"]


# --- the order of things in the loop ---


def test_metrics_are_those_of_the_step_they_stand_at(tmp_path: Path):
    tree: Tree = {**EVERYTHING, "tracking": {"enabled": False, "every": 1}}
    found = dict(records(run(tree, out=tmp_path / "run").path))
    assert found[45]["lr"] > 0, "the last step of the first stage has that stage's rate"
    assert "lr" not in found[46], "a quasi-Newton stage has none"
    assert found[1]["lr"] == 0.0
    assert found[2]["lr"] == pytest.approx(1e-2 / 5)
    for step in range(1, 65):
        terms = [found[step][f"weight/{t}"] * found[step][f"loss/{t}"] for t in ("pde", "ic", "bc")]
        assert found[step]["loss"] == pytest.approx(sum(terms), rel=1e-12), "weights are those that the step used"
    assert found[10]["weight/pde"] == 1.0
    assert found[11]["weight/pde"] != 1.0
    assert found[26]["task/nu"] == pytest.approx(0.1 + (0.01 - 0.1) * 25 / 50)
