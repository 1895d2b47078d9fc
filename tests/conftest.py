"""What all tests share: quiet threads, a place for runs, and the environment that the frameworks want."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before any framework loads: the same variables that a worker gets.
for _name in ("OMP_NUM_THREADS", "NPROC", "PJRT_NPROC"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "agg")
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "ORCHESTRATOR_RUNS", "RAY_ADDRESS", "COLUMNS"):
    os.environ.pop(_name, None)

from backends.environment import environment  # noqa: E402

for _name, _value in {**environment("torch", 1, "cpu"), **environment("jax", 1, "cpu")}.items():
    os.environ.setdefault(_name, _value)

# The same examples every time, however slow the machine.
hypothesis.settings.register_profile("orchestrator", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("orchestrator")

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """The workers of `pytest -n` live long and see every size of array: the allocator of a training is not for them."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        for name in [n for n in os.environ if n.startswith("MALLOC_")]:
            del os.environ[name]  # each worker sets them again, for the processes that it starts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run on several cores (`pytest -n`): a file stays together, and so does all that starts Ray."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif "conformance" not in item.path.parts:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_go() -> Iterator[None]:
    """After each file: JAX keeps every program that it ever compiled, which are gigabytes in a process of all tests."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
