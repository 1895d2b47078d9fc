"""The user's own problem as the experiment file names it: `task: {kind: custom, target: "mine.py:Fisher", …}`."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ConfigDict, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from backends.errors import UserError, nearest
from backends.own.code import load, target_of
from backends.pde.problem import Problem
from backends.task import Parts, Task, TaskSpec


class CustomTask(TaskSpec):
    """A problem of the user's own: a class derived from Problem, in one file that names no framework.

    All other keys are fields of that class, and checked by it.
    """

    model_config = ConfigDict(extra="allow")

    kind: Literal["custom"] = "custom"
    target: str
    """`mine.py:Fisher` (a file beside the experiment file) or `package.module:Fisher`."""
    _own: TaskSpec = PrivateAttr()

    @model_validator(mode="after")
    def _resolved(self, info: ValidationInfo) -> CustomTask:
        """Loads the class and lets it check the other keys; its defaults are filled in.

        A file is relative to `context["folder"]`, else to the current directory.
        """
        folder = Path((info.context or {}).get("folder", "."))
        try:
            own = own_class(self.target, folder)
        except UserError as error:
            blamed = _detail("own_target", str(error), {"loc": ("target",), "input": self.target})
            raise ValidationError.from_exception_data("target", [blamed]) from error
        try:
            self._own = own.model_validate(dict(self.__pydantic_extra__ or {}))
        except ValidationError as error:
            raise _reworded(error, own) from error
        filled = {name: getattr(self._own, name) for name in _settings(own)}
        object.__setattr__(self, "__pydantic_extra__", filled)
        return self

    @property
    def own(self) -> TaskSpec:
        """The user's problem itself."""
        return self._own

    def build(self, parts: Parts) -> Task:
        return self._own.build(parts)


def own_class(target: str, folder: Path) -> type[TaskSpec]:
    """The class that a target names. Raises UserError where it is no problem."""
    found = load(target, folder)
    if isinstance(found, type) and issubclass(found, TaskSpec):
        if issubclass(found, Problem) and not found.declared():
            raise UserError(f"{target}: {found.__name__} has no terms: mark methods with @residual")
        return found
    what = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
    raise UserError(f"{target} is {what}; it must be a class derived from orchestrator.Problem")


def described(value: Any) -> Any:
    """A user's problem given from Python, as the file would describe it; anything else as it is."""
    if isinstance(value, TaskSpec) and "kind" not in type(value).model_fields:
        return {"kind": "custom", "target": target_of(type(value)), **value.model_dump()}
    return value


def _settings(own: type[TaskSpec]) -> list[str]:
    return [name for name in own.model_fields if name != "kind"]


def _reworded(error: ValidationError, own: type[TaskSpec]) -> ValidationError:
    """The same findings; an unknown key is answered with the nearest field of the user's class."""
    details: list[InitErrorDetails] = []
    for found in error.errors(include_url=False):
        kind, ctx = found["type"], found.get("ctx", {})
        if kind == "extra_forbidden":
            near = nearest(str(found["loc"][-1]), _settings(own))
            details.append(_detail("own_setting", f"unknown setting of {own.__name__}{near}", found))
        elif kind in typing.get_args(ErrorType):
            details.append(InitErrorDetails(type=kind, loc=found["loc"], input=found["input"], ctx=ctx))
        else:
            details.append(_detail(kind, found["msg"], found))
    return ValidationError.from_exception_data(own.__name__, details)


def _detail(kind: str, message: str, found: Mapping[str, Any]) -> InitErrorDetails:
    custom = PydanticCustomError(cast(Any, kind), "{said}", {**found.get("ctx", {}), "said": message})
    return InitErrorDetails(type=custom, loc=found["loc"], input=found["input"])
