"""The error tree of the project, as users import it; drawn and defined in `backends.errors`."""

from backends.errors import (
    ConfigError,
    MissingBackend,
    NonFinite,
    OrchestratorError,
    OwnCodeFailed,
    Problem,
    RunFailed,
    StorageFailed,
    UserError,
    nearest,
)

__all__ = [
    "ConfigError",
    "MissingBackend",
    "NonFinite",
    "OrchestratorError",
    "OwnCodeFailed",
    "Problem",
    "RunFailed",
    "StorageFailed",
    "UserError",
    "nearest",
]
