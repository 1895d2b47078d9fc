"""A stage with the user's own optimizer: an `optax.GradientTransformation` on jax, a `torch.optim.Optimizer` on torch.

One rule on both backends: the target is a function that takes `learning_rate` and makes the optimizer; the stage's
other keys are its further arguments.

    def make(learning_rate, decay=0.9):                        # jax
        return optax.chain(optax.scale_by_rms(decay), optax.scale_by_learning_rate(learning_rate))

    def make(params, learning_rate, momentum=0.9):             # torch; params: [(name, Parameter), …]
        return torch.optim.SGD(params, lr=learning_rate, momentum=momentum)

On jax it is called while a step is compiled, with the step's rate as an array: the updates are added to the parameters
as they are. On torch it is called with the stage's `lr`, and before each step the rate of every param_group becomes
its own one times (rate of the step / `lr`), so options that differ by parameter are kept.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.blame import place
from backends.errors import OrchestratorError, UserError, nearest
from backends.own.code import load as load_own
from backends.stages.stage import FirstOrder

_TARGET = r"^[^:\s][^:]*:[A-Za-z_][A-Za-z0-9_.]*$"
STATE = "optimizer/custom/"
"""What the names of its state begin with in a checkpoint; the name of the backend follows."""


@dataclass(frozen=True)
class OwnOptimizer:
    """The user's function with the arguments of one stage. Equal ones make equal optimizers."""

    target: str
    function: Callable[..., Any]
    arguments: str
    """As JSON."""

    def make(self, *positional: Any, learning_rate: Any) -> Any:
        """What the function makes. Raises UserError where it raises, with file and line."""
        with self.blamed():
            return self.function(*positional, learning_rate=learning_rate, **json.loads(self.arguments))

    def blamed(self) -> _Blamed:
        """Turns what happens inside into a UserError that names the target, with file and line."""
        return _Blamed(self.target)

    def wrong(self, found: Any, wanted: str) -> UserError:
        """The error for a function that made something else."""
        return UserError(f"{self.target} must return {wanted}; it returned {found!r:.80} ({type(found).__name__})")


@dataclass(frozen=True)
class _Blamed:
    target: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, OrchestratorError):
            raise UserError(f"{place(error)}{self.target} raised {type(error).__name__}: {error}") from error


class CustomOptimizer(FirstOrder):
    """The user's own optimizer, for one backend. All other keys are arguments of the target."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["custom"] = "custom"
    target: Annotated[str, Field(pattern=_TARGET)]
    """`mine.py:make` (a file beside the experiment file) or `package.module:make`: a function of `learning_rate` (on
    torch of `params` and `learning_rate`) and of the stage's other keys."""
    lr: PositiveFloat = 1e-3
    """Learning rate; `schedule` changes it over the stage."""

    @model_validator(mode="after")
    def _no_skipped_steps(self) -> CustomOptimizer:
        if self.compute == "float16":
            raise PydanticCustomError(
                "compute",
                "float16 skips steps whose gradient overflows, which an own optimizer does not know of; use `compute: "
                "bfloat16`",
            )
        return self

    def load(self, folder: Path, backend: str) -> OwnOptimizer:
        """The function, looked at. Raises UserError where it is missing or does not take these arguments."""
        function: Any = load_own(self.target, folder)
        if not callable(function):
            raise UserError(f"{self.target} is no function, it is {function!r:.60}")
        given = dict(self.model_extra or {})
        positional = ["params"] if backend == "torch" else []
        try:
            signature = inspect.signature(function)
        except ValueError:
            signature = None  # made in C: only the call itself can tell
        if signature is not None:
            self._takes(signature, positional, given)
        return OwnOptimizer(self.target, function, json.dumps(given, sort_keys=True))

    def _takes(self, signature: inspect.Signature, positional: list[str], given: dict[str, Any]) -> None:
        try:
            signature.bind(*positional, learning_rate=self.lr, **given)
        except TypeError as error:
            known = [name for name in signature.parameters if name not in ("params", "learning_rate")]
            unknown = [name for name in given if name not in known]
            hint = nearest(unknown[0], known) if unknown else ""
            called = ", ".join([*positional, "learning_rate=…", *(f"{name}=…" for name in given)])
            raise UserError(
                f"{self.target} is called as make({called}), which it does not take: {error}{hint}"
            ) from error


def refuse_foreign(arrays: Any, backend: str) -> None:
    """Raises UserError where a checkpoint holds the state of another backend's own optimizer."""
    for name in arrays:
        if name.startswith(STATE) and not name.startswith(f"{STATE}{backend}/"):
            other = name.removeprefix(STATE).partition("/")[0]
            raise UserError(
                f"the checkpoint holds the state of an own optimizer of {other}, which {backend} can't continue; start "
                "a new run from its weights instead: orchestrator run FILE --start-from RUN"
            )
