"""Where the mirror of a run goes: which MLflow, and whether its address is one that can be written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from mat_ds.errors import Problem, printable, raise_if_any

NO_MIRROR = "none"
SQLITE = "sqlite:///"
# An address is taken only where nothing in it could be a secret: a list of secrets would miss the next one.
HOST = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
SERVER = re.compile(rf"https?://{HOST}(?:/[\w.~+ /-]*)?", re.I)
DATABASE = re.compile(rf"(?:postgresql|mysql|mssql)(?:\+\w+)?://(?:{HOST})?(?:/[\w.~ -]*)?")
DATABRICKS = re.compile(r"databricks(?:://[\w.-]+)?")
# What a database's address may say behind a question mark.
OPTIONS = {"sslmode", "sslrootcert", "connect_timeout", "application_name", "charset", "driver", "encrypt",
           "trustservercertificate", "ssl_ca", "ssl_mode"}  # fmt: skip
VALUE = re.compile(r"[\w ./+-]*")
# What can be shown of what is no address.
HARMLESS = re.compile(rf"(?:[a-z][\w+.-]*://)?(?:{HOST}(?=/|$))?[\w./~ -]*", re.I)


def default_uri(run: Path) -> str:
    """The SQLite file beside a run directory."""
    return _address(run.resolve().parent / "mlflow.db")


def mirror_uri(run: Path, configured: str | None) -> str | None:
    """The MLflow that mirrors a run, by its `tracking.uri`; None if there is to be none."""
    if configured == NO_MIRROR:
        return None
    if configured is None:
        return default_uri(run)
    return absolute_uri(configured)


def database_file(uri: str) -> Path | None:
    """The absolute path of an SQLite file; None of anything else.

    In an address `%25` stands for a percent sign. Where the folder meant that way is not there and the one spelt so is, as
    where a path was pasted behind `sqlite:///`, that one is meant.
    """
    if not uri.startswith(SQLITE):
        return None
    spelt = uri.removeprefix(SQLITE)
    read, literal = (Path(path).absolute() for path in (unquote(spelt, errors="surrogateescape"), spelt))
    return literal if literal.parent.is_dir() and not read.parent.is_dir() else read


def absolute_uri(uri: str | None) -> str | None:
    """The same address to a process in another folder."""
    if not uri or next(uri_problems("", uri), None):
        return uri
    file = database_file(uri)
    return _address(file) if file else uri


def client_uri(uri: str) -> str:
    """An address as MLflow's client is to be given it.

    From one of an SQLite file with escapes in it, under the name `sqlite`, it would also make the folder that is spelt like
    them; and SQLAlchemy reads escapes only from 2.1 on, SQLite itself always.
    """
    if not uri.startswith(SQLITE) or "%" not in uri:
        return uri
    if tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1):
        return uri.replace("sqlite:", "sqlite+pysqlite:", 1)
    return f"sqlite+pysqlite:///file:{quote(str(database_file(uri)))}?uri=true"


def is_remote(uri: str | None) -> bool:
    """Whether it is of a server or of a database that is no file."""
    return uri not in (None, NO_MIRROR) and not str(uri).startswith(SQLITE)


def _address(file: Path) -> str:
    """Of an SQLite file: what would end the path, or read as an escape, is escaped."""
    escaped = (c if c.isprintable() and c not in "%?#" else quote(c, errors="surrogateescape") for c in str(file))
    return SQLITE + "".join(escaped)


def check_uri(key: str, uri: str | None) -> None:
    """Raises `UserError` where an address is not one that can be taken."""
    raise_if_any(uri_problems(key, uri))


def uri_problems(key: str, uri: str | None) -> Iterator[Problem]:
    """Whether an address is of an MLflow, and free of what must not be written to a log, a configuration or a database."""
    if uri in (None, NO_MIRROR):
        return
    assert uri is not None
    scheme, _, rest = uri.partition("://")
    kind = scheme.partition("+")[0].lower()
    if uri.startswith(SQLITE):
        yield from _file_problems(key, uri)
    elif kind in ("http", "https") and (not rest or rest.startswith(("/", ":"))):
        yield Problem(key, shown_uri(uri), "names no host", "write it as http://<host>:<port>")
    elif kind in ("http", "https", "postgresql", "mysql", "mssql", "databricks"):
        if not (found := _parsed(uri)):
            yield Problem(
                key,
                shown_uri(uri),
                "holds credentials, or what may be some beside host, port and path, and an "
                "address is written into the run's files and shown",
                "leave them out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment (a database has its own)",
            )
        elif int(found.groupdict().get("port") or 0) > 65535:
            yield Problem(key, shown_uri(uri), "its port is above 65535", "write it as http://<host>:<port>")
    elif kind == "sqlite":
        yield Problem(
            key, shown_uri(uri), "names no file", "write it as sqlite:///<file>.db, with a fourth slash if the path is absolute"
        )
    else:
        folder = (
            "MLflow 3 refuses to write into a folder of files"
            if "://" not in uri or kind == "file"
            else f"{printable(kind)!r} is no such scheme"
        )
        yield Problem(
            key,
            shown_uri(uri),
            f"is no MLflow server or database: {folder}",
            "pass sqlite:///<file>.db, http://<host>:<port> or https://<host>, none, or nothing at all",
        )


def _parsed(uri: str) -> re.Match[str] | None:
    """An address without anything that could be a secret; None of any other."""
    address, _, options = uri.partition("?")
    plain = unquote(address)  # or a password could hide behind %40
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
            "what stands behind a question mark are options, and an SQLite file takes none",
            "leave it out; a question mark in a path is written %3F, a percent sign %25",
        )
    elif not path or path.endswith("/") or "\0" in unquote(path):
        yield Problem(
            key, shown_uri(uri), "names no file", "write it as sqlite:///<file>.db, with a fourth slash if the path is absolute"
        )


def shown_uri(uri: str) -> str:
    """An address as it can be shown, whatever it is."""
    if uri.startswith(SQLITE):
        path, mark, _ = uri.partition("?")
        return printable(path) + ("?***" if mark else "")
    scheme = re.match(r"[A-Za-z][\w+.-]*://", uri)
    return uri if HARMLESS.fullmatch(uri) or _parsed(uri) else f"{scheme[0] if scheme else ''}***"
