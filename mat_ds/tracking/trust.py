"""Decides whether an address may be used: recipes and run folders may come from strangers, but MLflow's client sends the user's
token to any address."""

from __future__ import annotations

import netrc
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from mat_ds.errors import Problem, raise_if_any
from mat_ds.tracking.destination import database_file, is_remote, mirror_uri, shown_uri, uri_problems
from mat_ds.tracking.variables import TRACKING_URI, named

# Environment variables with credentials that MLflow's client, or the client of an artifact store, would send.
CREDENTIALS = (
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY", "AZURE_CLIENT_SECRET",
    "GOOGLE_APPLICATION_CREDENTIALS", "DATABRICKS_TOKEN", "DATABRICKS_PASSWORD", "DATABRICKS_CLIENT_SECRET",
)  # fmt: skip


def credentials(uri: str) -> list[str]:
    """Names (never values) of credentials that would be sent to an address."""
    if not uri.lower().startswith(("http:", "https:")):
        return ["credentials found by the database's own client (a password file, a ticket)"] if is_remote(uri) else []
    found = [name for name in CREDENTIALS if os.environ.get(name)]
    if Path("~/.mlflow/credentials").expanduser().exists():
        found.append("~/.mlflow/credentials")
    with suppress(OSError, netrc.NetrcParseError, ValueError):
        file = os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())
        if netrc.netrc(file).authenticators(urlsplit(uri).hostname or ""):
            found.append(file)
    return found


def file_uri_problems(key: str, uri: str | None, file: str, fix: str) -> Iterator[Problem]:
    """Yields a problem if credentials would be sent to an address in a file, unless MLFLOW_TRACKING_URI is the same address.

    Args:
        key: the option.
        uri: the address.
        file: the file that contains it.
        fix: another way to give it.
    """
    if uri is None or not is_remote(uri) or next(uri_problems(key, uri), None) or _same_address(uri, named(TRACKING_URI)):
        return
    if sent := credentials(uri):
        yield Problem(
            key,
            shown_uri(uri),
            f"comes from {file}, which may not be yours, and would receive {', '.join(sent)}",
            f"if you trust it, {fix}, or set {TRACKING_URI} to it",
        )


def recipe_uri_problems(uri: str | None, recipe: Path | None, overrides: Sequence[str]) -> Iterator[Problem]:
    """`file_uri_problems` for a run's `tracking.uri`, unless it was given on the command line."""
    if recipe is not None and not any(argument.startswith(("tracking.uri=", "tracking=")) for argument in overrides):
        yield from file_uri_problems("tracking.uri", uri, str(recipe), "pass tracking.uri=<address> on the command line")


def destination(run: Path, configured: object, given: str | None) -> str | None:
    """The MLflow address that a run folder is delivered to; None if the folder says `none`.

    An address given by the user wins, then the folder's own, but a server only if no credentials would be sent to it, then
    MLFLOW_TRACKING_URI, then the SQLite file beside the folder.

    Args:
        run: the run directory.
        configured: its own `tracking.uri`, not validated.
        given: `--uri`.

    Raises:
        UserError: if the address is invalid or not trusted.
    """
    key = f"tracking.uri of {run}"
    if given is not None:
        raise_if_any(uri_problems("--uri", given))
        return mirror_uri(run, given)
    if configured is not None and not isinstance(configured, str):
        raise_if_any([Problem(key, configured, "is not an address", "pass --uri <address>")])
    uri = None if configured is None else str(configured)
    raise_if_any(uri_problems(key, uri))
    refused = list(file_uri_problems(key, uri, "the run folder", "pass it with --uri"))
    if (own := named(TRACKING_URI)) and (refused or uri is None):
        raise_if_any(uri_problems(TRACKING_URI, own))
        return mirror_uri(run, own)
    raise_if_any(refused)
    found = mirror_uri(run, uri)
    if found and (file := database_file(found)):
        raise_if_any(_foreign_file(key, file, run.resolve()))
    return found


def _same_address(uri: str, other: str | None) -> bool:
    return other is not None and uri.rstrip("/") == other.rstrip("/")


def _foreign_file(key: str, file: Path, run: Path) -> Iterator[Problem]:
    """Yields a problem if a file named by a run folder would be created or changed outside of the folder's surroundings."""
    beside = file.parent.resolve() in (run.parent, run.parent.parent)
    if file.exists() or file.is_symlink():
        if not _is_mlflows(file, beside):
            yield Problem(
                key,
                str(file),
                "the run folder names a file that is not an MLflow database",
                "pass --uri, such as --uri sqlite:///runs/mlflow.db",
            )
    elif not beside:
        yield Problem(
            key,
            str(file),
            "the run folder names a file that does not exist and is not beside the folder",
            f"to create it, pass --uri sqlite:///{file}",
        )


def _is_mlflows(file: Path, beside: bool) -> bool:
    """Whether a file is an MLflow database; an empty one beside a run is accepted, as its tables may not exist yet."""
    if not file.is_file() or (beside and file.stat().st_size == 0):
        return file.is_file()
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as found:
            tables = {name for (name,) in found.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:  # locked by another process
        return True
    except sqlite3.DatabaseError:
        return False
    return bool(tables & {"alembic_version", "experiments"})
