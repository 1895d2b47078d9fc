"""docs/optimizers.md: every field of the other systems' configurations has a counterpart that can be built and acts."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from backends.gradients import limits
from backends.schedules import Schedule, rates
from backends.stages import Stage
from orchestrator.config import Experiment
from orchestrator.yaml_text import read_text

TEXT = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")
THEIRS = {
    "OptimizerConfig": "name optimizer_type learning_rate weight_decay beta1 beta2 eps momentum nesterov "
    "initial_accumulator_value gradient_clip_norm gradient_clip_value",
    "SchedulerConfig": "name scheduler_type warmup_steps min_lr_ratio cycle_length total_steps decay_rate decay_steps "
    "step_size gamma milestones",
    "OptimizationConfig": "optimizer learning_rate weight_decay momentum eps beta1 beta2 schedule_type decay_steps "
    "transition_steps decay_rate alpha",
}
"""The fields of Artifex's and Opifex's dataclasses."""
TYPES = {
    "optimizer_type": "adam adamw sgd rmsprop adagrad lamb radam nadam",
    "scheduler_type": "constant linear cosine exponential polynomial step multistep cyclic one_cycle",
}
ROWS = re.findall(r"^\| `(\w+Config\.\w+(?: = \"\w+\")?)` \| `([^`]+)` \|", TEXT, flags=re.MULTILINE)
BASE: dict[str, Any] = {"name": "x", "task": {"kind": "poisson"}, "stages": [{"kind": "adam", "steps": 100}]}
PLAIN = ("name", "optimizer_type", "optimizer")


def built(ours: str) -> Experiment:
    return Experiment.model_validate({**BASE, **yaml.safe_load(ours)})


def test_the_table_has_every_field_of_theirs() -> None:
    named = {theirs.partition(" = ")[0] for theirs, _ in ROWS}
    assert named == {f"{config}.{field}" for config, fields in THEIRS.items() for field in fields.split()}
    for field, values in TYPES.items():
        told = {theirs.partition(' = "')[2].rstrip('"') for theirs, _ in ROWS if f".{field} " in theirs}
        assert told == set(values.split())


@pytest.mark.parametrize(("theirs", "ours"), ROWS, ids=[theirs for theirs, _ in ROWS])
def test_every_counterpart_can_be_built_and_changes_a_number(theirs: str, ours: str) -> None:
    experiment = built(ours)
    (stage,) = experiment.stages
    field = theirs.partition(".")[2].partition(" ")[0]
    if ours.startswith("clip"):
        assert limits(experiment.clip, None)
    elif field not in PLAIN and "constant" not in theirs:
        plain = type(stage).model_validate({"steps": 100})
        moved = [name for name in stage.knob_fields if getattr(stage, name) != getattr(plain, name)]
        shape = stage.method != plain.method or getattr(stage, "initial", 0) != getattr(plain, "initial", 0)
        assert moved or shape or not np.array_equal(rates(stage, 0, 100), rates(plain, 0, 100))
    if "_type = " in theirs:
        kind = theirs.partition(' = "')[2].rstrip('"')
        assert kind in (stage.kind, getattr(stage, "schedule").kind)  # noqa: B009


def test_the_tables_of_kinds_and_keys_are_complete() -> None:
    """Each kind, with every key of its own."""
    common = {"kind", "name", "steps", "epochs", "precision", "lr", "schedule", "compute", "width", "moments"}
    for union, shared in ((Stage, common),
                          (Schedule, {"kind", "warmup"})):  # fmt: skip
        for leaf in get_args(get_args(union)[0]):
            kind = leaf.model_fields["kind"].default
            lines = [line for line in TEXT.splitlines() if line.startswith("| ") and f"`{kind}`" in line.split("|")[1]]
            missing = [n for n in leaf.model_fields if n not in shared and not any(f"`{n}`" in line for line in lines)]
            assert lines and not missing, f"{kind}: {missing}"


def test_the_snippets_are_what_they_say() -> None:
    """YAML is a part of an experiment; Python runs as it stands there."""
    for language, text in re.findall(r"```(yaml|python)\n(.*?)```", TEXT, flags=re.DOTALL):
        text = textwrap.dedent(text)
        if language == "yaml":
            Experiment.model_validate({**BASE, **read_text(text, "docs/optimizers.md").tree})
        elif "torch" not in text:
            space: dict[str, Any] = {}
            exec(text, space)
            from backends.ops import NumpyOps

            found = space["process"](NumpyOps(), {"w": np.array([3.0, 4.0])}, {}, 0)
            np.testing.assert_allclose(found["w"], [0.6, 0.8])
        else:
            optax, torch = pytest.importorskip("optax"), pytest.importorskip("torch")
            space = {}
            exec(text, space)
            assert isinstance(space["make"](learning_rate=0.1), optax.GradientTransformation)
            params = [(n, torch.nn.Parameter(torch.zeros(2))) for n in ("net/b0", "net/w0")]
            assert [g["lr"] for g in space["make_torch"](params, learning_rate=0.1).param_groups] == [0.1, 0.1 * 0.1]
