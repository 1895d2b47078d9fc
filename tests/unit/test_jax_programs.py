"""Compiled functions of the JAX backend are shared, cached on disk, and few."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax

import backends
from backends.errors import UserError
from backends.protocol import Settings
from backends.spec import Clip
from backends.stages import Adam
from backends.testing.setup import ADAM, STAGES, build, table
from backends.testing.tasks import Curves

JAX = backends.load("jax")


def compiled(call: Any) -> int:
    """How many programs XLA compiles or fetches while `call` runs."""
    count = 0

    def heard(event: str, duration: float, **kwargs: Any) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    return count


def test_a_second_backend_of_an_equal_task_compiles_nothing():
    task, feed = Curves(label="shared"), Curves(label="shared").feed(0)
    first = build(JAX, task)
    first.step(first.init(0), 2, table(task, ADAM[0], 2), feed, 0)
    assert first.compilations() == {"step/adam": 1}
    other = Curves(label="shared", constants={"shift": 2.5})
    renamed = [Adam(name="other", steps=77, lr=0.3, b1=0.5, precision="float64")]

    def run() -> None:
        second = build(JAX, other, renamed, seed=9)
        second.step(second.init(1), 5, table(other, renamed[0], 5), other.feed(3), 11)
        assert sum(second.compilations().values()) == 0

    assert compiled(run) == 0


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[4]], ids=lambda s: s.kind)
def test_xla_itself_sees_one_program_per_stage(stage: Any):
    task = Curves(label="one program")
    backend, feed = build(JAX, task, [stage]), task.feed(0)
    feed.every = 3
    state, _ = backend.step(backend.init(0), 1, table(task, stage, 1), feed, 0)

    def run() -> None:
        now, _ = backend.step(state, 10, table(task, stage, 10, pair=2.0), feed, 1)
        now = backend.load(*backend.arrays(now))
        now, _ = backend.step(now, 3, table(task, stage, 3, shift=0.3), feed, 11)
        backend.step(backend.init(4), 1, table(task, stage, 1), feed, 0)

    assert compiled(run) == 0


CACHED = """
import jax, backends
from backends.testing.setup import STAGES, build, table
from backends.testing.tasks import Curves

events = []
jax.monitoring.register_event_listener(lambda event, **kwargs: events.append(event))
module, task, stage = backends.load("jax"), Curves(pass_size=4), STAGES[0]
backend = build(module, task, [stage])
state, _ = backend.step(backend.init(0), 2, table(task, stage, 2), task.feed(0), 0)
backend.evaluate(state, task.held_out(3))
print(sum("cache_hits" in e for e in events), sum("cache_misses" in e for e in events))
"""


def test_a_second_process_takes_its_programs_from_the_disk(tmp_path: Path):
    variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "1"}
    said = []
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", CACHED],
            env={**variables, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        said.append([int(word) for word in out.stdout.split()])
    assert said[0][1] >= 2 and said[1][1] == 0, f"(hits, misses) of two processes: {said}"


def test_a_numpy_number_in_a_float32_formula_is_one_warning():
    class Careless(Curves):
        signature = None  # type: ignore[assignment]

        def per_sample(self, *args: Any) -> dict[str, Any]:
            found = super().per_sample(*args)
            return {**found, "edge": found["edge"] * np.sqrt(2.0)} if "edge" in found else found

    said: list[str] = []
    task, stage = Careless(), Adam(steps=5, precision="float32")
    backend = build(JAX, task, [stage], warn=said.append)
    state, steps = backend.step(backend.init(0), 2, table(task, stage, 2), task.feed(0), 0)
    backend.step(state, 2, table(task, stage, 2), task.feed(0), 2)
    assert steps.ok.all()
    assert len(said) == 1 and "'edge'" in said[0] and "math.sqrt" in said[0]


def test_what_a_task_returns_is_checked_against_its_terms():
    class Wrong(Curves):
        signature = None  # type: ignore[assignment]
        change: dict[str, Any] = {}

        def per_sample(self, *args: Any) -> dict[str, Any]:
            found = super().per_sample(*args)
            return {k: v for k, v in {**found, **self.change}.items() if v is not None} if "edge" in found else found

    for change, message in (
        ({"egde": 0.0}, "did you mean 'edge'"),
        ({"edge": None}, "does not return the term 'edge'"),
        ({"edge": np.float64(1.0)}, "one number for all samples"),
    ):
        task = type("Wrong", (Wrong,), {"change": change})()
        backend = build(JAX, task)
        with pytest.raises(UserError, match=message):
            backend.step(backend.init(0), 1, table(task, ADAM[0], 1), task.feed(0), 0)


def test_a_wrong_table_is_refused_with_its_columns():
    task = Curves()
    backend = build(JAX, task, clip=Clip(norm=1.0))
    with pytest.raises(ValueError, match="clip"):
        backend.step(backend.init(0), 2, np.zeros((2, 3)), task.feed(0), 0)
    with pytest.raises(ValueError, match="at most 10 steps"):
        backend.step(backend.init(0), 11, table(task, ADAM[0], 11, clip=Clip(norm=1.0)), task.feed(0), 0)


def test_many_samples_are_predicted_in_pieces_of_one_shape():
    from backends.jax import engine

    task = Curves(label="pieces")
    backend = build(JAX, task)
    state, t = backend.init(0), np.linspace(-1, 1, 2 * engine.PIECE + 5)
    found = backend.predict(state, ["u"], {"t": t})["u"]
    assert found.shape == t.shape and backend.compilations() == {"predict": 1}
    np.testing.assert_allclose(found[-9:], backend.predict(state, ["u"], {"t": t[-9:]})["u"], rtol=1e-12)


def test_the_backend_follows_the_protocol():
    from backends.protocol import Backend

    backend: Backend[Any] = JAX.build(Curves(), ADAM, Settings())
    assert backend.name == "jax"
