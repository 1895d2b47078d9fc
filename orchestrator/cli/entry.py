"""One call of the command line: what any exception becomes, and the exit code."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from typing import Any

import typer

from backends.errors import OrchestratorError
from orchestrator.cli.app import app

# typer brings its own click, or uses the one that is installed: the class is the same by its exported subclass.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(_guarded(arguments if arguments is not None else sys.argv[1:]))


def _guarded(arguments: list[str]) -> int:
    """The exit code of one call; no exception gets out."""
    try:
        answer = app(arguments, prog_name="orchestrator", standalone_mode=False)
        return answer if isinstance(answer, int) else 0
    except typer.Exit as error:
        return error.exit_code
    except _UsageError as error:
        error.show()
        return 2
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OrchestratorError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    except Exception:
        return _our_bug()


def _our_bug() -> int:
    """One line, and the traceback in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="orchestrator-bug-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    print(f"orchestrator has a bug here; the traceback is in {file.name}", file=sys.stderr)
    if logging.getLogger("orchestrator").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    return 1
