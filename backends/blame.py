"""Errors inside a user's method, told with its name, file and line."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from backends.errors import OrchestratorError, OwnCodeFailed, UserError


@contextlib.contextmanager
def blamed(owner: object, method: str) -> Iterator[None]:
    """Turns what `owner.method` raises into a UserError that begins with `fisher.py:12: Fisher.pde: `."""
    try:
        yield
    except OrchestratorError as error:
        raise UserError(f"{_place(owner, method, error)}: {error}") from error
    except Exception as error:
        raise UserError(f"{_place(owner, method, error)}: raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def told(what: str, when: Callable[[], str] = str) -> Iterator[None]:
    """Turns what the user's own code raises into OwnCodeFailed: `net.py:12: {what} raised ValueError{when()}: …`."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise OwnCodeFailed(f"{place(error)}{what} raised {type(error).__name__}{when()}: {error}") from error


@contextlib.contextmanager
def blaming(path: str) -> Iterator[None]:
    """A UserError inside, with the field of the experiment file to blame."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), path=path) from error


def _place(owner: object, method: str, error: BaseException) -> str:
    """The innermost line of the file that defines the method."""
    code = getattr(type(owner), method).__code__
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename and f.lineno]
    line = lines[-1] if lines else code.co_firstlineno
    return f"{Path(code.co_filename).name}:{line}: {type(owner).__name__}.{method}"


def place(error: BaseException) -> str:
    """`mine.py:12: `, the innermost line outside of this project, of Python and of installed packages; else empty."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _users(Path(f.filename))]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""


def _users(file: Path) -> bool:
    ours = Path(__file__).parent
    known = (
        ours,
        ours.with_name("orchestrator"),
        *map(Path, map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))),
    )
    return file.is_file() and not any(file.is_relative_to(folder) for folder in known)
