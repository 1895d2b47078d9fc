"""Code that an experiment file names by `target`: found, loaded once, and its mistakes told with file and line.

`mine.py:Fisher` is a file (relative to the folder of the experiment file) and a name in it, `package.module:Object`
an installed module. Naming code in the file that one runs is the decision to trust it; nothing else is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic.errors import PydanticUserError

from backends.errors import UserError, nearest


@dataclass(frozen=True)
class Target:
    """A `target`, taken apart."""

    file: Path | None
    """The file, or None where a module is named."""
    module: str
    name: str

    @property
    def place(self) -> str:
        """What messages call it."""
        return str(self.file) if self.file else self.module


def parse(target: str, folder: Path) -> Target:
    """The parts of a target; a file is relative to `folder`. Raises UserError where it has not that form."""
    module, colon, name = target.rpartition(":")
    if not colon or not module or not name.replace(".", "").isidentifier():
        raise UserError(f"{target!r} is not a target: write 'mine.py:Name' for a file, or 'package.module:Name'")
    if module.endswith(".py"):
        return Target(folder / module, "", name)
    if "/" in module or "\\" in module:
        raise UserError(f"{target!r}: a file must end in .py")
    return Target(None, module, name)


def load(target: str, folder: Path) -> Any:
    """The object that `target` names.

    Raises UserError where the file or the name is missing, or the import raises: with file and line of the user's
    text. A file that did not change is imported once per process.
    """
    found = parse(target, folder)
    module = _from_file(found.file) if found.file else _imported(found.module)
    value: Any = module
    for part in found.name.split("."):
        if not hasattr(value, part):
            names = [n for n in vars(value) if not n.startswith("_")]
            raise UserError(f"{found.place} has no {part!r}{nearest(part, names)}")
        value = getattr(value, part)
    return value


def target_of(cls: type) -> str:
    """The target that names a class of this process, for workers that have to load it from its file.

    Raises UserError for a class that has no file (a notebook's) or is defined inside a function.
    """
    if "<locals>" in cls.__qualname__:
        raise UserError(f"{cls.__name__} is defined inside a function, where workers can't find it; move it to a file")
    if "." in cls.__module__ and cls.__module__ in sys.modules:
        return f"{cls.__module__}:{cls.__qualname__}"
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        raise UserError(f"{cls.__name__} is defined in no file, so workers can't find it; save it in one and import it")
    # Loading it again would run a script's other statements a second time.
    sys.modules.setdefault(_own_name(Path(file)), sys.modules[cls.__module__])
    return f"{file}:{cls.__qualname__}"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserError(f"there is no file {path}{nearest(path.name, beside)}")
    name = _own_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} can't be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: pydantic looks annotations up there
    loader = spec.loader
    try:
        _told(lambda: loader.exec_module(module), path)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _own_name(path: Path) -> str:
    """A module name by place and content: two files called mine.py don't meet, a changed one is read again."""
    mark = hashlib.sha256(f"{path.resolve()}\n{sha256(path)}".encode()).hexdigest()[:12]
    return f"own_{path.stem}_{mark}"


def _imported(name: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise UserError(f"there is no module {name!r}; install it, or name a file: 'mine.py:Name'")
    return _told(lambda: importlib.import_module(name), Path(spec.origin or name))


def _told(run: Callable[[], Any], path: Path) -> Any:
    """`run()`, its exceptions as UserErrors that name the innermost line of the user's file."""
    try:
        return run()
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        raise UserError(f"{_place(error, path)}: {_said(error)}") from error


def _place(error: BaseException, path: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _said(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, PydanticUserError):
        # Its own advice (ClassVar, ignored_types) leads a user who only forgot a type astray.
        if error.code != "model-field-missing-annotation" or "`" not in str(error):
            return str(error).splitlines()[0]
        named = str(error).partition("`")[2].partition("`")[0]
        field, _, value = named.partition(" = ")
        kind = "int" if value.lstrip("-").isdigit() else "float" if _is_number(value) else "…"
        return f"`{named}` needs a type, so that the file can set it: write `{field}: {kind} = {value}`"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Own code is one file: put what it needs into it, or install that as a package"
    return f"raised {type(error).__name__}: {error}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
