"""What the Ray tests share: one cluster of this machine for all of them, on ports and in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

CPUS = 4
"""Of the cluster, whatever the machine has: they only count places."""


@dataclass(frozen=True)
class Cluster:
    """A head node that was started as `ray start --head` does it."""

    address: str
    jobs: str
    """Address of the job server."""
    environment: dict[str, str]
    """What a client must have set."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A head with token authentication. It is ended by its process ids: `ray stop` would end every Ray here."""
    gcs, dashboard, client, agent = (_free_port() for _ in range(4))
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    here = {
        **os.environ,
        **access,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # a job's `python` is this one
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "PYTHONWARNINGS": "ignore",
    }
    here.pop("RAY_ADDRESS", None)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--num-cpus={CPUS}", f"--temp-dir={folder}", "--object-store-memory=100000000"),
    ]
    log = Path(folder) / "start.log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=here, stdout=output, stderr=output, start_new_session=True)
    jobs = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(jobs, access["RAY_AUTH_TOKEN"], head, log)
        address = f"{socket.gethostbyname(socket.gethostname())}:{gcs}"
        yield Cluster(_address(folder, address), jobs, {**access, "RAY_USAGE_STATS_ENABLED": "0"})
    finally:
        end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _address(folder: str, otherwise: str) -> str:
    """Ray writes down at which of this machine's addresses it listens."""
    written = Path(folder) / "ray_current_cluster"
    return written.read_text().strip() if written.exists() else otherwise


def _wait_for(url: str, token: str, head: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    for _ in range(600):
        assert head.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"the cluster does not answer: {log.read_text()}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process with all that it started."""
    tree = [psutil.Process(process.pid)] if process.poll() is None else []
    tree += [child for parent in tree for child in parent.children(recursive=True)]
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
    for one in tree:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(tree, timeout=10)


@pytest.fixture(scope="module")
def session(cluster: Cluster) -> Iterator[None]:
    """This process, connected to the cluster as a notebook would be."""
    from orchestrator.ray_cluster import environ, forget_token

    with environ(cluster.environment):
        import ray

        forget_token()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
    forget_token()


def free_cpus() -> float:
    """CPUs of the connected cluster that nobody holds, once the dust has settled."""
    import ray

    free = 0.0
    for _ in range(100):
        free = ray.available_resources().get("CPU", 0.0)
        if free == CPUS:
            break
        time.sleep(0.1)
    return free
