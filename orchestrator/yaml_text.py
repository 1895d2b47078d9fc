"""YAML with the place of every value: plain data plus marks, and every slip of the pen at once.

YAML 1.2 scalars (`1e-3` is a number, `no` is text), no tags, no duplicate keys, limits on size, depth and
expanded aliases, so that no file can exhaust the reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from backends.errors import ConfigError, Problem

Path_ = tuple[str | int, ...]
LIMIT_BYTES = 1_000_000
LIMIT_DEPTH = 50
LIMIT_NODES = 50_000

_PLAIN_TAGS = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9](_?[0-9])*$")
_HEX = re.compile(r"0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9](_?[0-9])*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)$")


@dataclass(frozen=True)
class Mark:
    """Where something stands; lines and columns count from 1, line 0 means: not in a file."""

    file: str
    line: int = 0
    column: int = 0


@dataclass
class Document:
    """Plain data, and for each path in it where its key (or, in a list, its value) stands."""

    tree: Any
    marks: dict[Path_, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, path: Path_) -> Mark:
        """The mark of the longest known beginning of `path`."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return Mark("experiment")


def dotted(path: Path_) -> str:
    """`stages.0.lr`."""
    return ".".join(str(p) for p in path)


def read_file(path: Path, shown: str | None = None) -> Document:
    """Read one YAML file. Raises ConfigError where it can't be read at all."""
    name = shown or str(path)
    try:
        if path.is_dir():
            raise _failed(name, "this is a folder; an experiment file is needed")
        if path.stat().st_size > LIMIT_BYTES:
            raise _failed(name, f"{path.stat().st_size} bytes; an experiment file has at most {LIMIT_BYTES}")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _failed(name, "there is no such file" + _beside(path)) from None
    except OSError as error:
        raise _failed(name, f"can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise _failed(name, f"can't be read: {error}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _failed(name, f"not UTF-8 at byte {error.start}; save the file as UTF-8", line, 1) from None
    return read_text(text, name)


def read_text(text: str, name: str) -> Document:
    """Read YAML text; `name` is what messages call it."""
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise _failed(
            name, f"the character U+{ord(str(error.character)[:1] or ' '):04X} is not allowed here", line, 1
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or "can't be read as YAML"
        if "tab" in said or "'\\t'" in said:
            said = "a tab can't indent YAML; use spaces"
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise _failed(name, said, *where) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _failed(name, f"can't be read as YAML: {error}") from None
    document = Document(None)
    if root is None:
        raise _failed(name, "the file is empty; at least name, task and stages are needed", 1, 1)
    document.tree = _Reader(name, document).value(root, (), ())
    document.marks.setdefault((), Mark(name, 1, 1))
    return document


def read_value(text: str, name: str) -> Any:
    """A single value as YAML reads it (`--set path=value`). Raises ConfigError."""
    if text.strip() == "":
        return None
    document = read_text(text, name)
    if document.problems:
        raise ConfigError(document.problems)
    return document.tree


class _Reader:
    """Turns the composed nodes into plain data, noting marks and problems on the way."""

    def __init__(self, name: str, document: Document) -> None:
        self.name, self.document, self.count = name, document, 0

    def problem(self, node: yaml.Node, path: Path_, message: str) -> None:
        mark = node.start_mark
        self.document.problems.append(Problem(self.name, mark.line + 1, mark.column + 1, dotted(path), message))

    def value(self, node: yaml.Node, path: Path_, above: tuple[int, ...]) -> Any:
        self.count += 1
        if id(node) in above:
            raise _failed(self.name, "an alias contains itself", node.start_mark.line + 1, node.start_mark.column + 1)
        if self.count > LIMIT_NODES:
            raise _failed(self.name, f"more than {LIMIT_NODES} values (aliases expanded); write it out or shorten it")
        self.document.marks.setdefault(path, Mark(self.name, node.start_mark.line + 1, node.start_mark.column + 1))
        above = (*above, id(node))
        if not node.tag.startswith(_PLAIN_TAGS) or node.tag.startswith(f"{_PLAIN_TAGS}python"):
            self.problem(node, path, f"YAML tags ({node.tag}) are not read; write a plain value")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i), above) for i, child in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path_, above: tuple[int, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a key must be plain text, not a list or a mapping")
                continue
            key = str(key_node.value)
            if key_node.tag == "tag:yaml.org,2002:merge" or key == "<<":
                self.problem(key_node, path, "merge keys (<<) are not read; use `extends`")
                continue
            if key in out:
                self.problem(
                    key_node,
                    (*path, key),
                    f"duplicate key {key!r} (first on line {lines[key]}); the earlier value would be silently lost",
                )
                continue
            mark = key_node.start_mark
            lines[key] = mark.line + 1
            self.document.marks[(*path, key)] = Mark(self.name, mark.line + 1, mark.column + 1)
            out[key] = self.value(child, (*path, key), above)
        return out

    def scalar(self, node: yaml.Node, path: Path_) -> Any:
        text = str(node.value)
        if getattr(node, "style", None) in ("'", '"', "|", ">"):
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        return self.number(node, path, text)

    def number(self, node: yaml.Node, path: Path_, text: str) -> Any:
        if _INT.match(text):
            digits = text.replace("_", "")
            if len(digits) > 20:
                self.problem(node, path, f"a whole number of {len(digits)} digits is too large")
                return 0
            return int(digits)
        if _HEX.match(text):
            return int(text, 16)
        if _FLOAT.match(text):
            return float(text.replace("_", ""))
        if _INF.match(text) or text in (".nan", ".NaN", ".NAN"):
            self.problem(node, path, f"must be a finite number (got {text})")
            return None
        return text


def _check_depth(text: str, name: str) -> None:
    """Refuse deep nesting on the tokens, before the composer recurses."""
    depth = 0
    opening = (
        yaml.FlowSequenceStartToken,
        yaml.FlowMappingStartToken,
        yaml.BlockSequenceStartToken,
        yaml.BlockMappingStartToken,
    )
    closing = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        depth += isinstance(token, opening) - isinstance(token, closing)
        if depth > LIMIT_DEPTH:
            mark = token.start_mark
            raise _failed(name, f"nested more than {LIMIT_DEPTH} levels deep", mark.line + 1, mark.column + 1)


def _failed(name: str, message: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError([Problem(name, line, column, "", message)])


def _beside(path: Path) -> str:
    """The names of experiment files beside a missing one, as a suggestion."""
    from backends.errors import nearest

    folder = path.parent
    names = sorted(p.name for p in folder.glob("*.y*ml"))[:10] if folder.is_dir() else []
    return nearest(path.name, names) if names else ""


def flatten(tree: Any, path: Path_ = ()) -> Mapping[str, Any]:
    """{dotted path: leaf value} of plain data."""
    if isinstance(tree, Mapping) and tree:
        return {k: v for key, child in tree.items() for k, v in flatten(child, (*path, str(key))).items()}
    if isinstance(tree, list | tuple) and tree:
        return {k: v for i, child in enumerate(tree) for k, v in flatten(child, (*path, i)).items()}
    return {dotted(path): tree}
