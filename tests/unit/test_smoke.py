"""`check --smoke`: every part of a run once, at a tiny scale, each reported by itself, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from backends.protocol import Settings
from backends.randomness import generator
from orchestrator import ConfigError, check, cli
from orchestrator.build import task_of
from orchestrator.config import Experiment
from orchestrator.smoke import Part, _tracker
from orchestrator.smoke_parts import POINTS, ROWS, cut

BURGERS: dict[str, Any] = {
    "name": "burgers",
    "backend": "torch",  # uncompiled here; JAX would compile each part
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 6, "depth": 2},
    "points": {"pde": {"count": 4000, "adapt": {"kind": "rad"}}, "ic": 100, "bc": {"count": 100, "chunk": 50}},
    "stages": [{"name": "warm", "kind": "adam", "steps": 500}, {"kind": "lbfgs", "steps": 1}],
    "tracking": {"enabled": False},
}
VAE: dict[str, Any] = {
    "name": "vae",
    "task": {"kind": "vae"},
    "data": {"kind": "digits"},
    "network": {"kind": "vae", "latent": 2, "width": 8},
    "stages": [{"kind": "adam", "steps": 5}],
}
OWN = """
class Watch:
    def step(self, moment):
        open("left.txt", "w").write("seen")
        print("this must not spoil the report")
        {line}
"""


def states(parts: list[Part]) -> dict[str, str]:
    return {part.part: part.state for part in parts}


@pytest.mark.slow
def test_every_part_of_a_sound_experiment_is_tried_and_nothing_is_left(here: Path):
    (here / "own.py").write_text(OWN.format(line="assert moment.losses.shape[1] == 3"))
    callbacks = [{"kind": "custom", "target": "own.py:Watch"}, {"kind": "early_stopping"}]
    (here / "file.yaml").write_text(yaml.safe_dump({**BURGERS, "callbacks": callbacks}))
    parts = check("file.yaml", smoke=True)
    assert states(parts) == {
        **dict.fromkeys(("build", "steps/warm", "steps/lbfgs", "evaluation", "points"), "ok"),
        **dict.fromkeys(("figure", "checkpoint", "callbacks"), "ok"),
        "tracker": "skipped",
    }, [p.message for p in parts]
    assert {p.name for p in here.iterdir()} == {"file.yaml", "own.py"}


def test_a_part_that_fails_is_named_with_its_message_and_the_others_go_on(here: Path, capsys: Any):
    (here / "own.py").write_text(OWN.format(line="raise KeyError('gone')"))
    tree = {**BURGERS, "callbacks": [{"kind": "custom", "target": "own.py:Watch"}], "points": {"pde": 30}}
    (here / "file.yaml").write_text(yaml.safe_dump({**tree, "stages": BURGERS["stages"][:1], "constraints": "hard"}))
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "--smoke", "file.yaml", "--json"])
    said = capsys.readouterr()
    assert left.value.code == 3, said
    found = json.loads(said.out)
    assert not found["ok"]
    parts = {p["part"]: p for p in found["smoke"]["file.yaml"]}
    assert parts["callbacks"]["state"] == "failed"
    assert "own.py:6: Watch.step: raised KeyError: 'gone'" in parts["callbacks"]["message"]
    assert [p["state"] for p in parts.values()].count("ok") == 5, parts
    assert "points" not in parts, "no set of this file adapts"


def test_a_mistake_in_the_file_is_two_and_nothing_is_tried(here: Path, capsys: Any):
    (here / "bad.yaml").write_text(yaml.safe_dump({**BURGERS, "sed": 3}))
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        check("bad.yaml", smoke=True)
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "--smoke", "bad.yaml", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (left.value.code, found["ok"], found["smoke"]) == (2, False, {})


def test_a_process_that_dies_is_a_failed_part(here: Path):
    (here / "own.py").write_text(OWN.format(line="import os; os._exit(9)"))
    tree = {**BURGERS, "callbacks": [{"kind": "custom", "target": "own.py:Watch"}], "stages": BURGERS["stages"][:1]}
    parts = check(tree, smoke=True)
    assert parts[-2] == Part("process", "failed", "its process ended with code 9")
    assert states(parts)["checkpoint"] == "ok"


@pytest.mark.parametrize("tree", [BURGERS, VAE], ids=lambda t: t["name"])
def test_a_cut_task_has_the_same_terms_and_network_and_few_samples(tree: dict[str, Any]):
    task = task_of(Experiment.model_validate(tree), Path())
    small = cut(task)
    assert small.terms == task.terms
    assert {k: v.shape for k, v in small.init(generator(0)).items()} == {
        k: v.shape for k, v in task.init(generator(0)).items()
    }
    draw = small.feed(0).take(0, Settings().capacity)
    rows = [np.shape(v)[0] for columns in draw.fixed().values() for v in columns.values()]
    assert max(rows) <= max(POINTS, ROWS)


@pytest.mark.slow
def test_the_tracker_sends_a_run_to_a_fresh_store_and_reads_it_back(here: Path):
    parts = check({**BURGERS, "backend": "jax", "tracking": {}}, smoke=True)
    assert set(states(parts).values()) == {"ok"}, parts
    assert parts[-1].part == "tracker"
    assert list(here.iterdir()) == []


def test_a_store_that_refuses_is_a_failed_part(here: Path, monkeypatch: pytest.MonkeyPatch):
    from orchestrator.folder import create
    from orchestrator.uploader import report

    monkeypatch.setattr("orchestrator.uploader.sync", lambda folder, timeout: report(folder.path, "it is read-only"))
    part = _tracker(create(here, "tracked"), here)
    assert (part.part, part.state, part.message) == ("tracker", "failed", "it is read-only")
