"""The Ray cluster of a run: the session that is open, the one at RAY_ADDRESS (a job's own), else a small own one.

An own cluster has a token of its own, keeps its files in a temporary folder and ends with the run. It leaves out what
nobody looks at in a cluster that lives for one run: dashboard, autoscaler's monitor, log monitor and workers started
in advance (together 4 CPU-seconds). Its workers inherit their environment, which spares each of them the second start
of Python that a Ray runtime environment costs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock, Timeout

from backends.errors import RunFailed, UserError
from orchestrator.config import Resources

log = logging.getLogger("orchestrator")

_OWN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # the default is 15: behind everything else on a busy laptop
}
"""Ray reads these when a cluster starts."""
_UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")
_OBJECTS_BYTES = 100_000_000
_REACH_S = 10.0
_SCRATCH = "orchestrator-ray-"
_TOKEN = secrets.token_hex(32)
"""One per process: Ray keeps the first that it reads."""


@contextlib.contextmanager
def connected(resources: Resources, variables: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """A connection to a cluster that can place the workers; those of the `variables` that each worker must still get.

    Raises UserError at once where the cluster is too small, RunFailed where RAY_ADDRESS does not answer.
    """
    address = _address()
    if _is_open():
        _enough(_nodes(), resources, "the cluster has")
        yield variables
    elif address:
        with _joined(address):
            _enough(_nodes(), resources, "the cluster has")
            yield variables
    else:
        with _own(variables):
            _enough(_nodes(), resources, "this machine has")
            yield {}


def refuse_at_once(resources: Resources) -> None:
    """Raise UserError where the cluster can't be reached or this machine is too small; Ray is not started for it."""
    address = _address()
    if _is_open():
        return
    if address:
        _reach(address)
    elif not resources.gpus_per_worker:
        _enough([{"CPU": float(cores())}], resources, "this machine has")


def look(resources: Resources) -> tuple[list[dict[str, float]], str, str]:
    """(resources of each node that a run could use, who has them, what is lacking: empty where nothing is).

    A cluster at RAY_ADDRESS is joined for a moment; without one, this machine is looked at and Ray is not started.
    """
    address, nodes, who = _address(), [], "the cluster has"
    try:
        if _is_open():
            nodes = _nodes()
        elif address:
            with _joined(address):
                nodes = _nodes()
        else:
            gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
            nodes, who = [{"CPU": float(cores()), "GPU": float(gpus)}], "this machine has"
        _enough(nodes, resources, who)
    except (UserError, RunFailed) as error:
        return nodes, who, str(error)
    return nodes, who, ""


def _address() -> str | None:
    """HOST:PORT or `auto` of a cluster that runs already."""
    asked = os.environ.get("RAY_ADDRESS")
    return None if asked in (None, "", "local") else asked


def _reach(address: str) -> None:
    """Raise UserError where nobody listens: Ray itself would try for many minutes."""
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address} is not the address of a cluster for its own machines (HOST:PORT, or auto); from "
            "another machine, submit the run: ray job submit --address http://HOST:8265 --working-dir . -- "
            "python -m orchestrator run FILE"
        )
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start one, or unset RAY_ADDRESS to train on "
            "this machine alone"
        ) from error


def _is_open() -> bool:
    """Whether this process has a session of Ray already."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def cores() -> int:
    """CPU cores that this process may use: affinity (a batch system's share), and a container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(affinity, int(quota) // int(period)))
    return affinity


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray
    from ray.exceptions import RayError

    _reach(address)
    try:
        with _own_signals():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=_verbose())
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise RunFailed(f"the Ray cluster at {address} (RAY_ADDRESS) can't be used: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own(variables: Mapping[str, str]) -> Iterator[None]:
    """A cluster of this machine's cores, for the time of the run. Its workers have the `variables`."""
    import ray
    from ray._private import node

    token = {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    with environ({**_OWN, **variables, **token}), scratch() as folder:
        forget_token()
        try:
            with _own_signals(), contextlib.ExitStack() as lean:
                for name in _UNUSED:
                    lean.enter_context(mock.patch.object(node.Node, name, lambda *_, **__: None))
                ray.init(
                    address="local",
                    num_cpus=cores(),
                    object_store_memory=_OBJECTS_BYTES,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=str(folder),
                )
            yield
        finally:
            ray.shutdown()
    forget_token()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for what Ray writes. Folders of processes that could not tidy up are removed first."""
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # short: a socket's path is limited
    for left in base.glob(f"{_SCRATCH}*/LOCK"):
        with contextlib.suppress(Timeout, OSError), FileLock(left, blocking=False):
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=base))
    try:
        with FileLock(folder / "LOCK"):  # the system lets go of it when this process ends, however it ends
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forget_token() -> None:
    """Let Ray forget which token and mode it has read: it keeps them from its import on."""
    from ray import _raylet

    native: Any = _raylet  # compiled, without type information
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM and SIGINT: `ray.init` puts its own in place, which leave at once."""
    ours = threading.current_thread() is threading.main_thread()
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)} if ours else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _verbose() -> bool:
    return any(h.level <= logging.DEBUG for h in log.handlers)


@contextlib.contextmanager
def environ(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of the block."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


# --- room ---


def _nodes() -> list[dict[str, float]]:
    """Resources of each living node; of the largest cluster that an autoscaler may make, where there is one."""
    import ray
    from ray._private.state import state

    largest = state.get_max_resources_from_cluster_config()
    if largest:
        return [{name: float(value) for name, value in largest.items()}]
    return [dict(n["Resources"]) for n in ray.nodes() if n["Alive"]]


def _enough(nodes: Sequence[Mapping[str, float]], resources: Resources, who: str) -> None:
    """Refuse at once what can never be placed, instead of waiting for ever."""
    each = {"CPU": float(resources.cpus_per_worker), "GPU": resources.gpus_per_worker}
    asked = {name: resources.workers * value for name, value in each.items() if value}
    for name, value in asked.items():
        have = sum(n.get(name, 0.0) for n in nodes)
        if value > have:
            raise UserError(
                f"{counted(resources.workers, 'worker')} with {counted(each[name], name)} each need "
                f"{counted(value, name)}, {who} {have:g}; "
                f"lower resources.workers or resources.{name.lower()}s_per_worker"
                + ("" if _address() else ", or name a larger cluster in RAY_ADDRESS"),
                path="resources",
            )
    fitting = sum(int(min(n.get(name, 0.0) // value for name, value in each.items() if value)) for n in nodes)
    if fitting < resources.workers:
        shares = ", ".join(counted(value, name) for name, value in each.items() if value)
        raise UserError(
            f"{resources.workers} workers with {shares} each do not fit: a worker lives on one node, and {who} "
            f"room for {fitting}; lower resources.cpus_per_worker or resources.workers",
            path="resources",
        )


def counted(number: float, what: str) -> str:
    """`1 CPU`, `2 CPUs`."""
    return f"{number:g} {what}{'s' * (number != 1)}"


def free() -> Mapping[str, float]:
    """What is free in the cluster at this moment."""
    import ray

    found: Any = ray.available_resources()
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
