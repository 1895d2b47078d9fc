"""The command line: `orchestrator VERB …` = `python -m orchestrator VERB …`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 our bug, 2 the user's mistake, 3 the run
failed, 130 interrupted, 143 preempted with a checkpoint saved. The modules imported here register their verbs, in the
order in which `--help` lists them.
"""

from __future__ import annotations

# isort: off
from orchestrator.cli import making  # noqa: F401
from orchestrator.cli import running  # noqa: F401
from orchestrator.cli import checking  # noqa: F401
from orchestrator.cli import planning  # noqa: F401
from orchestrator.cli import exporting  # noqa: F401
from orchestrator.cli import looking  # noqa: F401
from orchestrator.cli import comparing  # noqa: F401
from orchestrator.cli import using  # noqa: F401
from orchestrator.cli import knowing  # noqa: F401

# isort: on
from orchestrator.cli.app import app
from orchestrator.cli.entry import main

__all__ = ["app", "main"]
