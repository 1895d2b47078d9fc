"""Ray Train as a host: the numbers of one process, two workers that train as one, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import CPUS, Cluster, end, free_cpus
from tiny import EVERYTHING, VAE, Tree, assert_same_bits, no_pictures, records, small  # noqa: F401 (a fixture)

from backends.errors import OwnCodeFailed, RunFailed, StorageFailed, UserError
from orchestrator import resume, run
from orchestrator.folder import RunFolder, read_json, read_jsonl, status
from orchestrator.ray_worker import sees_storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BACKENDS = ("jax", "torch")

OWN = """
import os, pathlib, signal, sys
import orchestrator.figures

orchestrator.figures.draw_all = lambda *args: []  # drawing takes longer than training such runs


class Spy:
    def __init__(self, step=0, what="", rank=0):
        self.at, self.what, self.rank = step, what, rank

    def step(self, moment):
        if moment.step != self.at or self.rank != my_rank():
            return
        folder = pathlib.Path(__file__).parents[1]
        if self.what == "raise":
            raise ValueError("a mistake of mine")
        if self.what == "print":
            print("hello from my code")
            (folder / "modules.txt").write_text(" ".join(sys.modules))
        if self.what == "die" and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "stop":
            (folder / "STOP").write_text("killed")


def my_rank():
    import ray.train
    try:
        return ray.train.get_context().get_world_rank()
    except RuntimeError:  # in process
        return 0
"""
DRIVER = """
import pathlib, sys
from orchestrator.cli import main
try:
    main(sys.argv[2:])
finally:
    pathlib.Path(sys.argv[1]).write_text(" ".join(sys.modules))
"""

ONE_SET: Tree = {"precision": "float64", "checkpoint": {"every": 1000, "best": None}, "seed": 4}
"""Seed 0 makes a line search start so far out that it multiplies rounding by 1e11, on one worker as on two."""


def on_ray(tree: Tree, backend: str, workers: int = 1, **changes: Any) -> Tree:
    quick = {"compile": "never"} if backend == "torch" else {}
    return {**tree, "backend": backend, "resources": {"workers": workers}, **quick, **changes}


def spying(folder: Path, step: int = 0, what: str = "", rank: int = 0) -> list[Tree]:
    """The callback above, in a file of the user's."""
    (folder / "own.py").write_text(OWN)
    return [{"kind": "custom", "target": str(folder / "own.py:Spy"), "step": step, "what": what, "rank": rank}]


def assert_same_losses(one: Path, other: Path, tolerance: float) -> None:
    """Everything that two runs have recorded agrees to that relative difference."""
    a, b = dict(records(one)), dict(records(other))
    assert a.keys() == b.keys()
    for step, metrics in a.items():
        assert metrics == pytest.approx(b[step], rel=tolerance, abs=1e-300), step


# --- numbers ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ray_worker_computes_the_same_bits_as_this_process_and_imports_only_its_backend(
    backend: str, session: None, here: Path
) -> None:
    callbacks = [*EVERYTHING["callbacks"], *spying(here, 30, "print")]
    tree = on_ray({**EVERYTHING, "checkpoint": {"every": 1000}, "callbacks": callbacks}, backend)
    result = run(tree, out=here / "ray")
    run(tree, {"resources.workers": 0}, out=here / "here")
    assert (result.status, result.step) == ("finished", 65)
    assert_same_bits(here / "ray", here / "here")
    assert not (here / "ray" / "ray").exists(), "nothing of Ray's stays in the run folder"
    assert "print: hello from my code" in RunFolder(here / "ray").log.read_text()
    modules = set((here / "ray" / "modules.txt").read_text().split())
    assert modules & {"jax", "torch", "mlflow"} == {backend}
    assert free_cpus() == CPUS


def test_two_workers_of_torch_train_as_one_and_a_stopped_run_goes_on_bit_by_bit(session: None, here: Path) -> None:
    """Adam, self-scaled Broyden, resampled points, adaptive weights; rank 0 alone asks to stop, and both obey."""
    tree = on_ray({**EVERYTHING, **ONE_SET}, "torch", 2)
    run(tree, {"resources.workers": 0}, out=here / "one")
    run({**tree, "callbacks": EVERYTHING["callbacks"] + spying(here)}, out=here / "two")
    assert_same_losses(here / "one", here / "two", 1e-9)
    stop_and_resume(tree, here)
    assert records(here / "stopped") == records(here / "two")


