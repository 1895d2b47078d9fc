"""pydantic's findings in the words of the experiment file: place, what was given, what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from backends.errors import Problem, nearest
from orchestrator.yaml_text import Document, Path_, dotted

_SHOWN = 80


def explain(error: ValidationError, model: type[BaseModel], document: Document) -> list[Problem]:
    """One problem per finding, at the place of the value that is to blame."""
    found: dict[tuple[Path_, str], Problem] = {}
    for detail in error.errors(include_url=False):
        path = _real_path(detail["loc"], document.tree)
        if detail["type"] == "too_short" and detail.get("input"):
            continue  # an echo: entries with mistakes of their own do not count
        blamed = (detail.get("ctx") or {}).get("path")
        if blamed:
            path = _real_path(tuple(int(p) if p.isdigit() else p for p in str(blamed).split(".")), document.tree)
        message = _message(detail, model, path, document.tree)
        mark = document.mark(path)
        found.setdefault((path, message), Problem(mark.file, mark.line, mark.column, dotted(path), message))
    return _without_echoes(list(found.values()))


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """A union reports every alternative: keep the first message of each path."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.file, problem.path), problem)
    return [p for p in problems if first[(p.file, p.path)] is p]


def _real_path(loc: tuple[int | str, ...], tree: Any) -> Path_:
    """pydantic's location without the tags of unions; a missing key stays as the last part."""
    node: Any = tree
    path: list[str | int] = []
    for i, part in enumerate(loc):
        if _has(node, part):
            node = node[part]
            path.append(part)
        elif isinstance(node, Mapping) and part == node.get("kind"):
            continue
        elif i == len(loc) - 1 and isinstance(part, str) and isinstance(node, Mapping) and part.isidentifier():
            path.append(part)
    return tuple(path)


def _message(detail: ErrorDetails, model: type[BaseModel], path: Path_, tree: Any) -> str:
    kind, ctx, given = detail["type"], detail.get("ctx") or {}, detail.get("input")
    got = f" (got {_short(given)})"
    if kind == "extra_forbidden":
        return f"unknown setting{nearest(str(path[-1]) if path else '', _allowed(model, path[:-1], tree))}"
    if kind == "missing":
        return "is needed here and not given"
    if kind == "union_tag_not_found":
        return (
            f"needs a `kind`: one of {_tags(ctx.get('discriminator'), model, path, tree)}"
            if isinstance(given, Mapping)
            else (f"must be a mapping with a `kind`{got}")
        )
    if kind == "union_tag_invalid":
        tags = [t.strip().strip("'") for t in str(ctx.get("expected_tags", "")).split(",")]
        tag = str(ctx.get("tag"))
        return f"there is no kind {tag!r} here{nearest(tag, tags)} (allowed: {', '.join(tags)})"
    if kind in ("literal_error", "enum"):
        allowed = [str(a) for a in _literals(model, path, tree)] or [str(ctx.get("expected", ""))]
        return f"must be one of {', '.join(allowed)}{got}{nearest(str(given), allowed) if len(allowed) > 1 else ''}"
    said = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    reworded = _NUMBERS.get(kind)
    if reworded:
        limit = next((ctx[k] for k in ("gt", "ge", "lt", "le") if k in ctx), "")
        return reworded.format(limit=f"{limit:g}" if isinstance(limit, float) else limit) + got
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a mapping (key: value){got}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list{got}"
    if kind in ("string_type",):
        return f"must be text{got}"
    if kind == "string_pattern_mismatch":
        return f"must match {ctx.get('pattern')}{got}"
    if kind == "too_short":
        return f"needs at least {ctx.get('min_length')} entr{'y' if ctx.get('min_length') == 1 else 'ies'}"
    if kind not in _PYDANTICS:  # ours say what was given
        return said
    return f"{said}{got}"


_PYDANTICS = frozenset(typing.get_args(ErrorType))
_NUMBERS = {
    "greater_than": "must be above {limit}",
    "greater_than_equal": "must be at least {limit}",
    "less_than": "must be below {limit}",
    "less_than_equal": "must be at most {limit}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


def _short(value: Any) -> str:
    text = repr(value)
    if "://" in text and "@" in text:
        return "a URI with a password, not shown"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _models(annotation: Any) -> Iterator[Any]:
    """The alternatives behind Annotated, Optional, unions, lists and dictionaries."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _models(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for arg in typing.get_args(annotation):
            yield from _models(arg)
    else:
        yield annotation


def _at(model: type[BaseModel], path: Path_, tree: Any) -> list[Any]:
    """The annotations that apply at `path`, following the `kind` of unions."""
    here: list[Any] = [model]
    node: Any = tree
    for part in path:
        after: list[Any] = []
        for annotation in here:
            after += _child(annotation, part)
        node = cast(Any, node)[part] if _has(node, part) else None
        here = [a for outer in after for a in _models(outer)]
        given = node.get("kind") if isinstance(node, Mapping) else None
        chosen = [a for a in here if _kind(a) is not None and _kind(a) == given]
        here = chosen or here
    return here


def _child(annotation: Any, part: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if part in annotation.model_fields:
            return [annotation.model_fields[str(part)].annotation]
        extras = getattr(annotation, "__annotations__", {}).get("__pydantic_extra__")
        return [typing.get_args(typing.get_type_hints(annotation)["__pydantic_extra__"])[1]] if extras else []
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return [args[1]]
    if typing.get_origin(annotation) in (list, tuple) and args:
        return [args[0]]
    return []


def _has(node: Any, part: str | int) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)


def _kind(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and "kind" in annotation.model_fields:
        return annotation.model_fields["kind"].default
    return None


def _allowed(model: type[BaseModel], path: Path_, tree: Any) -> list[str]:
    """Names of the fields that may stand at `path`."""
    names: list[str] = []
    for annotation in _at(model, path, tree):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names += [n for n in annotation.model_fields if not n.startswith("_")]
    return names


def _literals(model: type[BaseModel], path: Path_, tree: Any) -> list[Any]:
    out: list[Any] = []
    for annotation in _at(model, path, tree):
        for choice in _models(annotation):
            if typing.get_origin(choice) is Literal:
                out += typing.get_args(choice)
    return out


def _tags(discriminator: Any, model: type[BaseModel], path: Path_, tree: Any) -> str:
    kinds = [str(_kind(a)) for a in _at(model, path, tree) if _kind(a) is not None]
    return ", ".join(kinds) or str(discriminator)
