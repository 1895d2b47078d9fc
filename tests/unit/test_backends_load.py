"""Loading a backend by name, and the environment that its process needs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

import backends
from backends.environment import cache_folder, environment
from backends.errors import MissingBackend, UserError


def test_an_unknown_backend_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'torch'"):
        backends.load("pytorch")
    with pytest.raises(UserError, match="did you mean 'jax'"):
        environment("jaxx", 1, "cpu")


@pytest.mark.parametrize(("name", "package"), [("jax", "optax"), ("torch", "torch")])
def test_a_missing_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, name: str, package: str):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else real(wanted))
    with pytest.raises(MissingBackend, match=rf'pip install "orchestrator\[{name}\]"'):
        backends.load(name)


def test_importing_the_ground_floor_loads_no_framework():
    code = (
        "import sys, backends, backends.environment, backends.protocol, backends.testing;"
        "print([m for m in ('jax', 'torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_jax_process_gets_its_threads_precision_and_cache():
    found = environment("jax", 3, "cpu")
    assert found["NPROC"] == found["PJRT_NPROC"] == found["OMP_NUM_THREADS"] == "3"
    assert (found["JAX_PLATFORMS"], found["JAX_ENABLE_X64"]) == ("cpu", "1")
    assert found["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "-1"
    assert environment("jax", 1, "cuda:1")["JAX_PLATFORMS"] == "cuda,cpu"
    assert environment("jax", 1, "cuda", gpus=0.5)["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"


def test_a_torch_process_gets_the_allocator_that_keeps_its_memory():
    found = environment("torch", 1, "cpu")
    assert found["MALLOC_MMAP_MAX_"] == "0" and "TORCHINDUCTOR_CACHE_DIR" in found and "NPROC" not in found


def test_caches_go_where_the_user_wants_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ORCHESTRATOR_CACHE", raising=False)
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "cache" / "orchestrator"
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "own"))
    assert environment("jax", 1, "cpu")["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "own"))