def test_two_workers_of_jax_train_as_one_across_a_stop_and_resume(session: None, here: Path) -> None:
    tree = on_ray({**EVERYTHING, **ONE_SET}, "jax", 2)
    run(tree, {"resources.workers": 0}, out=here / "one")
    stop_and_resume(tree, here)
    assert_same_losses(here / "one", here / "stopped", 1e-9)


def stop_and_resume(tree: Tree, here: Path) -> None:
    asking = {**tree, "callbacks": EVERYTHING["callbacks"] + spying(here, 30, "stop")}
    stopped = run(asking, out=here / "stopped")
    assert (stopped.status, stopped.step) == ("killed", 30)
    resumed = resume(here / "stopped")
    assert (resumed.status, resumed.step) == ("finished", 65)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_workers_share_the_minibatches_of_a_vae(backend: str, session: None, here: Path) -> None:
    tree = on_ray({**VAE, **ONE_SET, "callbacks": spying(here)}, backend, 2)
    run(tree, {"resources.workers": 0}, out=here / "one")
    run(tree, out=here / "two")
    assert_same_losses(here / "one", here / "two", 1e-9)


def test_points_that_do_not_divide_are_refused_before_anything_starts(here: Path) -> None:
    tree = on_ray(small(points={"pde": 49, "ic": 12, "bc": 12}), "jax", 2)
    with pytest.raises(UserError, match=r"49.*2 workers|2 workers.*49"):
        run(tree, out=here / "run")
    with pytest.raises(UserError, match=r"41.*2 workers|2 workers.*41"):
        run(on_ray({**VAE, "data": {"kind": "digits", "batch": 41}}, "torch", 2), out=here / "run")
    assert not (here / "run").exists()


# --- what goes wrong ---


def test_own_code_that_raises_in_a_worker_is_named_with_its_line(session: None, here: Path) -> None:
    tree = on_ray(small(), "torch", callbacks=spying(here, 10, "raise"))
    with pytest.raises(OwnCodeFailed, match=r"own.py:\d+.*ValueError: a mistake of mine"):
        run(tree, out=here / "run")
    result = read_json(RunFolder(here / "run").result)
    assert result["status"] == "failed"
    assert "own.py" in result["reason"]
    assert free_cpus() == CPUS


@pytest.mark.parametrize(("backend", "victim"), [("torch", 1), ("jax", 0)])
def test_a_killed_worker_is_named_and_the_run_goes_on_from_its_checkpoint(
    backend: str, victim: int, session: None, here: Path
) -> None:
    tree = on_ray(small(checkpoint={"every": 10}), backend, 2, callbacks=spying(here, 15, "die", victim))
    with pytest.raises(RunFailed, match=rf"worker {victim} died: process \d+ on .*killed"):
        run(tree, out=here / "run")
    assert read_json(RunFolder(here / "run").result)["status"] == "failed"
    assert free_cpus() == CPUS
    if backend == "jax":
        return  # the start of a second group of workers is the same for both
    resumed = resume(here / "run")
    assert (resumed.status, resumed.step) == ("finished", 20)
    assert [step for step, _ in records(here / "run")] == [0, 5, 10, 15, 20]


def test_more_cpus_than_there_are_are_refused_at_once(session: None, here: Path) -> None:
    many = {"pde": 100, "ic": 100, "bc": 100}
    with pytest.raises(UserError, match=f"100 workers with 1 CPU each need 100 CPUs, the cluster has {CPUS}"):
        run(on_ray(small(points=many), "jax", 100), out=here / "run")
    file = experiment(here, on_ray(small(points=many), "jax", 1))
    refused = subprocess.run(
        [*ORCHESTRATOR, "run", str(file), "-s", "resources.cpus_per_worker=5000"], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert re.search(r"1 worker with 5000 CPUs each need 5000 CPUs, this machine has \d+;", refused.stderr)
    assert not (here / "runs").exists()


def test_a_worker_that_does_not_see_the_run_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=rf"worker 1 on .* does not see the run folder {tmp_path}: set `storage`"):
        sees_storage(tmp_path, 1)
    (tmp_path / "run.json").write_text("{}")
    sees_storage(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / ".seen-by-0").mkdir()
    with pytest.raises(StorageFailed, match="can't write to the run folder"):
        sees_storage(tmp_path, 0)


