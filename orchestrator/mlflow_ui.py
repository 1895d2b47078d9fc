"""The MLflow UI on this machine only, and links to its pages.

One worker process and no job runner: 0.5 GB and 2 processes instead of 1.8 GB and 15. The server answers to the
names `localhost` and `127.0.0.1` with its port and to no other, so that no web page can reach it by a name of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

from backends.errors import RunFailed, UserError
from orchestrator.mlflow_store import environment, first_contact
from orchestrator.saved_view import KEY
from orchestrator.tracking import Tracking, effective_uri
from orchestrator.tracking_uri import absolute_uri, sqlite_file, uri_problem

FIRST_PORT = 5000
START_S = 180.0
_MODE = {"workflowType": "machine_learning"}
"""Without this MLflow 3 opens its pages for language models."""


class Server:
    """An MLflow server of a local store, between `with` and its end. `url` is where it answers."""

    def __init__(self, uri: str, port: int | None = None, log: Path | None = None) -> None:
        """Raises UserError where `uri` is no local store or `port` is taken."""
        file = sqlite_file(uri)
        if file is None:
            raise UserError(f"{uri} is a server already: open it in a browser")
        self.port = free_port() if port is None else _checked(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._uri, self._file, self._log = uri, file, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start, and wait until the store answers. Raises RunFailed where it never does."""
        with first_contact(self._uri):  # a fresh store is set up by one process alone
            output = self._log.open("ab") if self._log else contextlib.nullcontext(subprocess.DEVNULL)
            with output as target:
                self._process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=target,
                    stderr=subprocess.STDOUT,
                    env={**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                    cwd=self._file.parent,
                    start_new_session=True,
                )
            try:
                self._wait_until_it_answers()
            except BaseException:  # Ctrl-C too: no server stays behind
                self.close()
                raise
        return self

    def command(self) -> list[str]:
        """The server's command line."""
        artifacts = (self._file.parent / "mlartifacts").as_uri()
        hosts = f"localhost:{self.port},127.0.0.1:{self.port}"
        origins = f"http://localhost:{self.port},http://127.0.0.1:{self.port}"
        return [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", self._uri, "--artifacts-destination", artifacts),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--allowed-hosts", hosts, "--cors-allowed-origins", origins),
        ]

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + START_S
        while not answers(self.url):
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                where = f"; its messages are in {self._log}" if self._log else ""
                raise RunFailed(f"the MLflow server for {self._uri} does not start{where}")
            time.sleep(0.2)

    @property
    def pid(self) -> int | None:
        """The server's process, which leads a process group of its own; None where it does not run."""
        return None if self._process is None else self._process.pid

    def wait(self) -> None:
        """Until the server ends by itself."""
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """Stop the server and its worker."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(uri: str | None = None, port: int | None = None) -> None:
    """Serve the UI until Ctrl-C (the verb `ui`). `uri`: default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here."""
    problem = uri_problem(uri) if uri else None
    if problem:
        raise UserError(f"--uri {problem}")
    store = absolute_uri(uri) if uri else effective_uri(Tracking())
    file = sqlite_file(store)
    if file is None:
        print(f"the MLflow server of your runs is {store}", file=sys.stderr)
        print(store)
        return
    if not file.exists():
        raise UserError(
            f"there is no tracking store {file} yet; it appears with the first run here, or name one with --uri"
        )
    print(f"starting the MLflow UI of {file} …", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server stays behind, however we are stopped
    with contextlib.suppress(KeyboardInterrupt), Server(store, port) as server:
        print(home_url(server.url), flush=True)
        print("Ctrl-C stops it", file=sys.stderr)
        server.wait()


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether the server at `url` answers from its database (its `/health` answers without looking there)."""
    probe = f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(probe, timeout=timeout) as response:
            return bool(json.load(response))
    except urllib.error.HTTPError as error:
        return error.code == 404  # the default experiment may have been deleted
    except (OSError, ValueError):
        return False


def free_port(first: int = FIRST_PORT) -> int:
    """The first free port of 127.0.0.1 from `first` on."""
    for port in range(first, first + 200):
        if _free(port):
            return port
    raise UserError(f"no free port between {first} and {first + 199}; name one with --port")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _checked(port: int) -> int:
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be between 1 and 65535 (got {port})")
    if not _free(port):
        raise UserError(f"port {port} is taken; leave --port out for a free one")
    return port


# --- links ---


def home_url(base: str) -> str:
    """The list of experiments."""
    return f"{base}/#/experiments?{urlencode(_MODE)}"


def run_url(base: str, experiment_id: str, run_id: str, tab: str = "") -> str:
    """A run's page; `tab`: "model-metrics" (charts and images), "system-metrics", "artifacts"."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}{'/' + tab if tab else ''}?{urlencode(_MODE)}"


def compare_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """MLflow's page that compares these runs: parameters and metrics side by side, plots."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id]), **_MODE}
    return f"{base}/#/compare-runs?{urlencode(query, quote_via=quote)}"


def charts_url(base: str, experiment_id: str) -> str:
    """The experiment's charts and figures of all runs, in our saved view."""
    query = {"viewStateShareKey": KEY, "compareRunsMode": "CHART", **_MODE}
    return f"{base}/#/experiments/{experiment_id}/runs?{urlencode(query)}"
