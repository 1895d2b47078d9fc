"""Two JAX workers over gloo give the numbers of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")

from backends.environment import environment

SCRIPT = Path(__file__).with_name("jax_two_workers.py")


def start(rank: int, size: int, address: str, folder: Path) -> subprocess.Popen[str]:
    root = str(SCRIPT.parents[2])
    variables = {**os.environ, **environment("jax", 1, "cpu"), "PYTHONPATH": root}
    command = [sys.executable, str(SCRIPT), str(rank), str(size), address, str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    workers = [start(0, 2, address, tmp_path), start(1, 2, address, tmp_path), start(0, 1, "", tmp_path)]
    for worker in workers:
        said, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, said
    first, second, alone = (dict(np.load(tmp_path / f"rank{name}.npz")) for name in ("0of2", "1of2", "0of1"))
    assert first.pop("agreed") == second.pop("agreed") == 11 and alone.pop("agreed") == 10
    for name, expected in alone.items():
        same = np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        assert same, f"the ranks differ in {name}"
        scale = np.max(np.abs(np.nan_to_num(expected)), initial=1e-300)
        np.testing.assert_allclose(first[name], expected, rtol=0, atol=1e-9 * scale, err_msg=name)
    assert not first["Curves/adam/bad"].any() and not first["Noisy/adam/bad"].any()