# --- the command line ---

ORCHESTRATOR = (sys.executable, "-m", "orchestrator")
ENDLESS: Tree = {
    "stages": [{"name": "warm", "kind": "adam", "lr": 1e-3, "steps": 10_000_000}],
    "evaluate": {"every": 1000, "points": 60},
    "checkpoint": {"every": 100_000},
    "tracking": {"enabled": False, "every": 1000},
}


def experiment(folder: Path, tree: Tree) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts a command in a process group of its own, as a shell does it; nothing of it outlives the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*command: str, **environment: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}, start_new_session=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        end(process)
        process.communicate()


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.1)
    pytest.fail("waited in vain")


def steps_done(folder: Path) -> int:
    found = read_jsonl(folder / "metrics.jsonl")[0]
    return int(found[-1]["step"]) if found else 0


def test_ctrl_c_saves_a_checkpoint_ends_every_process_and_prints_how_to_go_on(here: Path, started: Start) -> None:
    """A terminal sends SIGINT to the whole process group; then `resume`, and `stop` from another process."""
    file, out = experiment(here, on_ray(small(**ENDLESS), "jax")), here / "run"
    process = started(sys.executable, "-c", DRIVER, str(here / "modules.txt"), "run", str(file), "--out", str(out))
    wait_until(lambda: steps_done(out) > 0, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in p.name() for p in family)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert noise(stderr, "run") == []
    assert f"go on with: orchestrator resume {out}" in stderr
    assert status(RunFolder(out)) == "killed"
    assert steps_done(out) <= saved_step(out)
    assert not psutil.wait_procs(family, timeout=10)[1], "every process of Ray is gone"
    driver = set((here / "modules.txt").read_text().split())
    assert "ray" in driver
    assert not driver & {"torch", "jax", "mlflow"}

    before = saved_step(out)
    process = started(*ORCHESTRATOR, "resume", str(out), "--json")
    wait_until(lambda: steps_done(out) > before, process)
    assert subprocess.run([*ORCHESTRATOR, "stop", str(out)], capture_output=True).returncode == 0
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, noise(stderr, "run")) == (130, [])
    result = json.loads(stdout)
    assert result["status"] == "killed"
    assert result["step"] == saved_step(out) > before


def test_sigterm_preempts_and_a_second_ctrl_c_stops_at_once(
    cluster: Cluster, session: None, here: Path, started: Start
) -> None:
    file, out = experiment(here, on_ray(small(**ENDLESS, callbacks=spying(here)), "torch")), here / "run"
    access = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    process = started(*ORCHESTRATOR, "run", str(file), "--out", str(out), "--json", **access)
    wait_until(lambda: steps_done(out) > 0, process)
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, noise(stderr, "run")) == (143, [])
    assert json.loads(stdout)["status"] == status(RunFolder(out)) == "preempted"

    before = saved_step(out)
    process = started(*ORCHESTRATOR, "resume", str(out), "--json", **access)
    wait_until(lambda: steps_done(out) > before, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert status(RunFolder(out)) == "killed"
    assert free_cpus() == CPUS


def saved_step(folder: Path) -> int:
    return int(str(read_json(folder / "result.json")["checkpoint"]).rpartition("-")[2])


def noise(stderr: str, name: str) -> list[str]:
    """Lines that are neither progress, nor the summary, nor how to go on."""
    said = (r"\d\d:\d\d:\d\d " + name, f"{name}: ", "stopping after this dispatch", "run folder: ", "figure: ")
    table = (r"[┏┃┡│└ ]*metric +", r"[┏┃┡│└━─ ]+$", r"[│ ]*[a-z0-9_/]+ +[│ ]*[-+.e\d]+[│ ]*$")
    known = "|".join((*said, *table, "stopped: ", "go on with: "))
    return [line for line in stderr.splitlines() if line.strip() and not re.match(known, line)]
