"""Addresses of tracking stores: which are usable, and their absolute form."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_URI = "sqlite:///mlflow.db"
ALLOWED = "use sqlite:///FILE (a local store) or http(s)://HOST:PORT (an MLflow server)"


def uri_problem(uri: str) -> str | None:
    """Why `uri` is no tracking store that we can use; None where it is one. Passwords are never repeated."""
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme.startswith("databricks"):
        return f"Databricks is not supported; {ALLOWED}"
    if not separator or scheme == "file":
        return (
            f"MLflow no longer keeps runs in a folder of files (got {uri!r}); use {DEFAULT_URI}, or http(s)://HOST:PORT"
        )
    if scheme == "sqlite":
        if not rest.startswith("/") or rest.strip("/") in ("", ":memory:"):
            return f"names no file (got {uri!r}); write sqlite:///mlflow.db, or sqlite:////absolute/folder/mlflow.db"
        return None
    if scheme not in ("http", "https"):
        return f"{scheme}:// is not supported; {ALLOWED}"
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is not a valid address ({error}); {ALLOWED}"
    if parts.username or parts.password:
        return (
            "holds a user name or password, which would be written into every run; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment instead"
        )
    return None if host else f"names no host (got {uri!r}); {ALLOWED}"


def absolute_uri(uri: str, cwd: Path | None = None) -> str:
    """A sqlite URI with an absolute path; servers' addresses stay as they are (without a closing slash)."""
    file = sqlite_file(uri, cwd)
    return uri.rstrip("/") if file is None else f"sqlite:///{file}"


def sqlite_file(uri: str, cwd: Path | None = None) -> Path | None:
    """The database file of a sqlite URI, absolute; None for a server."""
    if not uri.lower().startswith("sqlite:///"):
        return None
    return Path(os.path.normpath((cwd or Path.cwd()) / uri[len("sqlite:///") :]))
