"""`orchestrator new`: a working problem, network or callback of one's own with the experiment that trains it.

The texts lie in `orchestrator/templates/<kind>/`; three names in them are replaced: `OWN-NAME` (as given),
`own_name` (of files) and `OwnName` (of the class).
"""

from __future__ import annotations

import contextlib
import json
import keyword
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import yaml

from backends.errors import UserError, nearest
from orchestrator.schema import json_schema

Kind = Literal["problem", "network", "callback"]
KINDS: tuple[str, ...] = get_args(Kind)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_TAKEN = frozenset({"Problem", "Network", "Ask", "PositiveFloat"})
"""Names that the templates import."""
SUFFIX = ".template"


@dataclass(frozen=True)
class Made:
    """What was written."""

    folder: Path
    files: tuple[Path, ...]
    experiment: Path

    def next(self) -> tuple[str, str]:
        """The two commands that come next."""
        return f"orchestrator agree {self.experiment}", f"orchestrator run {self.experiment}"

    def as_dict(self) -> dict[str, object]:
        """What `--json` prints."""
        return {"folder": str(self.folder), "files": [str(f) for f in self.files], "next": list(self.next())}


def new(name: str, dir: str | Path = ".", kind: str = "problem") -> Made:
    """Write the folder `<dir>/<name>` with a working template of `kind`: problem, network or callback.

    All files are written or none. Raises UserError for a name that can't be one, and where a file exists already.
    """
    if kind not in KINDS:
        raise UserError(f"--kind must be one of {', '.join(KINDS)} (got {kind!r}){nearest(kind, KINDS)}")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} can't be the name: it becomes a folder, a file and a class; begin with a letter, then letters, "
            "digits, _ and -, at most 40"
        )
    folder = Path(dir).expanduser() / name
    texts = _texts(name, kind)
    _refuse_existing(folder, list(texts))
    try:
        _write(folder, texts)
    except FileExistsError as error:
        raise UserError(f"{error.filename2 or folder} exists already; nothing was written") from error
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from error
    files = tuple(folder / file for file in texts)
    return Made(folder, files, next(f for f in files if f.suffix == ".yaml"))


def names(name: str) -> tuple[str, str]:
    """The names of the files and of the class: `heat-2d` gives `heat_2d`, `Heat2d`."""
    module = name.replace("-", "_").lower()
    parts = [p for p in re.split(r"[_-]+", name) if p]
    cls = "".join(p[0].upper() + p[1:] for p in parts)
    return module, f"Own{cls}" if keyword.iskeyword(cls) or cls in _TAKEN else cls


def _texts(name: str, kind: str) -> dict[str, str]:
    """{file name: text}, in the order in which they are shown."""
    module, cls = names(name)
    text_in_yaml = name if yaml.safe_load(name) == name else f'"{name}"'  # `true` and `null` need quotes
    replaced = {"name: OWN-NAME": f"name: {text_in_yaml}", "OWN-NAME": name, "own_name": module, "OwnName": cls}
    pattern = re.compile("|".join(replaced))
    source = resources.files("orchestrator") / "templates" / kind
    out: dict[str, str] = {}
    for entry in ("own_name.py", "own_name.yaml", "README.md"):
        text = (source / f"{entry}{SUFFIX}").read_text(encoding="utf-8")
        out[entry.replace("own_name", module)] = pattern.sub(lambda found: replaced[found[0]], text)
    return {**out, "schema.json": json.dumps(json_schema(), indent=2) + "\n"}


def _refuse_existing(folder: Path, files: list[str]) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} exists already and is no folder; nothing was written")
    for file in files:
        if os.path.lexists(folder / file):
            raise UserError(f"{folder / file} exists already; nothing was written. Choose another name, or --dir")


def _write(folder: Path, texts: dict[str, str]) -> None:
    """All files or none: written beside the folder, then linked into it, which never replaces a file."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as draft:
            for file, text in texts.items():
                Path(draft, file).write_text(text, encoding="utf-8")
            for file in texts:
                _place(Path(draft, file), folder / file)
                made.append(folder / file)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _place(draft: Path, target: Path) -> None:
    """Put a finished file in its place. Raises FileExistsError where another one is there by now."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with target.open("xb") as file, draft.open("rb") as source:
            shutil.copyfileobj(source, file)
