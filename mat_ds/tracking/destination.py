"""Where the mirror of a run goes: which MLflow, and whether its address is one that can be written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mat_ds.errors import Problem

NO_MIRROR = "none"
SERVERS, DATABASES = ("http", "https", "databricks"), ("sqlite", "postgresql", "mysql", "mssql")
SECRET = re.compile(r"(?i)(password|passwd|pwd|token|secret|api_?key)=[^&]*")


def default_uri(run: Path) -> str:
    """The SQLite file beside a run directory."""
    return f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def mirror_uri(run: Path, configured: str | None) -> str | None:
    """The MLflow that mirrors a run, by its `tracking.uri`; None if there is to be none."""
    if configured == NO_MIRROR:
        return None
    if configured is None:
        return default_uri(run)
    return absolute_uri(configured)


def database_file(uri: str) -> Path | None:
    """The absolute path of an SQLite file; None of anything else."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def absolute_uri(uri: str | None) -> str | None:
    """The same address to a process in another folder."""
    file = database_file(uri) if uri else None
    return f"sqlite:///{file}" if file else uri


def uri_problems(key: str, uri: str | None) -> Iterator[Problem]:
    """Whether an address is of an MLflow, and free of what must not be written to a log, a configuration or a database."""
    if uri in (None, NO_MIRROR):
        return
    assert uri is not None
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        yield Problem(key, uri, f"is no address: {error}", "write it as http://<host>:<port>")
        return
    scheme, shown = parts.scheme.partition("+")[0], _without_secrets(uri)
    if shown != uri:
        yield Problem(key, shown, "holds credentials, and an address is written into the run's files and shown",
                      "leave them out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                      "MLFLOW_TRACKING_TOKEN, in the environment (a database has its own)")  # fmt: skip
    elif scheme not in (*SERVERS, *DATABASES) and uri != "databricks":
        folder = (
            "MLflow 3 refuses to write into a folder of files" if scheme in ("", "file") else f"{scheme!r} is no such scheme"
        )
        yield Problem(key, uri, f"is no MLflow server or database: {folder}",
                      "pass sqlite:///<file>.db, http://<host>:<port> or https://<host>, none, or nothing at all")  # fmt: skip
    elif scheme in ("http", "https") and not parts.hostname:
        yield Problem(key, uri, "names no host", "write it as http://<host>:<port>")
    elif scheme == "sqlite" and not database_file(uri):
        yield Problem(key, uri, "names no file", "write it as sqlite:///<file>.db, with a fourth slash if the path is absolute")


def _without_secrets(uri: str) -> str:
    """An address that can be shown."""
    scheme, slashes, rest = uri.partition("//")
    # A password may hold a slash, and a server's address needs nothing behind a question mark.
    shown = f"{scheme}{slashes}***@{rest.rpartition('@')[2]}" if "@" in rest and scheme != "sqlite:" else uri
    if scheme in ("http:", "https:"):
        shown = re.sub(r"\?.+", "?***", shown)
    return SECRET.sub(r"\1=***", shown)
