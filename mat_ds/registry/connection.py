"""Where MLflow's runs and registry are, and how commands connect to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from mat_ds.errors import Problem, UserError
from mat_ds.registry.latest import DEFAULT_FILE, default_address
from mat_ds.tracking.destination import NO_MIRROR, absolute_uri, check_uri, client_uri, database_file, shown_uri
from mat_ds.tracking.variables import REGISTRY_URI, TRACKING_URI, named


def registry_uri(uri: str | None) -> str:
    """Address of the registry: `uri`, MLFLOW_REGISTRY_URI, or that of the runs."""
    return _checked_address(uri, REGISTRY_URI) if uri is None and named(REGISTRY_URI) else tracking_uri(uri)


def tracking_uri(uri: str | None) -> str:
    """Address of the runs: `uri`, MLFLOW_TRACKING_URI, `runs/mlflow.db`, or the file of the last run here."""
    return _checked_address(uri, TRACKING_URI)


def _checked_address(uri: str | None, variable: str) -> str:
    """`uri`, the value of a variable, or the default; raises `UserError` if it cannot be the address of a registry."""
    key, fix = (variable, "or run this where runs/mlflow.db is") if uri is None else ("--uri", "or leave it out")
    found = named(variable) or default_address() if uri is None else uri
    if found is None:
        raise UserError(Problem(key, None, f"is not set, and here is neither {DEFAULT_FILE} nor a run with such a file",
                                "pass --uri sqlite:///<folder of runs>/mlflow.db, or set it to MLflow's address"))  # fmt: skip
    check_uri(key, found)
    if found == NO_MIRROR:
        raise UserError(Problem(key, found, "is not a registry", f"pass the address of one, {fix}"))
    if (file := database_file(found)) and not file.exists():  # MLflow would create an empty one
        raise UserError(Problem(key, shown_uri(found), "there is no such file", f"pass the address of one that is, {fix}"))
    return str(absolute_uri(found))


def is_default(uri: str) -> bool:
    """Whether it is the registry that is used by default."""
    try:
        return registry_uri(None) == uri
    except UserError:
        return False


def client_of(tracking: str, registry: str | None = None) -> MlflowClient:
    """A client of the runs and of the registry, by default at the same address."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's default of seven retries takes minutes
    return MlflowClient(client_uri(tracking), client_uri(registry or tracking))


@contextmanager
def errors_told(uri: str) -> Iterator[None]:
    """A context that turns errors of MLflow, a database or a request, and a vain wait for one of them, into `UserError`."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, RequestException, TimeoutError) as error:
        told = str(getattr(error, "message", None) or error).strip()
        raise UserError(Problem("the registry", shown_uri(uri), (told.splitlines() or [""])[0],
                                "see what there is with `mat-ds models`, and that the server answers")) from None  # fmt: skip
    except ModuleNotFoundError as error:
        raise UserError(Problem("the registry", shown_uri(uri), f"its database's driver is not installed ({error})",
                                f"pip install {error.name}, or name another registry")) from None  # fmt: skip
