"""Two torch workers over gloo give the numbers of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch_two_workers

import backends.torch as backend
from backends.environment import environment
from backends.errors import UserError
from backends.protocol import World
from backends.testing.setup import STAGES, build, table
from backends.testing.tasks import Curves, LeastSquares

SCRIPT = Path(__file__).with_name("torch_two_workers.py")


def results(folder: Path, compiled: str) -> list[dict[str, Any]]:
    """What rank 0 of 2, rank 1 of 2 and this process alone found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {**os.environ, **environment("torch", 1, "cpu"), "PYTHONPATH": str(SCRIPT.parents[2])}
    workers = []
    for rank in "01":
        command = [sys.executable, str(SCRIPT), rank, "2", address, str(folder), compiled]
        said = subprocess.PIPE
        workers.append(subprocess.Popen(command, env=variables, stdout=said, stderr=subprocess.STDOUT, text=True))
    alone = (torch_two_workers.run_compiled if compiled == "always" else torch_two_workers.run)(backend, World())
    for worker in workers:
        text, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, text
    return [dict(np.load(folder / f"rank{rank}of2.npz")) for rank in "01"] + [alone]


def same(first: dict[str, Any], second: dict[str, Any], alone: dict[str, Any]) -> None:
    for name, expected in alone.items():
        alike = np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        assert alike, f"the ranks differ in {name}"
        scale = np.max(np.abs(np.nan_to_num(expected)), initial=1e-300)
        np.testing.assert_allclose(first[name], expected, rtol=0, atol=1e-9 * scale, err_msg=name)


def test_two_workers_give_the_numbers_of_one(tmp_path: Path) -> None:
    first, second, alone = results(tmp_path, "never")
    assert first.pop("agreed") == second.pop("agreed") == 11 and alone.pop("agreed") == 10
    same(first, second, alone)
    assert not first["Curves/adam/bad"].any() and not first["Curves/ssbroyden/bad"].any()


@pytest.mark.slow
def test_the_sum_over_workers_is_part_of_the_compiled_step(tmp_path: Path) -> None:
    same(*results(tmp_path, "always"))


def test_samples_that_can_not_be_shared_evenly_are_refused() -> None:
    task = LeastSquares(samples=13)
    made = build(backend, task, world=World(0, 2))
    with pytest.raises(UserError, match="2 workers can't share 13 samples evenly; take a multiple of 2"):
        made.step(made.init(0), 1, table(task, STAGES[0], 1), task.feed(0), 0)


def test_several_workers_without_a_group_are_told() -> None:
    task = Curves(samples=12)
    made = build(backend, task, world=World(0, 2), compile="never")
    with pytest.raises(RuntimeError, match="2 workers are to train together, but this process has joined no group"):
        made.step(made.init(0), 1, table(task, STAGES[0], 1), task.feed(0), 0)
