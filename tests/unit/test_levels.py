"""Stages of different widths: the loss does not jump, both backends agree, a resumed run repeats the bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from backends import checkpoint
from backends.errors import UserError
from backends.testing.setup import same_bits
from orchestrator import Ask, Experiment, export, resume, run
from orchestrator.assemble import assemble
from orchestrator.knobs import Knobs, initial
from orchestrator.runs import checked

TREE: dict[str, Any] = {
    "name": "levels",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 9, "depth": 2},
    "points": {"pde": 24, "bc": 8},
    "precision": "float64",
    "stages": [
        {"name": "coarse", "kind": "adam", "lr": 5e-3, "steps": 20, "width": 4},
        {"name": "fine", "kind": "adam", "lr": 5e-3, "steps": 10, "moments": "kept"},
        {"name": "down", "kind": "lbfgs", "steps": 4, "width": 5},
    ],
    "evaluate": {"every": 20, "points": 20},
    "checkpoint": {"every": 5, "keep": 9},
    "resources": {"workers": 0},
    "tracking": {"enabled": False},
}


def made(backend: str, **changes: Any) -> Any:
    pytest.importorskip(backend)
    tree = {**TREE, "backend": backend, "compile": "never" if backend == "torch" else "auto", **changes}
    return assemble(Experiment.model_validate(tree), Path())


def walked(made: Any, *, until: int = 3) -> tuple[np.ndarray, list[Any], Any]:
    """(losses of all steps, the state at every end of a stage, the last state)."""
    task, losses, ends = made.task, [], []
    knobs, feed = Knobs(initial(task, {"pde": 1.0, "bc": 1.0}), task=task), task.feed(0)
    state, step = made.backend.init(0), 0
    for number, stage in enumerate(made.stages[:until]):
        if number:
            state = made.backend.enter(state, number)
        table = knobs.table(stage, step, 0, stage.steps)
        state, steps = made.backend.step(state, stage.steps, table, feed, step)
        losses.append(steps.losses.copy())
        ends.append(made.backend.arrays(state))
        step += stage.steps
    return np.concatenate(losses), ends, state


@pytest.fixture(scope="module")
def walks() -> dict[str, Any]:
    return {name: walked(made(name), until=2) for name in ("jax", "torch")}


def test_both_backends_take_the_same_steps_through_all_levels(walks: dict[str, Any]):
    (jax, ends, _), (torch, others, _) = walks["jax"], walks["torch"]
    np.testing.assert_allclose(jax, torch, rtol=1e-9)
    assert [meta["width"] for _, meta in ends] == [4, 9]
    for (one, _), (other, _) in zip(ends, others, strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_function_is_the_same_before_and_after_a_switch():
    it = made("torch")
    *_, state = walked(it, until=1)
    columns = {c: np.random.default_rng(0).uniform(-1, 1, 40) for c in ("x", "y")}
    before = it.backend.predict(state, ("u", "u_xx"), columns)
    wide = it.backend.enter(state, 1)
    after = it.backend.predict(wide, ("u", "u_xx"), columns)
    for key in before:
        np.testing.assert_allclose(after[key], before[key], rtol=0, atol=1e-12)
    narrow = it.backend.predict(it.backend.enter(wide, 0), ("u",), columns)
    np.testing.assert_allclose(narrow["u"], before["u"], rtol=0, atol=1e-12, err_msg="restricting undoes it")


def test_a_switch_keeps_the_moments_of_the_same_optimizer_and_only_of_it():
    it = made("torch")
    *_, state = walked(it, until=1)
    old, _ = it.backend.arrays(state)
    new, _ = it.backend.arrays(it.backend.enter(state, 1))
    assert new["optimizer/adam/count"] == old["optimizer/adam/count"] == 20
    np.testing.assert_array_equal(new["optimizer/adam/nu/w1"][:4, :4], old["optimizer/adam/nu/w1"])
    np.testing.assert_allclose(new["optimizer/adam/nu/w2"][4:], old["optimizer/adam/nu/w2"].mean(0) + np.zeros((5, 1)))
    assert (new["optimizer/adam/mu/w2"][4:] == 0).all()
    *_, late = walked(made("torch"), until=2)
    assert not any(k.startswith("optimizer/adam") for k in it.backend.arrays(it.backend.enter(late, 2))[0])


def test_an_old_weight_steps_as_if_there_had_been_no_switch():
    it = made("torch")
    *_, state = walked(it, until=1)
    arrays, meta = it.backend.arrays(state)
    knobs, feed = Knobs(initial(it.task, {"pde": 1.0, "bc": 1.0}), task=it.task), it.task.feed(0)
    stepped = []
    for wide in (False, True):
        begun = it.backend.load(arrays, meta)
        begun = it.backend.enter(begun, 1) if wide else begun
        after, _ = it.backend.step(begun, 1, knobs.table(it.stages[wide], 20, 0, 1), feed, 20)
        stepped.append(it.backend.parameters(after))
    for name, value in stepped[0].items():
        np.testing.assert_allclose(stepped[1][name][tuple(map(slice, value.shape))], value, rtol=0, atol=1e-13)


def test_the_loss_does_not_jump_at_a_switch(walks: dict[str, Any]):
    total = walks["jax"][0].sum(1)
    assert total[20] / total[19] < 1.05, "18.8 where new units are random"


def test_a_checkpoint_opens_on_the_other_backend_at_its_own_width(walks: dict[str, Any]):
    columns = {"x": np.linspace(-1, 1, 5), "y": np.linspace(-0.5, 1, 5)}
    other, here = made("torch"), made("jax")
    for number, (arrays, meta) in enumerate(walks["jax"][1]):
        state = other.backend.load(arrays, meta)
        assert (state.stage, meta["stage"]) == (number, number)
        one = here.backend.predict(here.backend.load(arrays, meta), ("u",), columns)["u"]
        np.testing.assert_allclose(other.backend.predict(state, ("u",), columns)["u"], one, rtol=1e-10)


class Stops:
    """Asks the run to stop in the second stage."""

    every = 5

    def step(self, moment: Any) -> Any:
        return Ask(stop="enough") if moment.step == 25 else None


def test_a_run_stopped_after_a_switch_resumes_with_its_bits_and_predicts_and_exports(tmp_path: Path):
    pytest.importorskip("torch")
    tree = {**TREE, "backend": "torch", "compile": "never"}
    whole = run(tree, out=tmp_path / "whole")
    part = run(tree, out=tmp_path / "part", callbacks=[Stops()])
    assert (part.status, part.step) == ("stopped", 25)
    assert checkpoint.load(Path(part.path, str(part.checkpoint))).meta["width"] == 9
    again = resume(part.path)
    ends = [checkpoint.load(Path(r.path, str(r.checkpoint))) for r in (whole, again)]
    assert [e.meta["width"] for e in ends] == [5, 5]
    same_bits(ends[0].arrays, ends[1].arrays, "resumed")
    at = {"x": [0.1, 0.4], "y": [0.2, -0.3]}
    export(whole, "safetensors", out=tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.safetensors")
    assert safetensors.numpy.load_file(file)["params/w1"].shape == (5, 5)
    np.testing.assert_array_equal(whole.predict(at)["u"], again.predict(at)["u"])


def test_other_networks_keep_their_width():
    tree = {**TREE, "network": {"kind": "vae"}, "task": {"kind": "vae"}, "data": {"kind": "digits"}, "points": {}}
    with pytest.raises(UserError, match="keeps its width"):
        checked({k: v for k, v in tree.items() if k != "points"}, [])
