"""What only the torch backend decides: devices, what to compile, how passes and readings are cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import backends.torch as backend
from backends.errors import UserError
from backends.protocol import Settings
from backends.stages import Adam, SsBroyden
from backends.task import Context
from backends.testing.setup import ADAM, all_close, build, table
from backends.testing.tasks import Curves, LeastSquares, Noisy
from backends.torch import device, readings


def test_devices_are_resolved_or_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [backend.resolve_device(n) for n in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(UserError, match="'cuda:2' is not on this machine.*cuda:0 … cuda:1"):
        backend.resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend.resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="torch sees: none"):
        backend.resolve_device("cuda")
    with pytest.raises(UserError, match="knows no device 'tpu'; allowed: auto, cpu, cuda"):
        backend.resolve_device("tpu")


def test_the_number_of_threads_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    for value in ("3", "5", "", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        device.set_threads()
    assert asked == [3]


@pytest.mark.parametrize(
    ("setting", "steps", "kind", "steps_compiled", "probes_compiled"),
    [
        ("auto", 100, Adam, False, False),
        ("auto", 10_000, Adam, True, False),
        ("auto", 1_000_000, Adam, True, True),
        ("auto", 5_000, SsBroyden, True, False),
        ("always", 1, Adam, True, True),
        ("never", 1_000_000, Adam, False, False),
    ],
)
def test_long_stages_are_compiled_short_ones_are_not(
    setting: Any, steps: int, kind: Any, steps_compiled: bool, probes_compiled: bool
) -> None:
    task = Curves()
    made = backend.build(task, (kind(steps=steps),), Settings(compile=setting))
    batches = made._holder.batches(task.feed(0), task.feed(0).take(0, 1), 1, torch.float64)
    program = made._program(0, batches)
    assert (program.compiled, program.probes_compiled) == (steps_compiled, probes_compiled)


def test_large_batches_make_compiling_pay_sooner() -> None:
    stage = Adam(steps=500)
    compiled = []
    for samples in (100, 100_000):
        task = Curves(samples=samples)
        made = backend.build(task, (stage,), Settings())
        batches = made._holder.batches(task.feed(0), task.feed(0).take(0, 1), 1, torch.float32)
        compiled.append(made._program(0, batches).compiled)
    assert compiled == [False, True]


def test_losses_are_fetched_when_they_are_read_and_then_kept() -> None:
    task = LeastSquares()
    made = build(backend, task)
    _, steps = made.step(made.init(0), 3, table(task, ADAM[0], 3), task.feed(0), 0)
    assert "losses" not in vars(steps)
    assert steps.losses.shape == (3, 1) and steps.losses is steps.losses and steps.bad() is None
    assert steps.evaluations.tolist() == [1, 1, 1] and steps.ended == ""


def test_passes_over_picked_rows_add_up() -> None:
    found = []
    for size in (None, 2):
        task = Noisy(pass_size=size)
        made = build(backend, task)
        state, steps = made.step(made.init(0), 4, table(task, ADAM[0], 4), task.feed(0), 0)
        found.append({"losses": steps.losses, **made.parameters(state)})
        assert ("pass/adam/rows" in made.compilations()) is (size is not None)
    all_close(found[0], found[1], "passes", rtol=1e-11)


def test_predictions_of_many_samples_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Curves()
    made = build(backend, task)
    state, columns = made.init(0), {"t": np.linspace(-1, 1, 23)}
    whole = made.predict(state, ["u", "both"], columns), made.candidates(state, "inside", task.batches()["inside"])
    monkeypatch.setattr(readings, "SLAB_NUMBERS", 5 * task.width("inside"))
    parts = made.predict(state, ["u", "both"], columns), made.candidates(state, "inside", task.batches()["inside"])
    for a, b in zip(whole, parts, strict=True):
        all_close(a, b, "in parts", rtol=1e-14)


class Misshapen(LeastSquares):
    """A term of one column too many."""

    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Context) -> dict[str, Any]:
        return {"fit": super().per_sample(ops, params, batch, columns, context)["fit"][:, None]}


class Forgetful(LeastSquares):
    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Context) -> dict[str, Any]:
        return {}


class Inventive(LeastSquares):
    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Context) -> dict[str, Any]:
        context.updates["mood"] = ops.zeros((), columns["x"])
        return dict(super().per_sample(ops, params, batch, columns, context))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Misshapen, r"the term 'fit' has the shape \[12, 1\]; a term gives one value per sample, \[12\]"),
        (Forgetful, "no values of its term 'fit' for the batch 'data'"),
        (Inventive, r"writes 'mood' into context.updates, but its aux\(\) has no such array"),
    ],
)
def test_a_task_that_breaks_its_contract_is_told(kind: Any, message: str) -> None:
    task = kind()
    made = build(backend, task)
    with pytest.raises(UserError, match=message):
        made.step(made.init(0), 1, table(task, ADAM[0], 1), task.feed(0), 0)


class Total(LeastSquares):
    """A term that reduces itself."""

    def reduced(self, batch: str) -> bool:
        return True

    def per_sample(self, ops: Any, params: Any, batch: str, columns: Any, context: Context) -> dict[str, Any]:
        return {"fit": ops.sum(super().per_sample(ops, params, batch, columns, context)["fit"])}


def test_a_term_that_reduces_itself_enters_as_it_is() -> None:
    task = Total(pass_size=4)
    made = build(backend, task)
    state = made.init(0)
    data, p = task.batches()["data"], made.parameters(state)
    r = data["x"] @ p["slope"] + p["offset"] + 1 - data["y"]
    _, steps = made.step(state, 1, table(task, ADAM[0], 1), task.feed(0), 0)
    np.testing.assert_allclose(steps.losses, [[r.sum() ** 2]], rtol=1e-12)
    np.testing.assert_allclose(made.evaluate(made.init(0), task.batches())["fit"], r.sum() ** 2, rtol=1e-12)


SCRIPT = """
import backends, numpy as np
from backends.testing.setup import ADAM, build, table
from backends.testing.tasks import LeastSquares
module, task = backends.load("torch"), LeastSquares()
made = build(module, task, compile="always")
state, steps = made.step(made.init(0), 5, table(task, ADAM[0], 5), task.feed(0), 0)
from torch._dynamo.utils import counters
print(counters["aot_autograd"]["autograd_cache_hit"], counters["aot_autograd"]["autograd_cache_miss"])
print(steps.losses.tobytes().hex())
"""


@pytest.mark.slow
def test_the_next_process_takes_compiled_functions_from_the_folder_on_disk(tmp_path: Path) -> None:
    variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=variables, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    (first, losses), (second, again) = (text.split("\n")[:2] for text in said)
    assert (first, second) == ("0 1", "1 0") and losses == again
