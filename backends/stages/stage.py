"""What all stages have in common, and what those with a learning rate have besides."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from backends.periods import Epochs, Period, in_epochs, known
from backends.schedules import Constant, Schedule
from backends.spec import Leaf, Precision


def _steps_or_epochs(schema: dict[str, Any]) -> None:
    """A file gives one of the two lengths."""
    schema["required"] = [name for name in schema.get("required", []) if name != "steps"]
    schema["anyOf"] = [{"required": ["steps"]}, {"required": ["epochs"]}]


class AnyStage(Leaf):
    """What all stages have in common. Floats named in `knob_fields` are live values, not compiled constants."""

    model_config = ConfigDict(json_schema_extra=_steps_or_epochs)

    knob_fields: ClassVar[tuple[str, ...]] = ()
    default_precision: ClassVar[Precision] = "float32"
    choices: ClassVar[tuple[str, ...]] = ()
    """Fields that are true or false and choose between programs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")] = ""
    """Unique within the file; stages are addressed by it (`stages.warm.lr`). Default: the kind."""
    steps: Period
    """Optimizer steps (iterations of a quasi-Newton stage)."""
    epochs: PositiveFloat | None = None
    """Length in passes over the data, instead of `steps`."""
    width: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Units of the network's hidden layers in this stage (an mlp or modified_mlp); default: `network.width`. Where it
    changes, the network goes on computing the same function (`backends.multilevel.prolongation`)."""
    precision: Precision | None = None
    """Default: the file's `precision`, else float64 for quasi-Newton stages and float32 for the others."""

    @property
    def method(self) -> str:
        """The algorithm: the kind, followed by the choices that shape its program."""
        kind = type(self).model_fields["kind"].default
        return "-".join([kind, *(name for name in self.choices if getattr(self, name))])

    @model_validator(mode="before")
    @classmethod
    def _named_by_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            kind = data.get("kind", cls.model_fields["kind"].default)
            return {**data, "name": kind} if isinstance(kind, str) else data
        return data

    @model_validator(mode="before")
    @classmethod
    def _length_in_epochs(cls, data: Any) -> Any:
        """`epochs: 20` is another spelling of `steps: 20 epochs`."""
        epochs = data.get("epochs") if isinstance(data, dict) else None
        if epochs is None:
            return data
        if data.get("steps") is not None:
            raise PydanticCustomError("length", "has both `steps` and `epochs`; give one of them (the other: null)")
        if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs < float("inf"):
            return {**data, "steps": 1}  # what is wrong with the epochs is said of them alone
        return {**data, "steps": Epochs.of(epochs), "epochs": None}


class FirstOrder(AnyStage):
    """What the stages have in common that step by a learning rate."""

    schedule: Schedule = Constant()
    """How the rate changes over the stage."""
    moments: Literal["fresh", "kept"] = "fresh"
    """kept: go on with the moments of the stage before, which has the same optimizer, also where the width changes."""
    compute: Literal["bfloat16", "float16"] | None = None
    """Arithmetic of network and derivatives in half precision; parameters, optimizer and sums stay float32."""

    @model_validator(mode="after")
    def _halves_of_single(self) -> FirstOrder:
        if self.compute and self.precision == "float64":
            raise PydanticCustomError(
                "compute",
                "half precision keeps its parameters in float32, so `precision: float64` does not go with "
                "`compute: {compute}`; remove one of them",
                {"compute": self.compute},
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> FirstOrder:
        if not in_epochs(self.schedule) and known(self.steps):
            misfit = self.schedule.misfit(self.steps)
            if misfit:
                raise PydanticCustomError("schedule", "{misfit}", {"misfit": misfit})
        return self
