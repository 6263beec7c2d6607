"""The MLflow address that a run is mirrored to, and checks that it contains no secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from mat_ds.errors import Problem, printable, raise_if_any

NO_MIRROR = "none"
SQLITE = "sqlite:///"
# Only addresses of these forms are accepted: a list of forbidden secrets would always miss some.
HOST = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
SERVER = re.compile(rf"https?://{HOST}(?:/[\w.~+ /-]*)?", re.I)
DATABASE = re.compile(rf"(?:postgresql|mysql|mssql)(?:\+\w+)?://(?:{HOST})?(?:/[\w.~ -]*)?")
DATABRICKS = re.compile(r"databricks(?:://[\w.-]+)?")
# Options allowed after the question mark of a database URL.
OPTIONS = {"sslmode", "sslrootcert", "connect_timeout", "application_name", "charset", "driver", "encrypt",
           "trustservercertificate", "ssl_ca", "ssl_mode"}  # fmt: skip
VALUE = re.compile(r"[\w ./+-]*")
# Text that may be shown although it is not a valid address.
HARMLESS = re.compile(rf"(?:[a-z][\w+.-]*://)?(?:{HOST}(?=/|$))?[\w./~ -]*", re.I)


def default_uri(run: Path) -> str:
    """The SQLite file beside a run directory."""
    return _address(run.resolve().parent / "mlflow.db")


def mirror_uri(run: Path, configured: str | None) -> str | None:
    """The MLflow address that mirrors a run, given its `tracking.uri`; None: no mirror."""
    if configured == NO_MIRROR:
        return None
    if configured is None:
        return default_uri(run)
    return absolute_uri(configured)


def database_file(uri: str) -> Path | None:
    """The absolute path in an SQLite URL; None for any other URL.

    `%25` in a URL stands for a percent sign. If only the literal path's folder exists, because a path was pasted after
    `sqlite:///`, the literal path is used.
    """
    if not uri.startswith(SQLITE):
        return None
    spelt = uri.removeprefix(SQLITE)
    read, literal = (Path(path).absolute() for path in (unquote(spelt, errors="surrogateescape"), spelt))
    return literal if literal.parent.is_dir() and not read.parent.is_dir() else read


def absolute_uri(uri: str | None) -> str | None:
    """An SQLite URL with an absolute path; any other URL unchanged."""
    if not uri or next(uri_problems("", uri), None):
        return uri
    file = database_file(uri)
    return _address(file) if file else uri


def client_uri(uri: str) -> str:
    """A URL in the form that MLflow's client needs.

    For an SQLite URL with escapes and the scheme `sqlite`, MLflow would also create a folder with the escaped name.
    SQLAlchemy decodes escapes only since 2.1; SQLite itself always does.
    """
    if not uri.startswith(SQLITE) or "%" not in uri:
        return uri
    if tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1):
        return uri.replace("sqlite:", "sqlite+pysqlite:", 1)
    return f"sqlite+pysqlite:///file:{quote(str(database_file(uri)))}?uri=true"


def is_remote(uri: str | None) -> bool:
    """Whether a URL is of a server, or of a database that is not a file."""
    return uri not in (None, NO_MIRROR) and not str(uri).startswith(SQLITE)


def _address(file: Path) -> str:
    """URL of an SQLite file; characters that would end the path or start an escape are escaped."""
    escaped = (c if c.isprintable() and c not in "%?#" else quote(c, errors="surrogateescape") for c in str(file))
    return SQLITE + "".join(escaped)


def check_uri(key: str, uri: str | None) -> None:
    """Raises `UserError` if an MLflow address is not acceptable."""
    raise_if_any(uri_problems(key, uri))


def uri_problems(key: str, uri: str | None) -> Iterator[Problem]:
    """Yields a problem if a URL is not of an MLflow server or database, or may contain secrets, which must not reach logs,
    configurations or databases."""
    if uri in (None, NO_MIRROR):
        return
    assert uri is not None
    scheme, _, rest = uri.partition("://")
    kind = scheme.partition("+")[0].lower()
    if uri.startswith(SQLITE):
        yield from _file_problems(key, uri)
    elif kind in ("http", "https") and (not rest or rest.startswith(("/", ":"))):
        yield Problem(key, shown_uri(uri), "has no host", "write it as http://HOST:5000")
    elif kind in ("http", "https", "postgresql", "mysql", "mssql", "databricks"):
        if not (found := _parsed(uri)):
            yield Problem(
                key,
                shown_uri(uri),
                "contains credentials, or something other than host, port and path, but an "
                "address is written into the run's files and shown",
                "leave them out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment (a database has its own)",
            )
        elif int(found.groupdict().get("port") or 0) > 65535:
            yield Problem(key, shown_uri(uri), "its port is above 65535", "write it as http://HOST:5000")
    elif kind == "sqlite":
        yield Problem(
            key, shown_uri(uri), "has no file", "write it as sqlite:///<file>.db, with a fourth slash if the path is absolute"
        )
    else:
        folder = (
            "MLflow 3 refuses to write into a folder of files"
            if "://" not in uri or kind == "file"
            else f"{printable(kind)!r} is not a supported scheme"
        )
        yield Problem(
            key,
            shown_uri(uri),
            f"is not an MLflow server or database: {folder}",
            "pass sqlite:///<file>.db, http://HOST:5000 or https://HOST, none, or nothing at all",
        )


def _parsed(uri: str) -> re.Match[str] | None:
    """Parses an address that cannot contain secrets; None for any other."""
    address, _, options = uri.partition("?")
    plain = unquote(address)  # decoded first: a password could be written with %40 for @
    for key, value in parse_qsl(options, keep_blank_values=True):
        if key.lower() not in OPTIONS or not VALUE.fullmatch(value):
            return None
    if found := DATABASE.fullmatch(plain):
        return found
    return None if "?" in uri else SERVER.fullmatch(plain) or DATABRICKS.fullmatch(plain)


def _file_problems(key: str, uri: str) -> Iterator[Problem]:
    path = uri.removeprefix(SQLITE)
    if "?" in path:
        yield Problem(
            key,
            shown_uri(uri),
            "has options after a question mark, but an SQLite file takes none",
            "leave it out; a question mark in a path is written %3F, a percent sign %25",
        )
    elif not path or path.endswith("/") or "\0" in unquote(path):
        yield Problem(
            key, shown_uri(uri), "has no file", "write it as sqlite:///<file>.db, with a fourth slash if the path is absolute"
        )


def shown_uri(uri: str) -> str:
    """A URL with secrets hidden, safe to show."""
    if uri.startswith(SQLITE):
        path, mark, _ = uri.partition("?")
        return printable(path) + ("?***" if mark else "")
    scheme = re.match(r"[A-Za-z][\w+.-]*://", uri)
    return uri if HARMLESS.fullmatch(uri) or _parsed(uri) else f"{scheme[0] if scheme else ''}***"
