"""What went wrong in a Ray worker, out of Ray's wrappings: our own error as it was raised, or a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from backends.errors import OrchestratorError, RunFailed
from orchestrator.ray_worker import WorkerBug

ADVICE = "what was saved stays valid, and `orchestrator resume` goes on from it"


def understood(error: BaseException) -> BaseException:
    """The error to raise on the driver for what `fit` raised there.

    First our own errors (they say what happened), then a worker that died (the others' errors are its echo), then
    what nobody foresaw.
    """
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", None) or {}
    found = [layer for failure in (*failures.values(), error) for layer in _layers(failure)]
    own = [e for e in found if isinstance(e, OrchestratorError)]
    blamed = [e for e in own if not _is_echo(e)]
    if blamed:
        return blamed[0]
    for rank, failure in failures.items():
        if any(_is_death(layer) for layer in _layers(failure)):
            return RunFailed(f"worker {rank} died: {_cause_of_death(str(failure))}; {ADVICE}")
    bug = next((e for e in found if isinstance(e, WorkerBug)), None)
    if own or bug:
        return own[0] if own else bug or error
    if any(_is_death(layer) for layer in found):
        return RunFailed(f"Ray's controller or a worker died: {_cause_of_death(str(error))}; {ADVICE}")
    return error


def _layers(error: BaseException | None) -> Iterator[BaseException]:
    """An error with what Ray or Python wrapped in it."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        layer = queue.pop(0)
        if layer is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        wrapped = ("cause", "controller_failure", "health_check_failure", "__cause__")
        queue += [w for name in wrapped if isinstance(w := getattr(layer, name, None), BaseException)]


def _is_echo(error: BaseException) -> bool:
    return isinstance(error, RunFailed) and "lost the other workers" in str(error)


def _is_death(error: BaseException) -> bool:
    names = {c.__name__ for c in type(error).__mro__}
    return bool(names & {"RayActorError", "WorkerHealthCheckFailedError", "WorkerCrashedError", "OutOfMemoryError"})


def _cause_of_death(text: str) -> str:
    """One sentence out of Ray's page: process, node, signal."""
    process = re.search(r"pid: (\d+)", text)
    node = re.search(r"\bip: ([\w.:]+)", text)
    where = " ".join(x for x in (f"process {process[1]}" if process else "", f"on {node[1]}" if node else "") if x)
    if "memory" in text and "killed" in text and "low on memory" in text:
        why = "Ray killed it because the node ran out of memory"
    elif "node" in text and ("has died" in text or "was terminated" in text) and "node died" in text.lower():
        why = "its node is gone"
    else:
        why = "it was killed or crashed (out of memory? SIGKILL? a broken native library?)"
    return f"{where}: {why}" if where else why
